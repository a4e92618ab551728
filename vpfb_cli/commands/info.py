"""`vpfb info`."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vpfb_cli import output, signals
from vpfb_cli.models import open_model
from vpfb_cli.options import DATA, DataAccess, Machine, option
from vpfb_cli.output import Output
from vpfb_cli.wording import duration
from vpfb_core.errors import ConfigError, VPFBError
from vpfb_core.methods.vpfb.normaliser import Normaliser
from vpfb_core.model import description
from vpfb_core.model.runs import Run, builtin_models, find_model, list_runs

if TYPE_CHECKING:
    from rich.console import RenderableType

UNKNOWN = "unknown"


def info(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="A run folder, a .safetensors file, or the name of a built-in model.",
            show_default=False,
        ),
    ] = None,
    *,
    calibrate: Annotated[
        bool, option("--calibrate", "Calibration", "Calibrate densities and scores, and save that in the model.")
    ] = False,
    data: Annotated[
        str | None, option("--data DATA", DATA, "Images to calibrate on.", show_default="the training data")
    ] = None,
    access: DataAccess,
    machine: Machine,
    say: Output,
) -> None:
    """Describe a model; without a name, list the runs.

    Example:
      vpfb info
      vpfb info runs/001-imgs
      vpfb info --calibrate runs/001-imgs
    """
    if data is not None and not calibrate:
        raise ConfigError(f"--data {data} names images to calibrate on", hint="add --calibrate")
    if model is None and not calibrate:
        _list(say)
        return
    path = find_model(model)
    if calibrate:
        _calibrate(say, path, data, access, machine)
    _show(say, path)


# --- all runs ---------------------------------------------------------------------------------------------------------


def _list(say: Output) -> None:
    runs, builtin = [_entry(run) for run in list_runs()], sorted(builtin_models())
    if not runs:
        say.note("no runs under ./runs; begin one with: vpfb train --data DIR")
    rows = [
        (run["run"], run["status"], run["data"] or UNKNOWN, run["step"], _figure(run["val_residual"]))
        for run in runs
    ] + [(name, "built in", name, "", "") for name in builtin]  # fmt: skip
    columns = ["run", "status", "data", "step", "validation residual"]
    say.result({"runs": runs, "builtin": builtin}, output.table(columns, rows))


def _entry(run: Run) -> dict[str, Any]:
    status, about = run.status(), {}
    with contextlib.suppress(VPFBError):  # it has no model yet, or one that cannot be read
        about = description.read(run.model)["about"]
    return {
        "run": str(run.path),
        "status": status.get("status", UNKNOWN),
        "data": _data_name(about),
        "step": status.get("step"),
        "val_residual": about.get("figures", {}).get("val_residual"),
    }


# --- one model --------------------------------------------------------------------------------------------------------


def _show(say: Output, path: Path) -> None:
    document = description.read(path)
    about, kept = document["about"], document.get("normaliser")
    normaliser = Normaliser.from_dict(kept) if kept else None
    levels = normaliser.describe(document["statistics"]["std"]) if normaliser else None
    facts: dict[str, Any] = {
        "model": str(path),
        "data": _data_name(about),
        "classes": [name for group in document["groups"] for name in group["classes"]],
        "shape": document["shape"],
        "parameters": document["parameters"],
        "steps": about.get("step"),
        "schedule": document["homotopy"]["name"],
        "calibrated": normaliser is not None,
        "normaliser": levels,
        "versions": about.get("versions", {}),
        "figures": about.get("figures", {}),
        "seconds": about.get("seconds"),
        "seed": about.get("seed"),
        "device": about.get("device"),
    }
    table = output.table(["", ""], _in_words(facts, normaliser))
    say.result(facts, _with_levels(table, levels) if levels else table)


def _in_words(facts: dict[str, Any], normaliser: Normaliser | None) -> list[tuple[str, object]]:
    """The rows of the table that people see."""
    shown = {
        "classes": ", ".join(facts["classes"]) or "none",
        "shape": "x".join(map(str, facts["shape"])),
        "parameters": f"{facts['parameters']:,}",
        "steps": UNKNOWN if facts["steps"] is None else f"{facts['steps']:,}",
        "calibrated": _calibration(normaliser),
        "versions": ", ".join(f"{name} {version}" for name, version in facts["versions"].items()),
        "figures": ", ".join(f"{_spoken(name)} {_figure(value)}" for name, value in facts["figures"].items()),
        "seconds": UNKNOWN if facts["seconds"] is None else duration(facts["seconds"]),
    }
    names = {"seconds": "training time"}
    return [
        (names.get(name, name), shown.get(name, UNKNOWN if value is None else value))
        for name, value in facts.items()
        if name != "normaliser"
    ]


def _calibration(normaliser: Normaliser | None) -> str:
    if normaliser is None:
        return "no: energies can be compared, but densities are not normalised"
    classes = len(normaliser.constants) - 1
    each = f" and for each of {classes} classes" if classes else ""
    return f"yes, without condition{each}; densities for noise of {normaliser.least_noise:.2g} or more"


def _with_levels(facts: RenderableType, levels: list[dict[str, float | None]]) -> RenderableType:
    """The table of facts, and below it the normaliser at each level of noise."""
    from rich.console import Group

    rows = [
        (
            f"{level['noise']:.2g}",
            f"{level['blur']:.1f}",
            f"{level['constant']:.2f} +/- {level['error']:.2f}",
            ""
            if level["anchor_difference"] is None
            else f"{level['anchor_difference']:+.2f} +/- {level['anchor_error']:.2f}",
        )
        for level in levels
    ]
    columns = ["noise", "blur (grey levels)", "normaliser (nats)", "flow minus normaliser"]
    return Group(facts, "", output.table(columns, rows))


def _data_name(about: dict[str, Any]) -> str | None:
    """What a model was trained on; None if that is not known."""
    return about.get("data", {}).get("name")


def _spoken(name: str) -> str:
    """The name of a figure in words."""
    return name.replace("val_", "validation ").replace("_", " ")


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


# --- calibration ------------------------------------------------------------------------------------------------------


def _calibrate(say: Output, path: Path, source: str | None, access: DataAccess, machine: Machine) -> None:
    """Measure normaliser and reference, and write the model again.

    Raises:
        ConfigError: a built-in model, which is part of the package, or a run that is being trained.
    """
    if path in builtin_models().values():
        raise ConfigError(
            f"{path.stem} is a built-in model, which cannot be changed",
            hint="name a run or a file: vpfb info --calibrate MODEL",
        )
    loaded, name = open_model(say, str(path), machine)
    with signals.importing():
        from vpfb_core import data
        from vpfb_core.data import LoadOptions
        from vpfb_core.training.state import locked
        from vpfb_core.uses.calibration import IMAGES, finish
    source = source or _data_name(loaded.about)
    if source is None:
        raise ConfigError(f"{name} does not say what it was trained on", hint="name the data: --data DATA")
    channels, size, _ = loaded.shape
    conditional = bool(loaded.groups)
    options = LoadOptions(size=size, channels=channels, conditional=conditional, stream=True, **access.settings)
    images = data.find(source, options)
    if (parts := loaded.split_of(images)) is not None:
        trained_on, _ = parts
        images = images.subset(trained_on[LoadOptions(limit=IMAGES).rows(len(trained_on))])
    say.note(f"calibrating {name} on {source}, {len(images):,} images")
    run = Run(path.parent)
    with locked(run) if run.exists() else contextlib.nullcontext():
        finish(loaded, images, machine.seed)
        loaded.save(path)
