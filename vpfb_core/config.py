"""The configuration of a training run, read from TOML files, key=value pairs and options.

It has the sections

    [data] [network] [method] [optimiser] [machine] [run]

The settings of [network] and [method] depend on the network and the method that are named there. A setting may be given
without its section: `lr` means `optimiser.lr`. A value that is None is chosen from the data and the machine
(`training.presets.resolve`).
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from dataclasses import fields as fields_of
from pathlib import Path
from typing import Any

from vpfb_core import names
from vpfb_core.errors import ConfigError
from vpfb_core.settings import Settings, require_name, setting, shown

LARGEST_FILE = 2**20  # bytes
RETIRED = frozenset({"checkpoint_activations"})  # in old files; ignored, since they never changed a result


@dataclass(frozen=True)
class DataSettings(Settings):
    """Which data are used, and how they are read."""

    source: str = setting("", help="Name of a data set, a folder or a file.", flat="data")
    size: int | None = setting(None, help="Side of the images in pixels.", low=4, high=1024)
    channels: int | None = setting(None, help="1 for grey, 3 for colour.", choices=(1, 3))
    conditional: bool = setting(False, help="Train with classes.")
    augment: str = setting("auto", help="Random mirroring of images.", choices=("auto", "none", "flip"))
    val_fraction: float = setting(0.1, help="Share of the data that is kept for validation.", low=0, high=0.9)
    data_root: str | None = setting(None, help="Folder of the data sets that are known by name.", operational=True)
    download: bool = setting(True, help="Download a data set that is absent.", operational=True)


@dataclass(frozen=True)
class OptimiserSettings(Settings):
    """The length of the run, and how the weights are updated."""

    steps: int | None = setting(None, help="Number of training steps.", low=1, high=1e12)
    time_budget: float | None = setting(None, help="Length of the run in seconds.", low=1, high=1e9)
    batch_size: int | None = setting(None, help="Data per step, over all processes.", low=1, high=1e6)
    lr: float | None = setting(None, help="Learning rate of Adam.", low=1e-12, high=10)
    warmup: int | None = setting(None, help="Steps over which the learning rate rises.", low=0, high=1e9)
    decay: float = setting(0.5, help="Share of the run over which the learning rate falls to 0.", low=0, high=1)
    clip: float = setting(1.0, help="Largest norm of the gradient.", low=1e-9, high=1e9)
    ema: float = setting(
        0.05, help="Width of the average of the weights, relative to the length of the run.", low=1e-3, high=0.25
    )


@dataclass(frozen=True)
class MachineSettings(Settings):
    """Where and how the run is computed: devices, threads and precision."""

    device: str = setting("auto", help="auto, cpu, cuda, cuda:N or mps.", operational=True)
    threads: int | None = setting(None, help="Number of CPU threads.", low=1, high=4096, operational=True)
    workers: int | None = setting(
        None, help="Number of threads that decode images.", low=0, high=4096, operational=True
    )
    precision: str | None = setting(None, help="Precision of the network in training.", choices=("fp32", "bf16"))
    compile: str = setting("auto", help="Compile the training step.", choices=("auto", "on", "off"), operational=True)
    micro_batch: int | None = setting(
        None, help="Data that a process differentiates at once; the gradient is that of the whole batch.",
        low=1, high=1e6, operational=True,
    )  # fmt: skip


@dataclass(frozen=True)
class RunSettings(Settings):
    """The preset, the seed, and what the run saves."""

    preset: str | None = setting(None, help="Size of the network and length of the run.", choices=names.PRESETS)
    seed: int = setting(0, help="Fixes every random number.", low=0, high=2**63 - 1)
    init: str | None = setting(None, help="Model whose weights the run starts from.")
    out: str | None = setting(None, help="The run folder.", operational=True)
    resume: str = setting("never", help="auto, never, or the folder of a run to continue.", operational=True)
    log_every: int | None = setting(None, help="Steps between lines of the log.", low=1, high=1e9, operational=True)
    save_every: int | None = setting(None, help="Steps between saves.", low=1, high=1e9, operational=True)
    sample_every: int | None = setting(
        None, help="Steps between sample grids and validations.", low=1, high=1e9, operational=True
    )
    keep: int = setting(1, help="Number of earlier saved states that are kept.", low=0, high=1000, operational=True)
    on_nonfinite: str = setting(
        "stop", help="Action after a loss or gradient that is not finite.", choices=("stop", "rollback"),
        operational=True,
    )  # fmt: skip


SECTIONS: dict[str, type[Settings]] = {
    "data": DataSettings,
    "optimiser": OptimiserSettings,
    "machine": MachineSettings,
    "run": RunSettings,
}
PARTS = ("network", "method")  # sections whose settings depend on the name in them
ORDER = ("data", "network", "method", "optimiser", "machine", "run")


@dataclass(frozen=True)
class Part:
    """The network or the method of a run.

    Attributes:
        name: the name of the network or the method; None where it is chosen from the data and the machine.
        settings: the settings that were given or chosen, by name.
    """

    name: str | None
    settings: Mapping[str, Any]

    def get(self, setting: str) -> Any:
        """The value of a setting; None if it was not given."""
        return self.settings.get(setting)


class TrainConfig:
    """The settings of a training run.

    Args:
        settings: settings by name, such as lr=1e-3, or whole sections as dictionaries. Names with a section, such as
            "optimiser.lr", can be given through `of`.
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
        self._fill(located(settings))

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> TrainConfig:
        """The configuration with these settings, by bare name, by dotted name, or as sections."""
        return cls(**settings)

    def _fill(self, values: Mapping[str, Any]) -> None:
        tables: dict[str, dict[str, Any]] = {section: {} for section in ORDER}
        for path, value in values.items():
            section, _, name = path.partition(".")
            tables[section][name] = parse_duration(value) if path == "optimiser.time_budget" else value
        for section, kind in SECTIONS.items():
            setattr(self, section, kind.from_dict(tables[section]))
        for part in PARTS:
            asked = dict(tables[part])
            name = asked.pop("name", names.DEFAULT_METHOD if part == "method" else None)
            setattr(self, part, Part(name, _checked(part, name, asked)))

    def flat(self) -> dict[str, Any]:
        """All settings by their paths, such as "optimiser.lr"."""
        values: dict[str, Any] = {}
        for section in ORDER:
            part = getattr(self, section)
            table = {"name": part.name, **part.settings} if isinstance(part, Part) else part.to_dict()
            values |= {f"{section}.{name}": value for name, value in table.items()}
        return values

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """All settings as sections: section → name → value."""
        tables: dict[str, dict[str, Any]] = {section: {} for section in ORDER}
        for path, value in self.flat().items():
            section, _, name = path.partition(".")
            tables[section][name] = value
        return tables

    def replace(self, **settings: Any) -> TrainConfig:
        """A copy with other settings, given as for the constructor. Names and values are checked.

        Where another network or method is named, it keeps those of the old one's settings that it has as well.
        """
        current = self.flat()
        changed = located(settings, defaults=current)
        if {"method.name", "network.name"} & changed.keys():
            for part in PARTS:
                if changed.get(f"{part}.name", current[f"{part}.name"]) != current[f"{part}.name"] is not None:
                    kept = settings_of(part, changed[f"{part}.name"]).names()
                    current = {
                        path: value for path, value in current.items()
                        if not path.startswith(f"{part}.") or path.partition(".")[2] in kept
                    }  # fmt: skip
        copy = TrainConfig.__new__(TrainConfig)
        copy._fill(current | changed)
        return copy

    def decisive(self) -> dict[str, Any]:
        """The settings that decide what is computed, by path. The others may change when a run is resumed."""
        return {path: value for path, value in self.flat().items() if path not in OPERATIONAL}

    def requested(self) -> dict[str, Any]:
        """The decisive settings that differ from their defaults."""
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


# Settings that say where and how a run is computed and saved, not what it computes. They may change on resuming.
OPERATIONAL = frozenset(
    f"{section}.{field.name}"
    for section, kind in SECTIONS.items()
    for field in fields_of(kind)
    if field.metadata["operational"]
)

_INDEX: dict[str, str] = {  # bare name → path
    field.metadata["flat"] or field.name: f"{section}.{field.name}"
    for section, kind in SECTIONS.items()
    for field in fields_of(kind)
} | {part: f"{part}.name" for part in PARTS}


def settings_of(part: str, name: str) -> type[Settings]:
    """The class of the settings of a network or a method.

    Args:
        part: "network" or "method".
        name: the name of the network or the method.
    Raises:
        ConfigError: there is no network or method of that name, or the name is not a word.
    """
    if not isinstance(name, str):
        raise ConfigError(f"{part} = {shown(name)}: expected a word")
    if part == "method":
        from vpfb_core import methods

        return methods.find(name).Settings
    from vpfb_core import networks

    return networks.find(name).Settings


def _checked(part: str, name: str | None, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Check the values of settings of a network or a method.

    Args:
        name: None where it is still open; then each value is checked by the first network that has the setting.
    Raises:
        ConfigError: an unknown name, or a value that does not fit.
    """
    if name is not None:
        checked = settings_of(part, name).from_dict(asked)
        return {each: getattr(checked, each) for each in asked}
    kinds = [settings_of(part, each) for each in names.NETWORKS] if asked else []
    found = {}
    for each, value in asked.items():
        kind = next(kind for kind in kinds if each in kind.names())
        found[each] = getattr(kind.from_dict({each: value}), each)
    return found


def known_names(method: str | None = None, network: str | None = None) -> dict[str, str]:
    """The path of every setting, by its bare name.

    Args:
        method, network: the method and the network whose settings are included; None includes those of all.
    """
    found = dict(_INDEX)
    for part, name, all_names in (("network", network, names.NETWORKS), ("method", method, tuple(names.METHODS))):
        for each in [name] if name is not None else all_names:
            found |= {setting: f"{part}.{setting}" for setting in settings_of(part, each).names()}
    return found


def located(settings: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Settings by their paths.

    Args:
        settings: settings by bare name, by path, or as sections.
        defaults: a configuration by paths, which names the method and the network where `settings` do not.
    Raises:
        ConfigError: a name is unknown; the hint suggests the nearest one.
    """
    plain: dict[str, Any] = {}
    for name, value in settings.items():
        if name in ORDER and isinstance(value, Mapping):
            plain |= {f"{name}.{inner}": each for inner, each in value.items()}
        elif name not in RETIRED:
            plain[name] = value
    chosen = {part: plain.get(f"{part}.name", plain.get(part, (defaults or {}).get(f"{part}.name"))) for part in PARTS}
    if all(name in _INDEX or name in _INDEX.values() for name in plain):  # no module of a network or method is imported
        known = _INDEX
    else:
        known = known_names(chosen["method"] or names.DEFAULT_METHOD, chosen["network"])
    paths = set(known.values())
    for name in plain.keys() - known.keys() - paths:
        _refuse(name, known, chosen)
    return {name if name in paths else known[name]: value for name, value in plain.items()}


def _refuse(name: str, known: Mapping[str, str], chosen: Mapping[str, str | None]) -> None:
    """Raise the error of a setting that does not exist, or that the chosen network or method does not have."""
    elsewhere = known_names()
    for part in PARTS:
        chosen_name = chosen[part] or (names.DEFAULT_METHOD if part == "method" else None)
        if name in (bare for bare, path in elsewhere.items() if path.startswith(f"{part}.")) and chosen_name:
            raise ConfigError(
                f"the {part} {chosen_name} has no setting {name!r}",
                hint=f"its settings: {', '.join(settings_of(part, chosen_name).names())}",
            )
    require_name(name, known)


def parse_setting(text: str) -> tuple[str, Any]:
    """The key and the value of "key=value". A value that is not TOML is taken as a string.

    Raises:
        ConfigError: the text has no key or no "=".
    """
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise ConfigError(f"{text!r} is not of the form key=value", hint="for example --set lr=5e-4")
    try:
        return name.strip(), tomllib.loads(f"value = {value}")["value"]
    except (ValueError, RecursionError):  # not TOML, too many digits, or nested too deeply
        return name.strip(), value.strip()


def read_file(path: Path) -> dict[str, Any]:
    """The settings of a TOML file by their paths.

    The file may have sections, or all settings at the top level as in files of version 1.

    Raises:
        ConfigError: the file is missing, unreadable or not TOML, or it has an unknown setting.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise ConfigError(f"{path} is larger than {LARGEST_FILE // 1024} KiB: not a configuration")
        settings = tomllib.loads(content.decode("utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror or error}") from error
    except RecursionError as error:
        raise ConfigError(f"{path} is not a configuration: it is nested too deeply") from error
    except ValueError as error:  # not UTF-8, not TOML, or an integer of thousands of digits
        raise ConfigError(f"{path} is not a TOML file: {error}") from error
    try:
        return located(settings)
    except ConfigError as error:
        raise ConfigError(f"{error.message} in {path}", hint=error.hint) from error


def as_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings, or sections of settings, as they look after a round trip through JSON: tuples become lists."""
    return {
        name: as_json(value) if isinstance(value, Mapping) else list(value) if isinstance(value, tuple) else value
        for name, value in settings.items()
    }


def to_toml(sections: Mapping[str, Any]) -> str:
    """Settings as the text of a TOML file, with sections as tables. Settings that are None are left out."""
    lines = []
    for name, value in sections.items():
        if isinstance(value, Mapping):
            lines += ["", f"[{name}]", *_lines(value)]
        else:
            lines += _lines({name: value})
    return "\n".join(lines).lstrip("\n") + "\n"


def _lines(settings: Mapping[str, Any]) -> list[str]:
    # A JSON value is also a TOML value, except for the one control character that JSON does not escape.
    written = {
        name: json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        for name, value in settings.items()
        if value is not None
    }
    return [f"{name} = {value}" for name, value in written.items()]


def merge_levels(levels: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Settings merged from several levels, by their paths.

    Args:
        levels: settings from the lowest level to the highest; each level overrides those before it. `steps` and
            `time_budget` both give the length of a run, so a level that gives one of them replaces both.
    Raises:
        ConfigError: a name is unknown.
    """
    given = [{name: value for name, value in level.items() if value is not None} for level in levels]
    parts: dict[str, Any] = {}
    for level in given:
        for part in PARTS:
            table = level.get(part)
            name = table.get("name") if isinstance(table, Mapping) else level.get(f"{part}.name", table)
            parts |= {f"{part}.name": name} if name is not None else {}
    merged: dict[str, Any] = {}
    for level in given:
        found = located(level, defaults=parts)
        if found.keys() & {"optimiser.steps", "optimiser.time_budget"}:
            merged.pop("optimiser.steps", None)
            merged.pop("optimiser.time_budget", None)
        merged |= found
    return merged


def parse_duration(value: Any) -> Any:
    """The seconds of a duration such as "90", "90s", "10m", "1.5h" or "1h30m".

    A value that is not a string is returned unchanged.

    Raises:
        ConfigError: the string is not a duration.
    """
    if not isinstance(value, str):
        return value
    text = value.strip().lower()
    parts = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m(?:in)?)?(?:(\d+(?:\.\d+)?)s?)?", text)
    if not text or parts is None:
        raise ConfigError(f"{value!r} is not a duration", hint="for example 90s, 10m, 1h30m")
    hours, minutes, seconds = (float(part or 0) for part in parts.groups())
    return 3600 * hours + 60 * minutes + seconds
