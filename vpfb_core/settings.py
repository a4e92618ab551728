"""Groups of settings, each declared once with its limits, choices and help text.

Configuration files, command-line options and error messages all use this one declaration.
"""

from __future__ import annotations

import dataclasses
import operator
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, time
from typing import Any, Self

from vpfb_core.errors import ConfigError, did_you_mean

LARGEST_SEED = 2**63 - 1  # the largest seed of a torch.Generator
_LONGEST_LIST, _MOST_WORDS, _LARGEST_ENTRY = 100, 2**16, 2**20
_LONGEST_SHOWN = 60  # characters of a value in a message
_KINDS = {bool: "true or false", str: "a word", int: "a whole number", float: "a number"}


def setting(
    default: Any,
    *,
    help: str,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[Any, ...] = (),
    operational: bool = False,
    flat: str | None = None,
) -> Any:
    """A field of a `Settings` class.

    Args:
        default: the default value; None where the value is chosen from the data and the machine.
        help: a sentence that says what the setting is.
        low, high: the limits of a number, both included.
        choices: the values that are allowed; () allows any.
        operational: whether the setting says only where and how a run is computed and saved, not what it computes.
            Such a setting may change when a run is resumed.
        flat: the name of the setting where the sections are left out; by default the name of the field.
    """
    about = {
        "help": help, "low": low, "high": high, "choices": choices, "operational": operational, "flat": flat,
    }  # fmt: skip
    return dataclasses.field(default=default, metadata=about)


@dataclass(frozen=True)
class Settings:
    """A group of settings, whose values are checked when the group is created.

    A value is a bool, int, float, str, a tuple of these, or None.

    Raises:
        ConfigError: a value has the wrong type, is out of its limits, or is none of its choices.
    """

    def __post_init__(self) -> None:
        kinds = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            object.__setattr__(self, field.name, _checked(field, kinds[field.name], value))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The settings with these values; the others have their defaults.

        Raises:
            ConfigError: a name is unknown (the hint suggests the nearest one), or a value does not fit.
        """
        names = cls.names()
        return cls(**{require_name(name, names): value for name, value in values.items()})

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names of all settings of the group."""
        return tuple(field.name for field in dataclasses.fields(cls))

    def to_dict(self) -> dict[str, Any]:
        """The values by name, in the order of declaration."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def replace(self, **values: Any) -> Self:
        """A copy with other values. Names and values are checked."""
        return type(self).from_dict(self.to_dict() | values)

    def completed(self, defaults: Mapping[str, Any]) -> Self:
        """A copy in which each value that is None is taken from `defaults`, if they contain it."""
        open_ = {name for name, value in self.to_dict().items() if value is None}
        return self.replace(**{name: value for name, value in defaults.items() if name in open_})


def require_name(name: str, names: Iterable[str]) -> str:
    """Return `name` if it is one of `names`.

    Raises:
        ConfigError: the name is unknown; the hint suggests the nearest one.
    """
    names = list(names)
    if name in names:
        return name
    hint = did_you_mean(name.replace("-", "_"), names).strip() or f"settings: {', '.join(names)}"
    raise ConfigError(f"unknown setting {name!r}", hint=hint)


def whole_number(name: str, value: Any) -> int:
    """A whole number of Python, NumPy or torch as an int.

    Raises:
        ConfigError: the value is something else; the message names it.
    """
    try:
        return operator.index(value)
    except TypeError:
        raise ConfigError(f"{name} = {shown(value)}: expected a whole number") from None


def number(name: str, value: Any) -> float:
    """A number of Python, NumPy or torch as a float.

    Raises:
        ConfigError: the value is something else; the message names it.
    """
    try:
        if not isinstance(value, str):
            return float(value)
    except (TypeError, ValueError, RuntimeError):  # such as an array of several numbers
        pass
    raise ConfigError(f"{name} = {shown(value)}: expected a number")


def require_index(name: str, value: Any) -> int:
    """A number that fixes random numbers, such as a seed or the index of a sample, as an int.

    Raises:
        ConfigError: the value is not a whole number from 0 to `LARGEST_SEED`; the message names it.
    """
    index = whole_number(name, value)
    if not 0 <= index <= LARGEST_SEED:
        raise ConfigError(f"{name} = {shown(index)} is out of range", hint=f"use a value between 0 and {LARGEST_SEED}")
    return index


def require_seed(value: Any) -> int:
    """A seed as an int. Errors are those of `require_index`."""
    return require_index("seed", value)


def shown(value: Any) -> str:
    """A value as text for a message, cut to a readable length."""
    try:
        text = str(value) if isinstance(value, date | time) else repr(value)
    except (ValueError, RecursionError):  # Python refuses to write out an integer of thousands of digits
        return "a value too long to show"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def _checked(field: dataclasses.Field[Any], expected: Any, value: Any) -> Any:
    """The value, converted to the type of its setting and checked against its limits and choices."""
    about, name = field.metadata, field.metadata.get("flat") or field.name
    options = typing.get_args(expected) if isinstance(expected, types.UnionType) else (expected,)
    if value is None and type(None) in options:
        return None
    kind = next(option for option in options if option is not type(None))
    value = _converted(name, kind, value)
    if (choices := about.get("choices")) and value not in choices:
        known = [str(choice) for choice in choices]
        hint = f"{did_you_mean(str(value), known)}choices: {', '.join(known)}"
        wrong = f"unknown {name} {shown(value)}" if kind is str else f"{name} = {shown(value)} is not possible"
        raise ConfigError(wrong, hint=hint)
    low, high = about.get("low"), about.get("high")
    if (low is not None and not value >= low) or (high is not None and not value <= high):  # refuses NaN, too
        limits = f"between {_limit(low)} and {_limit(high)}" if low is not None and high is not None else (
            f"of at least {_limit(low)}" if low is not None else f"of at most {_limit(high)}"
        )  # fmt: skip
        raise ConfigError(f"{name} = {shown(value)} is out of range", hint=f"use a value {limits}")
    return value


def _limit(number: float | None) -> str:
    """A limit as people write it: 1e-12, 0.25, 1,000,000."""
    return f"{int(number):,}" if number is not None and float(number).is_integer() else f"{number:g}"


def _converted(name: str, kind: Any, value: Any) -> Any:
    entry = typing.get_args(kind)[0] if typing.get_origin(kind) is tuple else None
    wrong = ConfigError(f"{name} = {shown(value)}: expected {_described(kind)}")
    if entry is not None:
        if not isinstance(value, list | tuple) or len(value) > (_MOST_WORDS if entry is str else _LONGEST_LIST):
            raise wrong
        if not all(type(item) is entry and (entry is str or 0 < item <= _LARGEST_ENTRY) for item in value):
            raise wrong
        for item in value:
            _require_text(name, item)
        return tuple(value)
    if kind in (bool, str):
        if not isinstance(value, kind):
            raise wrong
        _require_text(name, value)
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong
    if kind is int and isinstance(value, float) and not value.is_integer():
        raise wrong
    try:
        return kind(value)
    except OverflowError:  # an integer too large for a float
        raise wrong from None


def _described(kind: Any) -> str:
    return _KINDS.get(kind, "a list of words" if kind == tuple[str, ...] else "a list of positive whole numbers")


def _require_text(name: str, value: Any) -> None:
    """Raise ConfigError if a string cannot be saved as UTF-8 and used as a file name, which excludes zero bytes."""
    if isinstance(value, str) and ("\0" in value or value.encode("utf-8", "replace").decode() != value):
        raise ConfigError(
            f"{name} = {shown(value)}: expected UTF-8 text, as settings are saved",
            hint="rename the file or folder, or make a link to it: ln -s",
        )
