"""The options that several commands share, each written down once.

    def sample(model: ModelOption = None, device: DeviceOption = "auto", json: JsonOption = False, …) -> None:

Square brackets in a help text are Rich's markup: write `\\[` for the sign itself.
"""

from __future__ import annotations

import re
from typing import Annotated

import typer

# The headings in `--help`; a command's own options go below a heading of its own or below one of these.
PANEL_DATA = "Data"
PANEL_MODEL = "Model"
PANEL_MACHINE = "Machine"
PANEL_OUTPUT = "Output"

LARGEST_SEED = 2**63 - 1  # what a torch.Generator takes


def _device_as_written(value: str) -> str:
    """Refuse what is no device's name; whether the device exists is for `vpfb_core` to say, which costs an import."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
        raise typer.BadParameter(f"{value!r} is none of auto, cpu, cuda, cuda:N, mps")
    return value


def at_least_one(value: int | None) -> int | None:
    """Refuse a count below one. Typer's own min= does not repeat the value that was wrong."""
    if value is not None and value < 1:
        raise typer.BadParameter(f"{value} is not at least 1")
    return value


def _seed_in_range(value: int) -> int:
    if not 0 <= value <= LARGEST_SEED:  # not min= and max=, which would print both bounds in every --help
        raise typer.BadParameter(f"{value} is not between 0 and {LARGEST_SEED}")
    return value


ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        show_default="the newest run under ./runs, else digits",
        help="A run folder, a .safetensors file, or a built-in name.",
        rich_help_panel=PANEL_MODEL,
    ),
]
DataRootOption = Annotated[
    str | None,
    typer.Option(
        "--data-root",
        metavar="DIR",
        show_default="VPFB_DATA, else ~/.cache/vpfb",
        help="Where data sets known by name lie.",
        rich_help_panel=PANEL_DATA,
    ),
]
DownloadOption = Annotated[
    bool,
    typer.Option(
        " /--no-download",
        metavar="",
        show_default=False,
        help="Never fetch a data set that is absent.",
        rich_help_panel=PANEL_DATA,
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="DEVICE",
        help=r"auto, cpu, cuda\[:N] or mps.",
        callback=_device_as_written,
        rich_help_panel=PANEL_MACHINE,
    ),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads",
        metavar="N",
        show_default="one a core",
        help="CPU threads.",
        callback=at_least_one,
        rich_help_panel=PANEL_MACHINE,
    ),
]
BatchSizeOption = Annotated[
    int,
    typer.Option(
        "--batch-size", callback=at_least_one, metavar="N", help="Images at once.", rich_help_panel=PANEL_MACHINE
    ),
]
SeedOption = Annotated[
    int,
    typer.Option(
        "--seed",
        metavar="INT",
        help="Fixes every random number; recorded in what is written.",
        callback=_seed_in_range,
        rich_help_panel=PANEL_MACHINE,
    ),
]
JsonOption = Annotated[
    bool,
    typer.Option(
        "--json",
        metavar="",
        help="Print one JSON document on stdout, also on failure; overrides -q.",
        rich_help_panel=PANEL_OUTPUT,
    ),
]
QuietOption = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        metavar="",
        help="Print only the result: no notes, no progress.",
        rich_help_panel=PANEL_OUTPUT,
    ),
]
