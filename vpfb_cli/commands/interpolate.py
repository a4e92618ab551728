"""`vpfb interpolate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vpfb_cli import output, signals
from vpfb_cli.flow_options import (
    AtolOption,
    ClassOption,
    GuidanceOption,
    NfeOption,
    RtolOption,
    SolverOption,
)
from vpfb_cli.models import open_model
from vpfb_cli.options import (
    PANEL_OUTPUT,
    BatchSizeOption,
    DeviceOption,
    JsonOption,
    ModelOption,
    QuietOption,
    SeedOption,
    ThreadsOption,
    at_least_one,
)
from vpfb_cli.output import Output
from vpfb_cli.progress import progress
from vpfb_core.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from vpfb_core.model.trained import Model

PANEL_ENDS = "Ends"
ROWS = 4


def interpolate(
    n: Annotated[
        int, typer.Option("-n", metavar="N", help="Frames a row, both ends included.", rich_help_panel=PANEL_OUTPUT)
    ] = 8,
    out: Annotated[
        str,
        typer.Option(
            "-o",
            "--out",
            metavar="OUT",
            help=".png: a grid, a row from end to end; .gif: the frames one after the other.",
            rich_help_panel=PANEL_OUTPUT,
        ),
    ] = "interpolation.png",
    rows: Annotated[
        int | None,
        typer.Option(
            "--rows",
            callback=at_least_one,
            metavar="R",
            show_default=str(ROWS),
            help="Rows between prior points: row r from sample 2r of the seed to sample 2r + 1.",
            rich_help_panel=PANEL_ENDS,
        ),
    ] = None,
    from_: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="A.png",
            show_default=False,
            help="Begin at this image, encoded by the reverse flow.",
            rich_help_panel=PANEL_ENDS,
        ),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            "--to", metavar="B.png", show_default=False, help="End at this image.", rich_help_panel=PANEL_ENDS
        ),
    ] = None,
    model: ModelOption = None,
    class_: ClassOption = None,
    guidance: GuidanceOption = None,
    solver: SolverOption = None,
    nfe: NfeOption = None,
    rtol: RtolOption = None,
    atol: AtolOption = None,
    batch_size: BatchSizeOption = 256,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    seed: SeedOption = 0,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show the way between two images through the noise that they come from.

    The ends are prior points of the seed, or two images of your own, which
    are cropped and resized to the model's shape and encoded by the reverse
    flow; how well they come back is stated. Between the ends the noise turns
    along the sphere that it lies on.

    Example:
      vpfb interpolate --rows 6 -n 10 -o grid.png
      vpfb interpolate -m digits --class 3 --class 8 --rows 2 -o rows.png
      vpfb interpolate --from a.png --to b.png -n 24 -o way.gif
    """
    say = output.start(json_mode=json, quiet=quiet)
    with signals.importing():
        import torch

        from vpfb_core.machine.files import write_bytes
        from vpfb_core.methods.transport import ENCODING_SOLVER, Solver
        from vpfb_core.uses import pictures
    kind = pictures.output_format(out)
    _check_wishes(n, out, kind, rows, from_, to)
    wished = any(wish is not None for wish in (solver, nfe, rtol, atol))
    chosen = Solver.choose(solver, nfe, rtol, atol) if wished else ENCODING_SOLVER
    loaded, name = open_model(say, model, device, threads)
    if guidance is not None and loaded.groups and not class_:
        say.warn(f"--guidance {guidance:g} guides towards a class, and no --class was named")

    count = ROWS if rows is None and from_ is None else rows or 1
    if class_ and len(class_) > count:
        raise ConfigError(
            f"{len(class_)} classes, but the interpolation has {count} row{'s' if count > 1 else ''}",
            hint="a row has one class; --rows R makes more of them",
        )
    settings: dict[str, Any] = {"guidance": guidance, "batch_size": batch_size} | chosen.wishes
    images, error = _interpolated(say, loaded, from_, to, count, n, seed, class_, settings)
    if kind == "gif":
        content = pictures.gif(torch.stack([pictures.tile(frame) for frame in images.transpose(0, 1)]))
    else:
        content = pictures.png(pictures.tile(images.flatten(0, 1), columns=n))
    write_bytes(Path(out), content)
    if error is not None:
        say.note(f"the two images come back with an RMS error of {error:.4f} (of 1), the worse of them")
    say.result({"model": name, "output": out, "frames": n, "reconstruction_rms": error}, out)


def _check_wishes(n: int, out: str, kind: str, rows: int | None, from_: Path | None, to: Path | None) -> None:
    """Refuse what does not go together before any work is done."""
    if n < 2:
        raise ConfigError(f"-n {n}: a row shows both its ends, so it takes at least 2 frames")
    if kind not in ("png", "gif"):
        raise ConfigError(f"cannot write {out!r}: an interpolation is a .png grid or a .gif", hint="-o way.gif")
    if (from_ is None) != (to is None):
        given, missing = ("--from", "--to") if to is None else ("--to", "--from")
        raise ConfigError(f"{given} needs {missing}", hint="--from A.png --to B.png; without both, prior points")
    if from_ is not None and rows is not None:
        raise ConfigError("--rows and --from exclude each other", hint="two images are the ends of one row")


def _interpolated(
    say: Output,
    loaded: Model,
    from_: Path | None,
    to: Path | None,
    rows: int,
    frames: int,
    seed: int,
    class_: list[str] | None,
    settings: dict[str, Any],
) -> tuple[Tensor, float | None]:
    """The images (rows, frames, C, H, W), and the reconstruction error where the ends are pictures."""
    import torch

    from vpfb_core.data.single import read_image
    from vpfb_core.dynamics.slerp import rms_distance
    from vpfb_core.machine import noise

    ends: Tensor | None = None
    if from_ is not None and to is not None:
        ends = torch.stack([read_image(path, loaded.shape) for path in (from_, to)])
    with progress(say, "interpolating") as bar:
        if ends is None:
            codes = noise.normal(loaded.shape, seed, range(2 * rows))
        else:
            codes = loaded.encode(ends, condition=class_, **settings)
        bar.update(1 / (1 + frames))
        images = loaded.interpolate(codes[::2], codes[1::2], frames, condition=class_, **settings)
        bar.update(1.0)
    if ends is None:
        return images, None
    return images, float(rms_distance(images[0, [0, -1]], ends.float() / 255).max())
