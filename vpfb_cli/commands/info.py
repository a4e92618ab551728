"""`vpfb info`."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from vpfb_cli import output, signals
from vpfb_cli.models import find, use_threads
from vpfb_cli.options import DATA, DataAccess, Machine, option, path_argument, path_option
from vpfb_cli.output import Output
from vpfb_cli.outputs import require_file
from vpfb_cli.progress import progress
from vpfb_cli.wording import duration
from vpfb_core.errors import CheckpointError, ConfigError, VPFBError, counted
from vpfb_core.model import description, run_log
from vpfb_core.model.lock import is_locked
from vpfb_core.model.runs import Run, builtin_models, list_runs, model_name
from vpfb_core.names import methods_with

if TYPE_CHECKING:
    from rich.console import RenderableType

    from vpfb_core.data import Source
    from vpfb_core.methods.fields import Calibration

UNKNOWN = "unknown"


def info(
    models: Annotated[
        list[str] | None,
        path_argument(
            "MODEL",
            "A run folder, a .safetensors file, or the name of a built-in model. Several runs with --plot.",
            show_default=False,
        ),
    ] = None,
    *,
    plot: Annotated[bool, option("--plot", "Plot", "Draw the training curves of the runs.")] = False,
    out: Annotated[
        str | None, path_option("-o --out FILE.png", "Plot", "The picture.", show_default="plot.png")
    ] = None,
    calibrate: Annotated[
        bool, option("--calibrate", "Calibration", "Calibrate densities and scores, and save them in the model.")
    ] = False,
    match: Annotated[
        list[str] | None,
        option(
            "--match STAT,STAT",
            "Statistics",
            "Give samples the mean brightness, contrast, edges, classes, ... of the data, or a mean of your own "
            "(brightness=0.4), and save that in the model. none removes it.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        path_option(
            "--data DATA", DATA, "Images or rows to calibrate on or to match.", show_default="the training data"
        ),
    ] = None,
    access: DataAccess,
    machine: Machine,
    say: Output,
) -> None:
    """Describe a model, list all runs, or draw the training curves of runs.

    Example:
      vpfb info
      vpfb info runs/001-imgs
      vpfb info --plot runs/001-imgs runs/002-imgs -o both.png
      vpfb info --calibrate runs/001-imgs
      vpfb info --match contrast,edges runs/001-imgs
    """
    models = models or []
    if plot:
        given = {"--calibrate": calibrate, "--match": match, "--data": data}
        if idle := [name for name, value in given.items() if value]:
            raise ConfigError(f"--plot only draws the logs of runs, so it takes no {', '.join(idle)}")
        _plot(say, models, out or "plot.png")
        return
    if out is not None:
        raise ConfigError(f"-o {out} names the file of a plot", hint="add --plot")
    if len(models) > 1:
        raise ConfigError(f"{len(models)} models were named", hint="name one, or draw several runs with --plot")
    model = models[0] if models else None
    if data is not None and not (calibrate or match):
        raise ConfigError(f"--data {data} names images to calibrate on or to match", hint="add --calibrate or --match")
    if calibrate and match:
        raise ConfigError("--calibrate and --match exclude each other", hint="calibrate first, then match")
    if model is None and not (calibrate or match):
        _list(say)
        return
    path = find(say, model)
    if calibrate:
        use_threads(machine)
        with signals.importing():
            from vpfb_core.uses.calibration import calibrate_file
        with progress(say, "calibrating") as bar:
            calibrate_file(
                path,
                data,
                seed=machine.seed,
                device=machine.device,
                on_images=lambda images: _say_what_is_used(say, "calibrating", path, "on", images),
                on_progress=bar.update,
                **access.settings,
            )
    if match:
        _match(say, path, match, data, access, machine)
    _show(say, path)


def _say_what_is_used(say: Output, doing: str, path: Path, how: str, images: Source) -> None:
    """Say which data a model is calibrated on or matched to."""
    for note in images.notes:
        say.note(f"data: {note}")
    say.note(f"{doing} {path} {how} {images.name}, {counted(len(images), images.noun)}")


def _match(
    say: Output, path: Path, statistics: list[str], data: str | None, access: DataAccess, machine: Machine
) -> None:
    """Keep a tilt in the model, or remove it."""
    use_threads(machine)
    with signals.importing():
        from vpfb_core.uses.matching.kept import match_file
    with progress(say, "matching") as bar:
        changed = match_file(
            path,
            statistics,
            data,
            seed=machine.seed,
            device=machine.device,
            on_data=lambda real: _say_what_is_used(say, "matching", path, "to", real),
            on_progress=bar.update,
            **access.settings,
        )
    if not changed:
        say.note(f"{path} has no tilt, so nothing was changed")


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
    status, data, figures = run.status(), None, {}
    with contextlib.suppress(VPFBError):  # it has no model yet, or one that cannot be read
        described = description.read_header(run.model)
        data, figures = described.data, described.about.get("figures", {})
    stopped = status.get("status") == "running" and not is_locked(run)  # its process was killed
    return {
        "run": str(run.path),
        "status": "interrupted" if stopped else status.get("status", UNKNOWN),
        "data": data,
        "step": status.get("step"),
        "val_residual": figures.get("val_residual"),
    }


# --- training curves --------------------------------------------------------------------------------------------------


def _plot(say: Output, models: list[str], out: str) -> None:
    """Draw the curves of runs, or of the newest run if none is named."""
    runs = [_run(name) for name in models] or list_runs()[:1]
    if not runs:
        raise CheckpointError("no run under ./runs", hint="begin one with: vpfb train --data DIR")
    if not models:
        say.note(f"run: {runs[0].path} (the newest run)")
    require_file("-o", out, [".png"], {})
    with signals.importing():
        from vpfb_core.machine.files import write_bytes
        from vpfb_core.uses.plotting.curves import curves
    logs = {str(run.path): run_log.read(run.log) for run in runs}
    for name, log in logs.items():
        if not log.get("step"):
            raise CheckpointError(f"{name} has no readable log.csv", hint="name a run that has begun to train")
    write_bytes(Path(out), curves(logs))
    say.result({"output": out, "runs": list(logs)}, out)


def _run(name: str) -> Run:
    path = Path(name)
    if name in builtin_models():
        hint = f"./{name} is the folder or file" if path.exists() else "vpfb info lists the runs"
        raise CheckpointError(f"'{name}' is a built-in model, which has no log of its training", hint=hint)
    run = Run.of(path) if path.is_file() else Run(path)
    if run is None or not run.exists():
        raise CheckpointError(f"no run {name!r}", hint="vpfb info lists the runs")
    return run


# --- one model --------------------------------------------------------------------------------------------------------


def _show(say: Output, path: Path) -> None:
    described = description.read(path)
    about = described.about
    with signals.importing():  # reading a calibration imports the method
        from vpfb_core.data.kinds import read_statistics

        calibration = described.read_calibration(path)
        statistics = read_statistics(described.statistics)
    unit, unit_name = statistics.unit
    levels = calibration.describe(unit) if calibration else None
    facts: dict[str, Any] = {
        "model": model_name(path),
        "method": described.method,
        "data": described.data,
        "classes": [name for _, classes in described.groups for name in classes],
        "shape": list(described.shape),
        **statistics.facts(),
        "parameters": described.parameters,
        "steps": about.get("step"),
        "init": description.setting_of(about.get("config", {}), "run", "init"),
        "schedule": described.settings.get("schedule"),
        "calibrated": calibration is not None,
        "normaliser": levels,
        "match": _matched(described.tilt),
        "versions": about.get("versions", {}),
        "figures": about.get("figures", {}),
        "seconds": about.get("seconds"),
        "seed": about.get("seed"),
        "device": about.get("device"),
    }
    table = output.table(["", ""], _in_words(facts, calibration))
    say.result(facts, _with_levels(table, levels, unit_name) if levels else table)


def _in_words(facts: dict[str, Any], calibration: Calibration | None) -> list[tuple[str, object]]:
    """The rows of the table that people see."""
    shown = {
        "classes": ", ".join(facts["classes"]) or "none",
        "columns": ", ".join(facts.get("columns", ())),
        "discrete": ", ".join(facts.get("discrete", ())) or "none",
        "shape": "x".join(map(str, facts["shape"])),
        "parameters": f"{facts['parameters']:,}",
        "steps": UNKNOWN if facts["steps"] is None else f"{facts['steps']:,}",
        "init": facts["init"] or "random weights",
        "calibrated": _calibrated(facts["method"], calibration),
        "match": "none"
        if facts["match"] is None
        else ", ".join(f"{name} {each['target']:.4g}" for name, each in facts["match"].items()),
        "versions": ", ".join(f"{name} {version}" for name, version in facts["versions"].items()),
        "figures": ", ".join(f"{_spoken(name)} {_figure(value)}" for name, value in facts["figures"].items()),
        "seconds": UNKNOWN if facts["seconds"] is None else duration(facts["seconds"]),
    }
    names = {"init": "started from", "seconds": "training time"}
    return [
        (names.get(name, name), shown.get(name, UNKNOWN if value is None else value))
        for name, value in facts.items()
        if name != "normaliser"
    ]


def _matched(tilt: dict[str, Any] | None) -> dict[str, dict[str, Any]] | None:
    """The statistics of a kept tilt by name, with what it costs; None without one."""
    if tilt is None:
        return None
    return {
        each["name"]: {"target": each["target"], "nats": tilt["nats"], "rounds": tilt["rounds"]}
        for each in tilt["statistics"]
    }


def _calibrated(method: str, calibration: Calibration | None) -> str:
    if method not in methods_with("free-energy"):
        return f"no: the method {method} has no energy"
    if calibration is None:
        return "no: energies can be compared, but densities are not normalised"
    return f"yes; densities for noise of {calibration.quoted_level:.2g} or more"


def _with_levels(facts: RenderableType, levels: list[dict[str, float | None]], unit: str) -> RenderableType:
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
    columns = ["noise", f"blur ({unit})", "normaliser (nats)", "flow minus normaliser"]
    return Group(facts, "", output.table(columns, rows))


def _spoken(name: str) -> str:
    """The name of a figure in words."""
    return name.replace("val_", "validation ").replace("_", " ")


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
