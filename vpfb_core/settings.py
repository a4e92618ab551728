"""Settings with their limits, choices and help beside them: one declaration serves files, options and messages."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from vpfb_core.errors import ConfigError

_LONGEST_LIST, _LARGEST_ENTRY = 100, 2**20
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
    """A field of `Settings`.

    Args:
        default: None where the value is chosen from the data and the machine.
        help: what it is, a sentence.
        low, high: limits of a number, both included.
        choices: the values that exist; () for any.
        operational: it says where and how a run is computed and kept, not what it computes; it may differ on resuming.
        flat: its name where settings of all sections stand side by side; the name of the field if None.
    """
    about = {
        "help": help, "low": low, "high": high, "choices": choices, "operational": operational, "flat": flat,
    }  # fmt: skip
    return dataclasses.field(default=default, metadata=about)


@dataclass(frozen=True)
class Settings:
    """A group of settings, checked when it is made. Values are bool, int, float, str, tuples of them, or None.

    Raises:
        ConfigError: a value of another type, out of its limits, or none of its choices.
    """

    def __post_init__(self) -> None:
        kinds = _kinds(type(self))
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            object.__setattr__(self, field.name, _checked(field, kinds[field.name], value))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The settings of these names, the others at their defaults.

        Raises:
            ConfigError: an unknown name, with the nearest one, or a value that does not fit.
        """
        names = cls.names()
        return cls(**{require_name(name, names): value for name, value in values.items()})

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names of all settings of the group."""
        return tuple(field.name for field in dataclasses.fields(cls))

    @classmethod
    def help_of(cls, name: str) -> str:
        """What a setting is, a sentence."""
        return str(_field(cls, name).metadata["help"])

    def to_dict(self) -> dict[str, Any]:
        """Name → value, in order."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def changed(self) -> dict[str, Any]:
        """Those that differ from their defaults."""
        return {field.name: value for field in dataclasses.fields(self)
                if (value := getattr(self, field.name)) != field.default}  # fmt: skip

    def replace(self, **values: Any) -> Self:
        """A copy with other values; names and values are checked."""
        return type(self).from_dict(self.to_dict() | values)

    def completed(self, defaults: Mapping[str, Any]) -> Self:
        """A copy in which values that are None are taken from `defaults`, where these have one."""
        open_ = {name for name, value in self.to_dict().items() if value is None}
        return self.replace(**{name: value for name, value in defaults.items() if name in open_})


def require_name(name: str, names: Iterable[str], where: str = "") -> str:
    """The name, if it is one of these.

    Raises:
        ConfigError: it is not; with the nearest one.
    """
    names = list(names)
    if name in names:
        return name
    near = difflib.get_close_matches(name.replace("-", "_"), names, 1)
    raise ConfigError(
        f"unknown setting {name!r}{where}",
        hint=f"did you mean {near[0]!r}?" if near else f"settings: {', '.join(names)}",
    )


def shown(value: Any) -> str:
    """A value for a message: of any length, and in any base."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a whole number of thousands of digits is not written out
        return "a value without end"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def _field(settings: type[Settings], name: str) -> dataclasses.Field[Any]:
    return next(field for field in dataclasses.fields(settings) if field.name == name)


def _kinds(settings: type[Settings]) -> dict[str, Any]:
    """The type of each setting, as written."""
    return typing.get_type_hints(settings)


def _checked(field: dataclasses.Field[Any], expected: Any, value: Any) -> Any:
    """The value in the type of its setting, within its limits."""
    about, name = field.metadata, field.metadata.get("flat") or field.name
    options = typing.get_args(expected) if isinstance(expected, types.UnionType) else (expected,)
    if value is None and type(None) in options:
        return None
    kind = next(option for option in options if option is not type(None))
    value = _converted(name, kind, value)
    choices = about.get("choices") or ()
    if choices and value not in choices:
        near = difflib.get_close_matches(str(value), [str(choice) for choice in choices], 1)
        meant = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(
            f"unknown {name} {shown(value)}", hint=f"{meant}choices: {', '.join(str(choice) for choice in choices)}"
        )
    low, high = about.get("low"), about.get("high")
    if (low is not None and not value >= low) or (high is not None and not value <= high):  # NaN is neither
        limits = f"between {low:g} and {high:g}" if low is not None and high is not None else (
            f"at least {low:g}" if low is not None else f"at most {high:g}"
        )  # fmt: skip
        raise ConfigError(f"{name} = {shown(value)} is out of range", hint=f"it must be {limits}")
    return value


def _converted(name: str, kind: Any, value: Any) -> Any:
    entry = typing.get_args(kind)[0] if typing.get_origin(kind) is tuple else None
    wrong = ConfigError(f"{name} = {shown(value)}: expected {_described(kind)}")
    if entry is not None:
        if not isinstance(value, list | tuple) or len(value) > _LONGEST_LIST:
            raise wrong
        if not all(type(item) is entry and (entry is str or 0 < item <= _LARGEST_ENTRY) for item in value):
            raise wrong
        return tuple(value)
    if kind in (bool, str):
        if not isinstance(value, kind) or (isinstance(value, str) and not _is_text(value)):
            raise wrong
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong
    if kind is int and isinstance(value, float) and not value.is_integer():
        raise wrong
    try:
        return kind(value)
    except OverflowError:  # a whole number of thousands of digits
        raise wrong from None


def _described(kind: Any) -> str:
    return _KINDS.get(kind, "a list of positive whole numbers")


def _is_text(value: str) -> bool:
    """Whether a word can be written to a file and name one: no zero byte, and nothing that is not UTF-8."""
    return "\0" not in value and value.encode("utf-8", "replace").decode() == value
