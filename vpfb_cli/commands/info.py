"""`vpfb info`."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vpfb_cli import output, signals
from vpfb_cli.models import open_model
from vpfb_cli.options import (
    PANEL_DATA,
    DataRootOption,
    DeviceOption,
    DownloadOption,
    JsonOption,
    QuietOption,
    SeedOption,
    ThreadsOption,
)
from vpfb_core.errors import ConfigError, VPFBError
from vpfb_core.methods.vpfb.normaliser import Normaliser
from vpfb_core.model import description
from vpfb_core.model.runs import Run, builtin_models, find_model, list_runs

if TYPE_CHECKING:
    from rich.console import RenderableType


def info(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL", help="A run folder, a .safetensors file, or a built-in name.", show_default=False
        ),
    ] = None,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate", metavar="", help="Measure what makes its energies densities, and write it into the model."
        ),
    ] = False,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="DATA",
            show_default="what it was trained on",
            help="Images to calibrate on.",
            rich_help_panel=PANEL_DATA,
        ),
    ] = None,
    data_root: DataRootOption = None,
    download: DownloadOption = True,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    seed: SeedOption = 0,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show what a model is and how it was made; without a name, list the runs.

    Example:
      vpfb info
      vpfb info runs/001-imgs
      vpfb info --calibrate runs/001-imgs
    """
    say = output.start(json_mode=json, quiet=quiet)
    if data is not None and not calibrate:
        raise ConfigError(f"--data {data} says what to calibrate on", hint="add --calibrate")
    if calibrate:
        path = find_model(model)
        _calibrate(say, path, data, data_root, download, device, threads, seed)
        _show(say, path)
    elif model is None:
        _list(say)
    else:
        _show(say, find_model(model))


def _calibrate(
    say: output.Output,
    path: Path,
    source: str | None,
    data_root: str | None,
    download: bool,
    device: str,
    threads: int | None,
    seed: int,
) -> None:
    """Measure normaliser and reference, and write the model again.

    Raises:
        ConfigError: a built-in model, which the package keeps; or a run that is being trained.
    """
    if path in builtin_models().values():
        raise ConfigError(f"{path.stem} is a built-in model", hint="name a run or a file: vpfb info --calibrate MODEL")
    loaded, name = open_model(say, str(path), device, threads)
    with signals.importing():
        from vpfb_core import data
        from vpfb_core.data import LoadOptions
        from vpfb_core.training.state import locked
        from vpfb_core.uses.calibration import IMAGES, finish
    channels, size, _ = loaded.shape
    source = source or _data_name(loaded.about)
    if source is None:
        raise ConfigError(f"{name} does not say what it was trained on", hint="name it: --data DATA")
    options = LoadOptions(
        size=size, channels=channels, conditional=bool(loaded.groups), root=Path(data_root) if data_root else None,
        download=download, stream=True,
    )  # fmt: skip
    images = data.find(source, options)
    if (parts := loaded.split_of(images)) is not None:
        trained_on, _ = parts
        images = images.subset(trained_on[LoadOptions(limit=IMAGES).rows(len(trained_on))])
    say.note(f"calibrating {name} on {source}, {len(images):,} images")
    run = Run(path.parent)
    with locked(run) if run.exists() else contextlib.nullcontext():
        finish(loaded, images, seed)
        loaded.save(path)


def _list(say: output.Output) -> None:
    runs = [_entry(run) for run in list_runs()]
    if not runs:
        say.note("no runs under ./runs; begin one with: vpfb train --data DIR")
    document = {"runs": runs, "builtin": sorted(builtin_models())}
    rows = [
        (run["run"], run["status"], run["data"], run["step"], _figure(run["val_residual"])) for run in runs
    ] + [(name, "built in", name, "", "") for name in sorted(builtin_models())]  # fmt: skip
    say.result(document, output.table(["run", "status", "data", "step", "residual"], rows))


def _entry(run: Run) -> dict[str, Any]:
    status = run.status()
    entry = {
        "run": str(run.path),
        "status": status.get("status", "unknown"),
        "data": None,
        "step": status.get("step"),
        "val_residual": None,
    }
    try:
        about = description.read(run.model)["about"]
    except VPFBError:
        return entry
    return entry | {"data": _data_name(about), "val_residual": about.get("figures", {}).get("val_residual")}


def _show(say: output.Output, path: Path) -> None:
    document = description.read(path)
    about, kept = document["about"], document.get("normaliser")
    normaliser = Normaliser.from_dict(kept) if kept else None
    facts: dict[str, Any] = {
        "model": str(path),
        "data": _data_name(about),
        "classes": [name for group in document["groups"] for name in group["classes"]],
        "shape": document["shape"],
        "parameters": document["parameters"],
        "steps": about.get("step"),
        "schedule": document["homotopy"]["name"],
        "calibrated": normaliser is not None,
        "normaliser": normaliser.describe(document["statistics"]["std"]) if normaliser else None,
        "versions": about.get("versions", {}),
        "figures": about.get("figures", {}),
        "seconds": about.get("seconds"),
        "seed": about.get("seed"),
        "device": about.get("device"),
    }
    shown = {name: "unknown" if value is None else value for name, value in facts.items()} | {
        "classes": ", ".join(facts["classes"]) or "none",
        "shape": "×".join(map(str, facts["shape"])),
        "parameters": f"{facts['parameters']:,}",
        "versions": ", ".join(f"{name} {version}" for name, version in facts["versions"].items()),
        "figures": ", ".join(f"{name} {_figure(value)}" for name, value in facts["figures"].items()),
        "seconds": "unknown" if facts["seconds"] is None else f"{facts['seconds']:.0f}",
        "calibrated": _calibration(normaliser),
    }
    del shown["normaliser"]
    table = output.table(["", ""], shown.items())
    say.result(facts, table if normaliser is None else _with_levels(table, facts["normaliser"]))


def _data_name(about: dict[str, Any]) -> str | None:
    """What a model was trained on; None where that is not known."""
    return about.get("data", {}).get("name")


def _calibration(normaliser: Normaliser | None) -> str:
    if normaliser is None:
        return "no: energies are comparable, but not normalised"
    classes = len(normaliser.constants) - 1
    each = f" and for each of {classes} classes" if classes else ""
    return f"yes, without condition{each}; explicit densities from cot φ = {normaliser.least_noise:.2g} up"


def _with_levels(facts: RenderableType, levels: list[dict[str, float | None]]) -> RenderableType:
    """The table of facts, and below it the normaliser: nats, the blur in grey levels."""
    from rich.console import Group

    rows = [
        (
            f"{level['noise']:.2g}",
            f"{level['angle']:.3f}",
            f"{level['blur']:.1f}",
            f"{level['constant']:.2f} ± {level['error']:.2f}",
            ""
            if level["anchor_difference"] is None
            else f"{level['anchor_difference']:+.2f} ± {level['anchor_error']:.2f}",
        )
        for level in levels
    ]
    columns = ["cot φ", "φ", "blur (grey levels)", "normaliser (nats)", "by the flow, less this"]
    return Group(facts, "", output.table(columns, rows))


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
