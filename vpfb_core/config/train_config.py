"""The configuration of a training run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vpfb_core import names
from vpfb_core.config.sections import (
    OPERATIONAL,
    ORDER,
    PARTS,
    SECTIONS,
    DataSettings,
    MachineSettings,
    OptimiserSettings,
    RunSettings,
)
from vpfb_core.config.setting_paths import located, require_setting, settings_of
from vpfb_core.config.toml_files import parse_duration, parse_path
from vpfb_core.errors import ConfigError


@dataclass(frozen=True)
class Part:
    """The network or the method of a run.

    Attributes:
        name: the name of the network or the method; None if it is to be chosen from the data and the machine.
        settings: the settings that were given or chosen, by name.
    """

    name: str | None
    settings: Mapping[str, Any]

    @classmethod
    def of(cls, part: str, name: str | None, settings: Mapping[str, Any]) -> Part:
        """A part whose settings have been checked.

        Args:
            part: "network" or "method".
            name: the name; if that of a network is None, each setting is checked by the first network that has it.
            settings: the settings that were given, by name.
        Raises:
            ConfigError: a name is unknown, or a value does not fit.
        """
        if name is None and part == "method":  # only the network may be left open
            raise ConfigError("method = None: expected a word", hint=f"methods: {', '.join(names.METHODS)}")
        if name is not None:
            for each in settings:
                require_setting(part, name, each)
            checked = settings_of(part, name).from_dict(settings)
            return cls(name, {each: getattr(checked, each) for each in settings})
        kinds = [settings_of(part, network) for network in names.NETWORKS] if settings else []
        found = {}
        for each, value in settings.items():
            kind = next(kind for kind in kinds if each in kind.names())
            found[each] = getattr(kind.from_dict({each: value}), each)
        return cls(None, found)

    def to_dict(self) -> dict[str, Any]:
        """The name and the settings, by name."""
        return {"name": self.name, **self.settings}


class TrainConfig:
    """The settings of a training run.

    Args:
        settings: settings by name, such as lr=1e-3, by path, such as **{"optimiser.lr": 1e-3}, or whole sections as
            dictionaries. `data` may also be an array, a tensor or a set (`held.hold`).
    Raises:
        ConfigError: a setting is unknown (the hint suggests the nearest one), or a value does not fit.
    """

    data: DataSettings
    network: Part
    method: Part
    optimiser: OptimiserSettings
    machine: MachineSettings
    run: RunSettings

    def __init__(self, **settings: Any) -> None:
        sections: dict[str, dict[str, Any]] = {section: {} for section in ORDER}
        for path, value in located(settings).items():
            section, _, name = path.partition(".")
            try:
                sections[section][name] = _PARSERS.get(path, _unchanged)(value)
            except ConfigError as error:
                raise ConfigError(f"{name}: {error.message}", hint=error.hint) from error
        for section, kind in SECTIONS.items():
            setattr(self, section, kind.from_dict(sections[section]))
        for part in PARTS:
            default = names.DEFAULT_METHOD if part == "method" else None
            setattr(self, part, Part.of(part, sections[part].pop("name", default), sections[part]))

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """All settings as sections: section → name → value."""
        return {section: getattr(self, section).to_dict() for section in ORDER}

    def flat(self) -> dict[str, Any]:
        """All settings by path, such as "optimiser.lr"."""
        return {
            f"{section}.{name}": value for section, table in self.to_dict().items() for name, value in table.items()
        }

    def replace(self, **settings: Any) -> TrainConfig:
        """A copy with other settings, given as for the constructor. Names and values are checked.

        A new network or method keeps the settings of the old one that it has as well.
        """
        current = self.flat()
        changed = located(settings, defaults=current)
        for part in PARTS:
            old, new = current[f"{part}.name"], changed.get(f"{part}.name", current[f"{part}.name"])
            if old is not None and new != old:
                kept = {f"{part}.{name}" for name in ("name", *settings_of(part, new).names())}
                current = {
                    path: value for path, value in current.items()
                    if not path.startswith(f"{part}.") or path in kept
                }  # fmt: skip
        return TrainConfig(**current | changed)

    def decisive(self) -> dict[str, Any]:
        """The settings that decide what is computed, by path. The others may change when a run is resumed."""
        return {path: value for path, value in self.flat().items() if path not in OPERATIONAL}

    def requested(self) -> dict[str, Any]:
        """The decisive settings that differ from their defaults, by path."""
        defaults = TrainConfig().flat()
        return {
            path: value for path, value in self.decisive().items() if value is not None and value != defaults.get(path)
        }

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TrainConfig) and self.flat() == other.flat()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        given = ", ".join(f"{path}={value!r}" for path, value in self.requested().items())
        return f"TrainConfig({given})"


def _unchanged(value: Any) -> Any:
    return value


def _source(value: Any) -> Any:
    """The name of data: a name or a path, or the name of data that the program holds in memory.

    Raises:
        ConfigError: the value is neither.
        DataError: the data in memory have another shape or other values.
    """
    if isinstance(value, str | os.PathLike):
        return parse_path(value) if value else value
    if value is None or isinstance(value, int | float):  # it is refused as a value of the wrong type
        return value
    if not hasattr(value, "shape"):
        raise ConfigError(
            f"data of type {type(value).__name__} cannot be used",
            hint="name data, or give a tensor, an array, or vpfb_core.data.from_tensors(images, labels)",
        )
    from vpfb_core.data import held  # here, since it imports torch

    return held.hold(value)


_PARSERS: dict[str, Callable[[Any], Any]] = {
    "optimiser.time_budget": parse_duration,
    "data.source": _source,
    "machine.device": str,
    **dict.fromkeys(("data.data_root", "run.init", "run.out", "run.resume"), parse_path),
}
