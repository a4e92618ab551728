"""The output of a benchmark: a printed table, and results/<machine kind>/<name>.json with the conditions."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from vpfb_cli.output import jsonable, table
from vpfb_core.api import Model
from vpfb_core.config import located
from vpfb_core.machine import limits

RESULTS = Path(os.environ.get("VPFB_RESULTS") or Path(__file__).parent / "results")


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The parsed arguments, which include --device and --threads. Sets the number of threads if it is given."""
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads or torch.get_num_threads())
    return arguments


def folder(device: torch.device | str = "cpu") -> Path:
    """The folder of results: results/cpu, or results/ and the name of the GPU."""
    device = torch.device(device)
    kind = torch.cuda.get_device_name(device).lower().replace(" ", "-") if device.type == "cuda" else device.type
    path = RESULTS / kind
    path.mkdir(parents=True, exist_ok=True)
    return path


def record(name: str, figures: Any, device: torch.device | str = "cpu") -> None:
    """Write the figures with the command, the commit, the device and the versions."""
    document = {
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *map(_anywhere, sys.argv[1:])]),
        "commit": _commit(),
        "device": {"kind": folder(device).name, "cores": limits.cores(), "threads": torch.get_num_threads()},
        "versions": {"torch": str(torch.__version__), "python": platform.python_version()},
        "figures": _everywhere(jsonable(figures)),
    }
    path = folder(device) / f"{name}.json"
    path.write_text(json.dumps(document, indent=1) + "\n")
    print(f"written: {path}", file=sys.stderr)


def training(model: Model) -> dict[str, Any]:
    """The number of steps, the duration and the figures of the training of a model."""
    return {key: model.about.get(key) for key in ("step", "seconds", "figures")}


def settings(model: Model) -> dict[str, Any]:
    """The settings with which a model was trained, by path, such as "optimiser.lr"."""
    return located(model.about["config"])


def show(columns: list[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table on stdout."""
    Console().print(table(columns, rows))


def _everywhere(figures: Any) -> Any:
    """Figures in which no string is an absolute path."""
    if isinstance(figures, dict):
        return {key: _everywhere(value) for key, value in figures.items()}
    if isinstance(figures, list):
        return list(map(_everywhere, figures))
    return _anywhere(figures) if isinstance(figures, str) else figures


def _anywhere(word: str) -> str:
    """A word without the folders of an absolute path, except the last one."""
    return "/".join(Path(word).parts[-2:]) if Path(word).is_absolute() else word


def _commit() -> str:
    def git(*words: str) -> str:
        ran = subprocess.run(["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
        return ran.stdout.strip()

    return git("rev-parse", "--short", "HEAD") + (" with changes" if git("status", "--porcelain", "-uno") else "")
