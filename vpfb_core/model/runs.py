"""Run folders, model files and built-in models: their paths and their status. torch is not imported."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from vpfb_core import names
from vpfb_core.errors import CheckpointError, ConfigError, DataError, did_you_mean
from vpfb_core.machine.file_names import expanded, label, printable, typed
from vpfb_core.machine.files import is_leftover, require_output_folder

RUNS = Path("runs")
DEFAULT_BUILTIN = "digits"
# Files that an empty folder may contain: the lock of a run that ended before it began, and files of file managers.
_NOTHING = frozenset({".lock", ".DS_Store", "Thumbs.db", "desktop.ini", ".directory"})
_LONGEST_LABEL = 50  # characters of the name of the data in the name of a folder


@dataclass(frozen=True)
class Run:
    """A run folder and the paths of its files."""

    path: Path

    @classmethod
    def of(cls, file: Path) -> Run | None:
        """The run of a model file, which its name and its folder tell; None if it is the file of no run."""
        run = cls(file.parent)
        return run if file in (run.model, run.best) else None

    @property
    def config(self) -> Path:
        """The resolved configuration, in TOML."""
        return self.path / "config.toml"

    @property
    def model(self) -> Path:
        """The model with the averaged weights (EMA), which contains everything that inference needs."""
        return self.path / "model.safetensors"

    @property
    def best(self) -> Path:
        """The model of the step with the lowest validation figure. It is not calibrated."""
        return self.path / "best.safetensors"

    @property
    def state(self) -> Path:
        """The newest saved state, which contains everything that resuming needs."""
        return self.path / "state.safetensors"

    @property
    def progress(self) -> Path:
        """The status of the run (status, step, seconds) as JSON, for people and scripts."""
        return self.path / "state.json"

    @property
    def log(self) -> Path:
        """The losses and validation figures over the run, as CSV."""
        return self.path / "log.csv"

    @property
    def curves(self) -> Path:
        """The plot of the log, as PNG."""
        return self.path / "curves.png"

    @property
    def events(self) -> Path:
        """The folder of the TensorBoard events. It exists only if they were asked for."""
        return self.path / "tensorboard"

    @property
    def samples(self) -> Path:
        """The folder of sample grids."""
        return self.path / "samples"

    @property
    def masks(self) -> Path:
        """The folder of copies of the masks of `run.match`. It exists only if there are any."""
        return self.path / "masks"

    @property
    def card(self) -> Path:
        """The model card, in Markdown."""
        return self.path / "README.md"

    @property
    def skipped(self) -> Path:
        """The image files that could not be read, with reasons. It exists only if there are any."""
        return self.path / "skipped.csv"

    @property
    def lock(self) -> Path:
        """The file that a training process locks, so that no two train in one folder."""
        return self.path / ".lock"

    def exists(self) -> bool:
        """Whether training has begun in this folder."""
        return self.config.is_file()

    def earlier_state(self, age: int) -> Path:
        """The saved state that was the newest one `age` saves ago."""
        return self.path / f"state.{age}.safetensors" if age else self.state

    def status(self) -> dict[str, Any]:
        """The content of `progress`; {} if it is missing or unreadable."""
        try:
            status = json.loads(self.progress.read_text("utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return status if isinstance(status, dict) else {}

    @property
    def finished(self) -> bool:
        """Whether the run has finished."""
        return self.status().get("status") == "finished"


def require_free(run: Run) -> None:
    """Check, before any work, that a new run can begin in a folder: it is missing or empty, and can be written to.

    Raises:
        ConfigError: the folder contains files, which those of the run could replace or be mixed with, or there is none
            yet and its name is that of a file.
        DataError: it is not a folder, or cannot be created or written to.
    """
    require_output_folder(run.path)
    found = sorted(entry.name for entry in run.path.iterdir()) if run.path.is_dir() else []
    found = [name for name in found if name not in _NOTHING and not is_leftover(name)]
    if found:
        others = f" and {len(found) - 3:,} more" if len(found) > 3 else ""
        raise ConfigError(
            f"{run.path} is not empty: it contains {', '.join(map(printable, found[:3]))}{others}",
            hint="name a new or empty folder with `out`",
        )


def list_runs(root: Path = RUNS) -> list[Run]:
    """The runs under `root`, sorted by the time of their last progress, the newest first.

    Raises:
        DataError: the folder cannot be read.
    """
    try:
        folders = list(root.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise DataError(f"cannot read the folder of the runs, {root}: {error.strerror or error}") from error
    dated = [(_last_progress(run), run.path.name, run) for run in map(Run, folders)]
    found = [entry for entry in dated if entry[0] is not None]
    return [run for *_, run in sorted(found, key=lambda entry: entry[:2], reverse=True)]


def _last_progress(run: Run) -> int | None:
    """The time at which a run was last written to, in nanoseconds; None if there is no readable run."""
    times = []
    for file in (run.config, run.progress, run.model):
        try:
            times.append(file.stat().st_mtime_ns)
        except OSError:
            if file == run.config:
                return None
    return max(times)


def new_run(data_name: str, root: Path = RUNS) -> Run:
    """Create the next numbered run folder, runs/NNN-data. Two processes never get the same one."""
    root.mkdir(parents=True, exist_ok=True)
    numbers = [int(path.name.split("-")[0]) for path in root.iterdir() if path.name.split("-")[0].isdecimal()]
    name = label(Path(data_name).name, _LONGEST_LABEL) or "data"
    number = max(numbers, default=0) + 1
    while True:
        path = root / f"{number:03d}-{name}"
        try:
            path.mkdir()
            return Run(path)
        except FileExistsError:
            number += 1


def builtin_models() -> dict[str, Path]:
    """The files of the built-in models, by name."""
    folder = Path(str(files("vpfb_core"))) / "assets"
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def typed_model(path: Path) -> str:
    """The path of a model or of a run as a person types it in a shell, so that it means this path and no name."""
    words = {*builtin_models(), "auto", "never"}
    return typed(f"./{path}" if str(path) in words else path)


def model_name(file: Path) -> str:
    """The name of a model file for people and scripts: that of a built-in model, else its path."""
    return next((name for name, path in builtin_models().items() if path == file), str(file))


def find_model(name: str | os.PathLike[str] | None = None) -> Path:
    """The path of a model file.

    Args:
        name: a built-in name, a .safetensors file or a run folder, in this order of precedence. `vpfb:NAME` is a
            built-in name too, as earlier versions wrote it in configurations. None is the newest run under ./runs that
            has a model, else the built-in model of digits.
    Raises:
        CheckpointError: there is no such model.
        DataError: the folder of the runs cannot be read.
    """
    builtin = {**builtin_models(), **{f"{names.OURS}{each}": path for each, path in builtin_models().items()}}
    if name is None:
        trained = [run.model for run in list_runs() if run.model.is_file()]
        if not trained and DEFAULT_BUILTIN not in builtin:
            raise CheckpointError("no run under ./runs and no built-in model", hint="train one: vpfb train --data DIR")
        return trained[0] if trained else builtin[DEFAULT_BUILTIN]
    if str(name) in builtin:
        return builtin[str(name)]
    path = Path(expanded(os.fspath(name)))
    if path.is_dir():
        run = Run(path)
        if run.model.is_file():
            return run.model
        if run.exists():
            raise CheckpointError(
                f"the run {path} has not written a model yet", hint="let it train until its first save"
            )
        raise CheckpointError(f"{path} is a folder without a model", hint="a run folder contains model.safetensors")
    if not path.exists():
        known = list(builtin_models())
        raise CheckpointError(
            f"no model {str(name)!r}: neither a file, a run folder nor a built-in name",
            hint=f"{did_you_mean(str(name), known)}built-in models: {', '.join(known) or 'none'}; "
            "vpfb info lists the runs",
        )
    return path
