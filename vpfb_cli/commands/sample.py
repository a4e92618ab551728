"""`vpfb sample`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vpfb_cli import output, signals
from vpfb_cli.drawn import write_images
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

    from vpfb_core.dynamics.solvers import Solution
    from vpfb_core.model.trained import Model
    from vpfb_core.uses.chains import Chains

PANEL_CHAINS = "Langevin chains"


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
    class_: ClassOption = None,
    guidance: GuidanceOption = None,
    weights: Annotated[
        str,
        typer.Option(
            "--weights", metavar="ema|raw", help="Averaged weights, or the optimiser's.", rich_help_panel="Model"
        ),
    ] = "ema",
    solver: SolverOption = None,
    nfe: NfeOption = None,
    rtol: RtolOption = None,
    atol: AtolOption = None,
    langevin: Annotated[
        int | None,
        typer.Option(
            "--langevin",
            callback=at_least_one,
            metavar="N",
            show_default=False,
            help="Let the samples walk over the data by N steps of MALA before they are written.",
            rich_help_panel=PANEL_CHAINS,
        ),
    ] = None,
    known: Annotated[
        Path | None,
        typer.Option(
            "--known",
            metavar="IMAGE",
            show_default=False,
            help="Keep the known pixels of this image and fill in the others, in N ways.",
            rich_help_panel=PANEL_CHAINS,
        ),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(
            "--mask",
            metavar="MASK",
            show_default=False,
            help="A picture of the size of IMAGE: white where it is known and kept, black where it is filled in.",
            rich_help_panel=PANEL_CHAINS,
        ),
    ] = None,
    batch_size: BatchSizeOption = 256,
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
      vpfb sample -m digits --class 3 --guidance 2 -o threes.png
      vpfb sample -m digits -n 16 --langevin 1000 -o walked.png
      vpfb sample -m digits -n 8 --known three.png --mask upper-half.png
    """
    say = output.start(json_mode=json, quiet=quiet)
    to_stdout = say.binary_stdout("-o -") if out == "-" else None
    with signals.importing():
        from vpfb_core.machine import distributed
        from vpfb_core.methods.transport import Solver
        from vpfb_core.uses import pictures
    kind = pictures.output_format(out)
    _check_wishes(kind, langevin, known, mask, [solver, nfe, rtol, atol])
    chosen = Solver.choose(solver, nfe, rtol, atol)
    loaded, name = open_model(say, model, device, threads, weights)
    if guidance is not None and loaded.groups and not class_:
        say.warn(f"--guidance {guidance:g} guides towards a class, and no --class was named")

    began = time.monotonic()
    drawing: dict[str, Any] = {"condition": class_, "guidance": guidance, "batch_size": batch_size}
    chains: Chains | None = None
    images: list[Tensor] = []
    paths: list[Tensor] = []
    evaluations = 0
    if known is None or mask is None:
        with progress(say, "sampling") as bar:
            for first, drawn, info in _drawn(loaded, n, seed, drawing | chosen.wishes | {"keep_path": kind == "gif"}):
                evaluations += int(info.nfe.sum())
                if kind == "folder" and langevin is None:
                    pictures.write_folder(Path(out), drawn, first)
                else:
                    images.append(drawn)
                if info.path is not None:
                    paths.append(loaded.statistics.to_images(info.path))
                bar.update((first + len(drawn)) / n)
    if not distributed.group().first:
        return
    if known is not None and mask is not None:
        chains = _inpaint(say, loaded, known, mask, n, seed, drawing)
    elif langevin is not None:
        chains = _walk(say, loaded, images, langevin, seed, drawing | chosen.wishes)
    if chains is not None:
        images = [chains.images]
        evaluations += int(chains.nfe.sum())
    _write(kind, out, images, paths, to_stdout)
    document = {
        "model": name,
        "output": out,
        "n": n,
        "nfe": evaluations / n,
        "solver": chosen.method if known is None else "heun",
        "seconds": time.monotonic() - began,
        "seed": seed,
    }
    if chains is not None:
        document |= {
            "acceptance": chains.acceptance,
            "energy_trace": chains.energy_trace(),
            "moved": float(chains.moved.mean()),
        }
    how = document["solver"] if chains is None else f"{document['solver']} and MALA"
    say.note(f"{n} images, {evaluations / n:.0f} evaluations each by {how}, {document['seconds']:.1f} s")
    say.result(document, out)


def _check_wishes(
    kind: str, langevin: int | None, known: Path | None, mask: Path | None, solver: list[object | None]
) -> None:
    """Refuse what does not go together before any work is done."""
    if (known is None) != (mask is None):
        given, missing = ("--known", "--mask") if mask is None else ("--mask", "--known")
        raise ConfigError(
            f"{given} needs {missing}", hint="--known IMAGE --mask MASK: white is kept, black is filled in"
        )
    if known is not None and langevin is not None:
        raise ConfigError("--known and --langevin exclude each other", hint="filling in has Langevin steps of its own")
    if known is not None and any(wish is not None for wish in solver):
        raise ConfigError(
            "--known has levels and steps of its own", hint="leave --solver, --nfe, --rtol and --atol out"
        )
    if kind == "gif" and (known is not None or langevin is not None):
        raise ConfigError(
            "a .gif shows the way of the flow from noise, and chains have none", hint="write .png, .npz or a folder"
        )


def _drawn(loaded: Model, n: int, seed: int, settings: dict[str, Any]) -> Iterator[tuple[int, Tensor, Solution]]:
    """Index of the first image, images, and how they were solved: batch by batch, one for each process of the job.

    The first process gets them all, in order, and the others nothing.
    """
    from vpfb_core.machine import distributed

    group = distributed.group()

    def draw(rows: range, start: int) -> tuple[int, Tensor, Solution]:
        first = start + rows.start
        drawn, info = loaded.sample(len(rows), seed, first=first, return_info=True, **settings)
        return first, drawn, info.require_success()

    at_once = settings["batch_size"] * group.count
    for start in range(0, n, at_once):
        yield from group.sharded(min(at_once, n - start), partial(draw, start=start)) or []


def _inpaint(say: Output, loaded: Model, known: Path, mask: Path, n: int, seed: int, drawing: dict[str, Any]) -> Chains:
    from vpfb_core.data.single import read_known

    image, kept = read_known(known, mask, loaded.shape)
    with progress(say, "filling in") as bar:
        chains = loaded.inpaint(image, kept, n, seed, on_progress=bar.update, **drawing)
    say.note(
        f"{int(kept.sum())} of {kept.numel()} pixels kept; {chains.acceptance:.0%} of the steps accepted; over the "
        f"others, RMS distance {chains.moved.mean():.3f} from the image, {chains.apart:.3f} between two samples"
    )
    return chains


def _walk(say: Output, loaded: Model, images: list[Tensor], steps: int, seed: int, settings: dict[str, Any]) -> Chains:
    import torch

    with progress(say, "walking") as bar:
        chains = loaded.long_run(torch.cat(images), steps, seed, on_progress=bar.update, **settings)
    say.note(
        f"{chains.acceptance:.0%} of the steps accepted; RMS distance walked {chains.moved.mean():.3f}, "
        f"between two samples {chains.apart:.3f}"
    )
    return chains


def _write(kind: str, out: str, images: list[Tensor], paths: list[Tensor], to_stdout: Any) -> None:
    import torch

    from vpfb_core.machine.files import write_bytes
    from vpfb_core.uses import pictures

    if kind == "gif":
        frames = torch.stack([pictures.tile(step) for step in torch.cat(paths, dim=1)])
        write_bytes(Path(out), pictures.gif(frames))
    elif images:  # those of the flow alone are written to a folder as they come
        write_images(kind, out, torch.cat(images), to_stdout)
