"""`vpfb info`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vpfb_cli import output
from vpfb_cli.options import JsonOption, QuietOption
from vpfb_core import checkpoint
from vpfb_core.errors import VPFBError
from vpfb_core.runs import Run, builtin_models, find_model, list_runs


def info(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL", help="A run folder, a .safetensors file, or a built-in name.", show_default=False
        ),
    ] = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show what a model is and how it was made; without a name, list the runs.

    Example:
      vpfb info
      vpfb info runs/001-imgs
    """
    say = output.start(json_mode=json, quiet=quiet)
    if model is None:
        _list(say)
    else:
        _show(say, find_model(model))


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
        about = checkpoint.read_document(run.model, "model")["about"]
    except VPFBError:
        return entry
    return entry | {"data": about["data"]["name"], "val_residual": about["figures"]["val_residual"]}


def _show(say: output.Output, path: Path) -> None:
    document = checkpoint.read_document(path, "model")
    about = document["about"]
    facts = {
        "model": str(path),
        "data": about["data"]["name"],
        "classes": [name for group in document["groups"] for name in group["classes"]],
        "shape": document["shape"],
        "parameters": document["parameters"],
        "steps": about["step"],
        "schedule": document["homotopy"]["name"],
        "calibrated": False,
        "versions": about["versions"],
        "figures": about["figures"],
        "seconds": about["seconds"],
        "seed": about["seed"],
        "device": about["device"],
    }
    shown = facts | {
        "classes": ", ".join(facts["classes"]) or "none",
        "shape": "×".join(map(str, facts["shape"])),
        "parameters": f"{facts['parameters']:,}",
        "versions": ", ".join(f"{name} {version}" for name, version in about["versions"].items()),
        "figures": ", ".join(f"{name} {_figure(value)}" for name, value in about["figures"].items()),
        "seconds": f"{about['seconds']:.0f}",
        "calibrated": "no: energies are comparable, but not normalised",
    }
    say.result(facts, output.table(["", ""], shown.items()))


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
