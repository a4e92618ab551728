"""The configuration of a training run: one flat table of settings, from TOML, key=value and options.

A setting that is None is chosen from the data and the machine (`training.presets.resolve`).
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpfb_core import names
from vpfb_core.errors import ConfigError

LARGEST_FILE = 2**20  # bytes
_LONGEST_LIST, _LARGEST_WIDTH = 100, 2**20
_LONGEST_SHOWN = 60  # characters of a value in a message

CHOICES: dict[str, tuple[str, ...]] = {
    "preset": ("tiny", "small", "base", "paper", "celeba64"),
    "network": ("unet", "paper-unet"),
    "method": tuple(names.METHODS),
    "objective": names.OBJECTIVES,
    "schedule": names.SCHEDULES,
    "augment": ("auto", "none", "flip"),
    "precision": ("fp32", "bf16"),
    "compile": ("auto", "on", "off"),
    "on_nonfinite": ("stop", "rollback"),
}


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what a training run does.

    Data: data (name, folder or file), size, channels, conditional, augment, val_fraction, data_root (where sets known
    by name lie), download (whether one that is absent may be).
    Network: preset, network, widths, blocks, attention, dropout, position_embedding, patch,
    prototypes (an image of its own for each class).
    Method: method, objective, schedule, floor (σ_min, or ν of the log-homotopy), data_std, angle_mean and angle_std
    (where training draws), condition_dropout, contrast (weight of that objective in the end).
    Optimiser: steps and time_budget (seconds; whichever ends first), batch_size (images; each is drawn with ε and −ε),
    lr, warmup (steps), decay (share of the run over which the rate falls to 0), clip (gradient norm), ema (width of the
    average, relative to the length of the run).
    Machine: device, threads, workers, precision, compile, micro_batch (images that a process differentiates at once;
    the gradient is that of the whole batch).
    Run: seed, out, resume, log_every, save_every and sample_every (steps), keep (earlier states), on_nonfinite.
    """

    data: str = ""
    size: int | None = None
    channels: int | None = None
    conditional: bool = False
    augment: str = "auto"
    val_fraction: float = 0.1
    data_root: str | None = None
    download: bool = True

    preset: str | None = None
    network: str | None = None
    widths: tuple[int, ...] | None = None
    blocks: int | None = None
    attention: tuple[int, ...] | None = None
    dropout: float | None = None
    position_embedding: bool | None = None
    patch: int | None = None
    prototypes: bool | None = None

    method: str = "vpfb"
    objective: str = "stein"
    schedule: str = "ot"
    floor: float | None = None
    data_std: float = 0.5
    angle_mean: float | None = None
    angle_std: float | None = None
    condition_dropout: float | None = None
    contrast: float | None = None

    steps: int | None = None
    time_budget: float | None = None
    batch_size: int | None = None
    lr: float | None = None
    warmup: int | None = None
    decay: float = 0.5
    clip: float = 1.0
    ema: float = 0.05

    device: str = "auto"
    threads: int | None = None
    workers: int | None = None
    precision: str | None = None
    compile: str = "auto"
    micro_batch: int | None = None

    seed: int = 0
    out: str | None = None
    resume: str = "never"
    log_every: int | None = None
    save_every: int | None = None
    sample_every: int | None = None
    keep: int = 1
    on_nonfinite: str = "stop"

    def __post_init__(self) -> None:
        for name, value in self.to_dict().items():
            object.__setattr__(self, name, _checked(name, value))

    def to_dict(self) -> dict[str, Any]:
        """Setting → value, in the order above."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def replace(self, **settings: Any) -> TrainConfig:
        """A copy with other settings; names and values are checked."""
        return dataclasses.replace(self, **{_known(name): value for name, value in settings.items()})


# Settings that say where and how a run is computed and kept, not what it computes: they may differ on resuming.
OPERATIONAL = frozenset(
    {"data_root", "download", "device", "threads", "workers", "compile", "micro_batch", "out",
     "resume", "log_every", "save_every", "sample_every", "keep", "on_nonfinite"}
)  # fmt: skip

# Settings of earlier versions that changed no result; they are ignored.
RETIRED = frozenset({"checkpoint_activations"})

_TYPES = typing.get_type_hints(TrainConfig)
_LIMITS: dict[str, tuple[float, float]] = {
    "size": (4, 1024), "channels": (1, 3), "val_fraction": (0, 0.9), "blocks": (1, 16), "dropout": (0, 0.9),
    "patch": (1, 16), "floor": (1e-6, 0.5), "data_std": (1e-3, 1e3), "angle_mean": (-10, 10), "angle_std": (1e-3, 10),
    "condition_dropout": (0, 1), "contrast": (0, 100), "steps": (1, 1e12), "time_budget": (1, 1e9),
    "batch_size": (1, 1e6), "micro_batch": (1, 1e6), "lr": (1e-12, 10), "warmup": (0, 1e9), "decay": (0, 1),
    "clip": (1e-9, 1e9), "ema": (1e-3, 0.25), "threads": (1, 4096), "workers": (0, 4096),
    "seed": (0, 2**63 - 1), "log_every": (1, 1e9), "save_every": (1, 1e9), "sample_every": (1, 1e9), "keep": (0, 1000),
}  # fmt: skip


def parse_setting(text: str) -> tuple[str, Any]:
    """ "key=value" → (key, value), the value read as TOML where it is TOML, else as a word.

    Raises:
        ConfigError: no "=", or an unknown key.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"{text!r} is not of the form key=value", hint="for example --set lr=5e-4")
    name = _known(name.strip())
    try:
        return name, tomllib.loads(f"value = {value}")["value"]
    except (ValueError, RecursionError):  # of TOML, or a number or a nesting without end
        return name, value.strip()


def read_file(path: Path) -> dict[str, Any]:
    """The settings of a TOML file, one flat table.

    Raises:
        ConfigError: missing, unreadable, not TOML, or a key that does not exist.
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
    except ValueError as error:  # not UTF-8, not TOML, or a number of thousands of digits
        raise ConfigError(f"{path} is not a TOML file: {error}") from error
    return {_known(name, path): value for name, value in settings.items() if name not in RETIRED}


def as_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON would give them back: tuples are lists."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}


def to_toml(settings: Mapping[str, Any]) -> str:
    """Settings as `read_file` reads them; those that are None are left out."""
    given = {name: value for name, value in settings.items() if value is not None}
    # JSON's values are TOML's, but for the one control character that JSON does not escape.
    written = {name: json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f") for name, value in given.items()}
    return "".join(f"{name} = {value}\n" for name, value in written.items())


def merge_levels(levels: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Settings from the lowest level to the highest; each overrides those before it.

    `steps` and `time_budget` are two ways to say how long: a level that gives one replaces the other as well.
    """
    merged: dict[str, Any] = {}
    for level in levels:
        given = {_known(name): value for name, value in level.items() if value is not None}
        if given.keys() & {"steps", "time_budget"}:
            merged.pop("steps", None)
            merged.pop("time_budget", None)
        merged.update(given)
    return merged


def parse_duration(value: float | str) -> float:
    """90, "90s", "10m", "1.5h", "1h30m" → seconds."""
    if isinstance(value, int | float):
        return float(value)
    text = value.strip().lower()
    parts = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m(?:in)?)?(?:(\d+(?:\.\d+)?)s?)?", text)
    if not text or parts is None:
        raise ConfigError(f"{value!r} is not a length of time", hint="for example 90s, 10m, 1h30m")
    hours, minutes, seconds = (float(part or 0) for part in parts.groups())
    return 3600 * hours + 60 * minutes + seconds


def _known(name: str, source: Path | None = None) -> str:
    if name in _TYPES:
        return name
    near = difflib.get_close_matches(name.replace("-", "_"), _TYPES, 1)
    where = f" in {source}" if source else ""
    raise ConfigError(
        f"unknown setting {name!r}{where}",
        hint=f"did you mean {near[0]!r}?" if near else f"settings: {', '.join(_TYPES)}",
    )


def _checked(name: str, value: Any) -> Any:
    """The value in the type of its setting, within its limits."""
    expected = _TYPES[name]
    options = typing.get_args(expected) if isinstance(expected, types.UnionType) else (expected,)
    if value is None and type(None) in options:
        return None
    if name == "time_budget" and isinstance(value, str):
        value = parse_duration(value)
    kind = next(option for option in options if option is not type(None))
    wrong = ConfigError(f"{name} = {_shown(value)}: expected {_describe(kind)}")
    if kind is bool or kind is str:
        if not isinstance(value, kind) or (isinstance(value, str) and not _is_text(value)):
            raise wrong
    elif kind in (int, float):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise wrong
        if kind is int and isinstance(value, float) and not value.is_integer():
            raise wrong
        low, high = _LIMITS[name]
        if not low <= value <= high:
            raise ConfigError(
                f"{name} = {_shown(value)} is out of range", hint=f"it must lie between {low:g} and {high:g}"
            )
        value = kind(value)
    else:
        if not isinstance(value, list | tuple) or len(value) > _LONGEST_LIST:
            raise wrong
        if not all(type(item) is int and 0 < item <= _LARGEST_WIDTH for item in value):
            raise wrong
        value = tuple(value)
    if name in CHOICES and value not in CHOICES[name]:
        near = difflib.get_close_matches(str(value), CHOICES[name], 1)
        meant = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(f"unknown {name} {_shown(value)}", hint=f"{meant}there are: {', '.join(CHOICES[name])}")
    if name == "channels" and value not in (1, 3):
        raise ConfigError(f"channels = {value}: pictures are grey (1) or colour (3)")
    if name == "widths" and not value:
        raise wrong
    return value


def _is_text(value: str) -> bool:
    """Whether a word can be written to a file and name one: no zero, and no bytes that are not UTF-8."""
    return "\0" not in value and value.encode("utf-8", "replace").decode() == value


def _shown(value: Any) -> str:
    """A value for a message: of any length, and in any base."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a whole number of thousands of digits is not written out
        return "a value without end"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


def _describe(kind: Any) -> str:
    names = {bool: "true or false", str: "a word", int: "a whole number", float: "a number"}
    return names.get(kind, "a list of positive whole numbers")
