"""`vpfb sample`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vpfb_cli import output, signals
from vpfb_cli.models import open_model
from vpfb_cli.options import (
    PANEL_MACHINE,
    PANEL_OUTPUT,
    DeviceOption,
    JsonOption,
    ModelOption,
    QuietOption,
    SeedOption,
    ThreadsOption,
    at_least_one,
)
from vpfb_cli.progress import progress

if TYPE_CHECKING:
    from torch import Tensor

FLOW = "Flow"


def sample(
    n: Annotated[
        int,
        typer.Option("-n", callback=at_least_one, metavar="N", help="How many images.", rich_help_panel=PANEL_OUTPUT),
    ] = 64,
    out: Annotated[
        str,
        typer.Option(
            "-o",
            "--out",
            metavar="OUT",
            help=".png: a grid; .npz: an array; .gif: the way from noise; a folder: one PNG each; -: a PNG on stdout.",
            rich_help_panel=PANEL_OUTPUT,
        ),
    ] = "samples.png",
    model: ModelOption = None,
    class_: Annotated[
        list[str] | None,
        typer.Option(
            "--class",
            metavar="NAME",
            help="Class to draw, or several attributes with commas; repeated, they take turns.",
            rich_help_panel="Model",
        ),
    ] = None,
    weights: Annotated[
        str,
        typer.Option(
            "--weights", metavar="ema|raw", help="Averaged weights, or the optimiser's.", rich_help_panel="Model"
        ),
    ] = "ema",
    solver: Annotated[
        str | None,
        typer.Option(
            "--solver",
            metavar="NAME",
            help="euler, midpoint, heun, rk4, ab2 or ab3 with --nfe; bosh3 or dopri5 with --rtol.",
            rich_help_panel=FLOW,
        ),
    ] = None,
    nfe: Annotated[
        int | None,
        typer.Option(
            "--nfe",
            callback=at_least_one,
            metavar="N",
            help="Evaluations of the gradient an image.",
            rich_help_panel=FLOW,
        ),
    ] = None,
    rtol: Annotated[
        float | None, typer.Option("--rtol", metavar="TOL", help="Relative tolerance.", rich_help_panel=FLOW)
    ] = None,
    atol: Annotated[
        float | None,
        typer.Option(
            "--atol", metavar="TOL", help="Absolute tolerance, in deviations of the data.", rich_help_panel=FLOW
        ),
    ] = None,
    batch_size: Annotated[
        int,
        typer.Option(
            "--batch-size", callback=at_least_one, metavar="N", help="Images at once.", rich_help_panel=PANEL_MACHINE
        ),
    ] = 256,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    seed: SeedOption = 0,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Draw images from a model by following its potential from noise.

    Image i depends on the seed and i alone: more images, or another batch size, give the same first ones.

    Example:
      vpfb sample -n 64 -o grid.png
      vpfb sample -m runs/001-imgs -n 1000 -o pictures/ --seed 7
    """
    say = output.start(json_mode=json, quiet=quiet)
    to_stdout = say.binary_stdout("-o -") if out == "-" else None
    with signals.importing():
        from vpfb_core import pictures
        from vpfb_core.flow import Solver
    kind = pictures.output_format(out)
    chosen = Solver.choose(solver, nfe, rtol, atol)
    loaded, name = open_model(say, model, device, threads, weights)

    began = time.monotonic()
    wishes: dict[str, Any] = {"method": chosen.method}
    wishes |= {"nfe": chosen.nfe} if chosen.nfe else {"rtol": chosen.rtol, "atol": chosen.atol}
    images: list[Tensor] = []
    paths: list[Tensor] = []
    evaluations = 0
    with progress(say, "sampling") as bar:
        for first in range(0, n, batch_size):
            drawn, info = loaded.sample(
                min(batch_size, n - first), seed, first=first, condition=class_, batch_size=batch_size,
                keep_path=kind == "gif", return_info=True, **wishes,
            )  # fmt: skip
            info.require_success()
            evaluations += int(info.nfe.sum())
            if kind == "folder":
                pictures.write_folder(Path(out), drawn, first)
            else:
                images.append(drawn)
            if info.path is not None:
                paths.append(loaded.statistics.to_images(info.path))
            bar.update((first + len(drawn)) / n)
    _write(kind, out, images, paths, to_stdout)
    document = {
        "model": name,
        "output": out,
        "n": n,
        "nfe": evaluations / n,
        "solver": chosen.method,
        "seconds": time.monotonic() - began,
        "seed": seed,
    }
    say.note(f"{n} images, {evaluations / n:.0f} evaluations each by {chosen.method}, {document['seconds']:.1f} s")
    say.result(document, out)


def _write(kind: str, out: str, images: list[Tensor], paths: list[Tensor], to_stdout: Any) -> None:
    import torch

    from vpfb_core import pictures
    from vpfb_core.files import write_bytes

    if kind == "gif":
        frames = torch.stack([pictures.tile(step) for step in torch.cat(paths, dim=1)])
        write_bytes(Path(out), pictures.gif(frames))
    elif kind == "npz":
        write_bytes(Path(out), pictures.npz(torch.cat(images)))
    elif kind != "folder":
        grid = pictures.png(pictures.tile(torch.cat(images)))
        if to_stdout is not None:
            to_stdout(grid)
        else:
            write_bytes(Path(out), grid)
