"""`vpfb score`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from vpfb_cli import output, signals
from vpfb_cli.models import open_model
from vpfb_cli.options import (
    PANEL_OUTPUT,
    BatchSizeOption,
    DataRootOption,
    DeviceOption,
    DownloadOption,
    JsonOption,
    ModelOption,
    QuietOption,
    SeedOption,
    ThreadsOption,
)
from vpfb_cli.progress import progress
from vpfb_core.errors import ConfigError

WORST_SHOWN = 64  # in the montage
WORST_LISTED = 20  # in the JSON document
WORST_NAMED = 5  # to people


def score(
    source: Annotated[
        str, typer.Argument(metavar="DIR|FILE", help="The images: a folder, a file, or a data set's name.")
    ],
    out: Annotated[
        str,
        typer.Option("-o", "--out", metavar="OUT.csv", help="The table; -: on stdout.", rich_help_panel=PANEL_OUTPUT),
    ] = "scores.csv",
    montage: Annotated[
        Path | None,
        typer.Option(
            "--montage",
            metavar="OUT.png",
            show_default=False,
            help=f"Show the {WORST_SHOWN} that belong least, the worst at the top left, as the model saw them.",
            rich_help_panel=PANEL_OUTPUT,
        ),
    ] = None,
    name: Annotated[
        str,
        typer.Option(
            "--score",
            metavar="NAME",
            help="multiscale, energy, gradient, typicality, density or likelihood.",
        ),
    ] = "multiscale",
    model: ModelOption = None,
    data_root: DataRootOption = None,
    download: DownloadOption = True,
    batch_size: BatchSizeOption = 64,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    seed: SeedOption = 0,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Score every image of a folder: which pictures don't belong?

    Writes a table, worst first: file, score (higher = more
    out-of-distribution), energy (nats, up to a constant), bits per dimension.

    Images are cropped and resized (Lanczos) to the model's shape.

    Example:
      vpfb score ./imgs -o scores.csv --montage worst.png
      vpfb score ./imgs -m runs/001-imgs -o - | head
    """
    say = output.start(json_mode=json, quiet=quiet)
    if out == "-" and json:
        raise ConfigError("-o - and --json both want stdout", hint="write to a file, or leave --json out")
    if montage is not None and montage.suffix.lower() != ".png":
        raise ConfigError(f"cannot write '{montage}': the montage is a .png file")
    with signals.importing():
        from vpfb_core import data
        from vpfb_core.machine.files import write_bytes
        from vpfb_core.uses import pictures
        from vpfb_core.uses.ood import report
        from vpfb_core.uses.ood.scores import find_score, require_ready
    find_score(name)
    loaded, model_name = open_model(say, model, device, threads)
    require_ready(loaded, name)
    channels, size, _ = loaded.shape
    root = Path(data_root) if data_root else None
    images = data.load(source, size=size, channels=channels, split="all", root=root, download=download)
    for note in images.notes:
        say.note(note)
    with progress(say, "scoring") as bar:
        judged = report.judge(
            loaded, images, name, seed=seed, batch_size=batch_size, on_batch=lambda n: bar.update(n / len(images))
        )
    if loaded.normaliser is None:
        say.warn("the model's density is not calibrated, so bits_per_dim is empty: vpfb info --calibrate MODEL")
    else:
        say.note(f"bits_per_dim speaks of images blurred by {loaded.blur():.2g} grey levels")
    table = report.judged_table(judged)
    if out != "-":
        write_bytes(Path(out), table)
    if montage is not None:
        worst = images.images[[one.index for one in judged[:WORST_SHOWN]]]
        write_bytes(montage, pictures.png(pictures.tile(worst.float() / 255)))
    say.note(f"{len(judged):,} images; least at home: {', '.join(one.file for one in judged[:WORST_NAMED])}")
    listed = [{key: value for key, value in asdict(one).items() if key != "index"} for one in judged[:WORST_LISTED]]
    document = {"model": model_name, "output": out, "n": len(judged), "worst": listed}
    say.result(document, table.decode("utf-8", "replace").rstrip("\n") if out == "-" else out)
