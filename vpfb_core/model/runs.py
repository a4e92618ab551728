"""Where models are: run folders, files, and the models in the package. Knows paths and small JSON, no tensors."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from vpfb_core.errors import CheckpointError

RUNS = Path("runs")
DEFAULT_BUILTIN = "digits"
_LONGEST_LABEL = 50  # characters of what data is called, in the name of a folder


@dataclass(frozen=True)
class Run:
    """A run folder: what training writes, and what resuming and inference read."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration, TOML."""
        return self.path / "config.toml"

    @property
    def model(self) -> Path:
        """EMA weights and all that inference needs."""
        return self.path / "model.safetensors"

    @property
    def best(self) -> Path:
        """The same of the step at which the held-out residual was least; not calibrated."""
        return self.path / "best.safetensors"

    @property
    def state(self) -> Path:
        """All that resuming needs."""
        return self.path / "state.safetensors"

    @property
    def progress(self) -> Path:
        """Beside the state, for people and scripts: status, step, seconds. JSON."""
        return self.path / "state.json"

    @property
    def log(self) -> Path:
        return self.path / "log.csv"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    @property
    def card(self) -> Path:
        return self.path / "README.md"

    @property
    def skipped(self) -> Path:
        """Every image file that could not be read, and why; there if there are any."""
        return self.path / "skipped.csv"

    @property
    def lock(self) -> Path:
        return self.path / ".lock"

    def exists(self) -> bool:
        """Whether training has begun here."""
        return self.config.is_file()

    def earlier_state(self, age: int) -> Path:
        """The state that was the newest `age` saves ago."""
        return self.path / f"state.{age}.safetensors" if age else self.state

    def status(self) -> dict[str, Any]:
        """What `progress` says; {} if it is missing or unreadable."""
        try:
            status = json.loads(self.progress.read_text("utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return status if isinstance(status, dict) else {}

    @property
    def finished(self) -> bool:
        return self.status().get("status") == "finished"


def list_runs(root: Path = RUNS) -> list[Run]:
    """The runs under `root`, newest first by the time of their last progress."""
    try:
        folders = list(root.iterdir())
    except OSError:
        return []
    dated = [(_last_progress(run), run.path.name, run) for run in map(Run, folders)]
    found = [entry for entry in dated if entry[0] is not None]
    return [run for *_, run in sorted(found, key=lambda entry: entry[:2], reverse=True)]


def _last_progress(run: Run) -> int | None:
    """When a run was last written to, in nanoseconds; None where there is no run, or one that may not be read."""
    times = []
    for file in (run.config, run.progress, run.model):
        try:
            times.append(file.stat().st_mtime_ns)
        except OSError:
            if file == run.config:
                return None
    return max(times)


def new_run(data_name: str, root: Path = RUNS) -> Run:
    """Make the next numbered folder, runs/NNN-data; two processes never get the same one."""
    root.mkdir(parents=True, exist_ok=True)
    numbers = [int(path.name.split("-")[0]) for path in root.iterdir() if path.name.split("-")[0].isdecimal()]
    label = "".join(c if c.isalnum() or c in "._" else "-" for c in Path(data_name).name).strip("-.") or "data"
    label = label[:_LONGEST_LABEL]
    number = max(numbers, default=0) + 1
    while True:
        path = root / f"{number:03d}-{label}"
        try:
            path.mkdir()
            return Run(path)
        except FileExistsError:
            number += 1


def builtin_models() -> dict[str, Path]:
    """The models in the package, by name."""
    folder = Path(str(files("vpfb_core"))) / "assets"
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def find_model(name: str | os.PathLike[str] | None = None) -> Path:
    """The model file that a person means.

    Args:
        name: a .safetensors file, a run folder, or a built-in name; a bare word that is a built-in name is that. None:
            the newest run under ./runs that has a model, else the built-in digits.
    Raises:
        CheckpointError: nothing there.
    """
    builtin = builtin_models()
    if name is None:
        trained = [run.model for run in list_runs() if run.model.is_file()]
        if not trained and DEFAULT_BUILTIN not in builtin:
            raise CheckpointError("no run under ./runs and no built-in model", hint="train one: vpfb train --data DIR")
        return trained[0] if trained else builtin[DEFAULT_BUILTIN]
    if str(name) in builtin:
        return builtin[str(name)]
    path = Path(name)
    if path.is_dir():
        run = Run(path)
        if run.model.is_file():
            return run.model
        if run.exists():
            raise CheckpointError(
                f"the run {path} has not written a model yet", hint="let it train until its first save"
            )
        raise CheckpointError(f"{path} is a folder without a model", hint="a run folder holds model.safetensors")
    if not path.exists():
        raise CheckpointError(
            f"no model {str(name)!r}: neither a file, a run folder nor a built-in name",
            hint=f"built in: {', '.join(builtin) or 'none'}; `vpfb info` lists the runs",
        )
    return path
