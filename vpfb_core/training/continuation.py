"""Which run is continued, and with which settings and data."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpfb_core import methods
from vpfb_core.config import OPERATIONAL, TrainConfig, as_json, located, read_file
from vpfb_core.data import SETS, canonical, held
from vpfb_core.errors import ConfigError, DataError, VPFBError
from vpfb_core.machine.devices import available_devices
from vpfb_core.machine.file_names import real
from vpfb_core.machine.files import require_writable_folder
from vpfb_core.model import description, run_data
from vpfb_core.model.runs import RUNS, Run, list_runs, require_free

LENGTH = ("optimiser.steps", "optimiser.time_budget")  # a resumed run may be given a larger value of these
# These are chosen again when a run is resumed on another machine.
MACHINE = tuple(f"machine.{name}" for name in ("device", "threads", "workers", "micro_batch", "compile"))
SOURCE = "data.source"  # data are recognised by their content, and may be moved

Fingerprint = Callable[[TrainConfig], str]  # of the data of a configuration


@dataclass(frozen=True)
class Continuation:
    """How a run is begun or continued.

    Attributes:
        config: the configuration; that of the run, if one is continued.
        requested: the settings that the user gave, as JSON values by path. A run is found again by them.
        existing: the run to continue, or None to begin a new one.
        notes: what the user should know, in plain words.
    """

    config: TrainConfig
    requested: dict[str, Any]
    existing: Run | None
    notes: tuple[str, ...] = ()


def find(config: TrainConfig, fingerprint: Fingerprint) -> Continuation:
    """The run to continue, if there is one.

    Args:
        config: the configuration that the user asks for.
        fingerprint: reads the data of a configuration and returns their fingerprint.
    Raises:
        ConfigError: there is no such run, or it differs in a setting.
        DataError: the data of the run are no longer where they were, and the user names no other location.
    """
    requested = as_json(config.requested())
    existing = _run_to_resume(config, requested, fingerprint)
    if existing is None:
        return Continuation(config, requested, None)
    continued = _stored_config(existing, config, requested)
    notes = _moved(existing, continued.data.source)
    if config.machine.compile != "on" and _only_seems_compiled(continued):
        continued = continued.replace(**{"machine.compile": "off"})
        notes += (f"{existing.path} was saved with `compile=on`, which had no effect; it goes on with `compile=off`",)
    at_its_beginning = _requested_by(existing) or requested
    if length := {path: requested[path] for path in LENGTH if path in requested}:
        at_its_beginning = {path: value for path, value in at_its_beginning.items() if path not in LENGTH} | length
    at_its_beginning = at_its_beginning | {SOURCE: continued.data.source}
    return Continuation(continued, at_its_beginning, existing, notes)


def _run_to_resume(config: TrainConfig, requested: dict[str, Any], fingerprint: Fingerprint) -> Run | None:
    """The run to continue: that of `resume`, that in `out`, or the newest unfinished one with the same settings."""
    if config.run.resume not in ("auto", "never"):
        run = Run(Path(config.run.resume))
        if not run.exists():
            raise ConfigError(f"no run to resume at {run.path}", hint="`resume` takes a run folder, auto or never")
        if config.run.out is not None and real(config.run.out) != real(run.path):
            raise ConfigError(
                f"`resume={run.path}` goes on in that folder, so it takes no `out={config.run.out}`",
                hint="leave `out` out, or begin another run from its weights: `init=MODEL` with `out=FOLDER`",
            )
        return run
    if config.run.out is not None:
        run = Run(Path(config.run.out))
        if not run.exists():
            require_free(run)
            return None
        if config.run.resume == "never":
            raise ConfigError(
                f"{run.path} already holds a run", hint="`resume=auto` continues it; `out` takes another folder"
            )
        return run
    found = _newest_unfinished(config, requested, fingerprint) if config.run.resume == "auto" else None
    if found is None:
        require_writable_folder(RUNS)
    return found


def _newest_unfinished(config: TrainConfig, requested: dict[str, Any], fingerprint: Fingerprint) -> Run | None:
    """The newest unfinished run with the same settings, and with the same data, by their location or content."""
    settings = _without_source(requested)
    runs = [run for run in list_runs(RUNS) if not run.finished and _without_source(_requested_by(run)) == settings]
    source = config.data.source
    for run in runs:
        if run_data.is_at(run, source) or (_requested_by(run) or {}).get(SOURCE) == source:
            return run
    return next((run for run in runs if _has_content(run, source, fingerprint)), None)


def _without_source(settings: dict[str, Any] | None) -> dict[str, Any] | None:
    return None if settings is None else {path: value for path, value in settings.items() if path != SOURCE}


def _has_content(run: Run, source: str, fingerprint: Fingerprint) -> bool:
    """Whether the data at a path are those of a run, wherever they were then."""
    try:
        began_with = description.read_header(run.model).about.get("data", {}).get("fingerprint")
        stored = TrainConfig(**read_file(run.config))
        if began_with is None or _is_name(source) or _is_name(stored.data.source):
            return False
        return fingerprint(stored.replace(**{SOURCE: source})) == began_with
    except VPFBError:  # no model yet, a damaged file, or data that do not fit the settings of the run
        return False


def _is_name(source: str) -> bool:
    """Whether data are known by a name and not by a path."""
    return canonical(source) in SETS


def _moved(run: Run, source: str) -> tuple[str, ...]:
    """A note if the data of a run were elsewhere when it was last trained."""
    if run_data.is_at(run, source) or (was := run_data.recorded_path(run)) is None:
        return ()
    return (f"the data of {run.path} were at '{was}' before",)


def _requested_by(run: Run) -> dict[str, Any] | None:
    """The settings that the user gave when a run began, by path; None if they are not known.

    Files of version 1 have settings without sections.
    """
    try:
        return as_json(located(run.status().get("requested", {})))
    except (ConfigError, AttributeError):
        return None


def _stored_config(run: Run, config: TrainConfig, requested: dict[str, Any]) -> TrainConfig:
    """The stored configuration of a run, with the length, the operational settings and the data of the new one.

    Args:
        run: the run to continue.
        config: the new configuration.
        requested: the settings that the user gave in it.
    Raises:
        ConfigError: another setting differs from that of the run, or the run is already as long as the new length.
        DataError: the data are no longer where they were, and the new configuration names no other location.
    """
    stored = _with_added_settings(TrainConfig(**read_file(run.config)))
    stored = stored.replace(**{SOURCE: _source(run, stored.data.source, config.data.source)})
    kept, asked, defaults = as_json(stored.flat()), config.flat(), TrainConfig().flat()
    for path, value in requested.items():
        if path not in LENGTH and kept.get(path) != value:
            raise ConfigError(
                f"the run {run.path} has {path} = {_shown(kept.get(path))}, not {_shown(value)}",
                hint="leave the setting out to resume this run, or use `out=FOLDER` to begin another one",
            )
    length = {path: asked[path] for path in LENGTH if asked[path] is not None}
    if any(kept[path] != value for path, value in length.items()):
        _require_longer(run, length)
        stored = stored.replace(**dict.fromkeys(LENGTH)).replace(**length)
    if _was_elsewhere(run, stored):
        stored = stored.replace(**{path: defaults[path] for path in MACHINE})
    return stored.replace(**{path: asked[path] for path in OPERATIONAL if asked[path] != defaults[path]})


def _source(run: Run, stored: str, asked: str) -> str:
    """The data of a run as they are named from here.

    What the user names is taken if it can be the data of the run: if it is the same set, or if both are paths. Whether
    the content is the same is seen when the data are read.

    Args:
        run: the run.
        stored: the data as the run names them.
        asked: the data as the user names them; "" if not at all.
    """
    if asked and (run_data.is_at(run, asked) or not (_is_name(stored) or _is_name(asked))):
        return asked
    if asked:
        return stored
    found = run_data.find(run, stored)
    if found is None:
        if stored.startswith(held.PREFIX):
            raise DataError(
                f"the data of {run.path} were in the memory of a program",
                hint=f"give them again: TrainConfig(data=..., resume='{run.path}')",
            )
        was = run_data.recorded_path(run) or stored
        raise DataError(
            f"the data of {run.path} are no longer at '{was}'",
            hint=f"name the folder where they are now: vpfb train --resume {run.path} --data FOLDER",
        )
    return found


def _with_added_settings(stored: TrainConfig) -> TrainConfig:
    """The configuration of a run, in which settings that are newer than the run leave it as it was."""
    of_method = methods.find(str(stored.method.name)).added_settings()
    added = {f"method.{name}": value for name, value in of_method.items()} | {"optimiser.algorithm": "adam"}
    known = stored.flat()
    return stored.replace(**{path: value for path, value in added.items() if known.get(path) is None})


def _only_seems_compiled(config: TrainConfig) -> bool:
    """Whether a run is saved as compiled although no step of its method is. Earlier versions accepted that."""
    method = methods.build(str(config.method.name), config.method.settings)
    return config.machine.compile == "on" and not method.compilable


def _require_longer(run: Run, length: Mapping[str, float]) -> None:
    """Raise ConfigError if a run is already as long as its new length."""
    status = run.status()
    for path, done in (("optimiser.steps", status.get("step")), ("optimiser.time_budget", status.get("seconds"))):
        if path in length and isinstance(done, int | float) and length[path] <= done:
            unit = "steps" if path == "optimiser.steps" else "seconds"
            raise ConfigError(
                f"the run {run.path} has already taken {done:,.0f} {unit}, so it cannot go on to {length[path]:,.0f}",
                hint=f"ask for more {unit}: the length is that of the whole run, not of what is added",
            )


def _was_elsewhere(run: Run, stored: TrainConfig) -> bool:
    """Whether the last session of a run was on another machine, or on a device that does not exist here."""
    host = run.status().get("host")
    return (host is not None and host != platform.node()) or stored.machine.device not in available_devices()


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)
