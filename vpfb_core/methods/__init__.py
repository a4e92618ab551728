"""Training methods: the seam (`base`), and one file or folder per method."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vpfb_core import names
from vpfb_core.errors import ConfigError
from vpfb_core.methods.vpfb import version_1

if TYPE_CHECKING:
    from vpfb_core.methods.base import Method

__all__ = ["build", "find", "gives", "register", "require", "version_1"]


_registered: dict[str, type[Method]] = {}  # by `register`, beside those that `names.METHODS` says where to import


def register(method: type[Method], *, summary: str, gives: tuple[str, ...]) -> None:
    """Make a method known by its name, for this process.

    Args:
        summary: what it is, in one line.
        gives: what its fields can do: "energy", "flow".
    """
    names.METHODS[method.name] = names.MethodName(summary, method.__module__, method.__name__, gives)
    _registered[method.name] = method


def find(name: str) -> type[Method]:
    """The method of that name.

    Raises:
        ConfigError: there is none, with the nearest one.
    """
    if name not in names.METHODS:
        near = difflib.get_close_matches(name, names.METHODS, 1)
        meant = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(f"unknown method {name!r}", hint=f"{meant}methods: {', '.join(names.METHODS)}")
    if name in _registered:
        return _registered[name]
    row = names.METHODS[name]
    method: type[Method] = getattr(importlib.import_module(row.module), row.attribute)
    return method


def build(name: str, settings: Mapping[str, Any]) -> Method:
    """A method with these settings, the others at their defaults.

    Raises:
        ConfigError: an unknown name or setting.
    """
    method = find(name)
    return method(method.Settings.from_dict(settings))


def gives(name: str, capability: str) -> bool:
    """Whether the fields of a method have a capability, "energy" or "flow"."""
    row = names.METHODS.get(name)
    return row is not None and capability in row.gives


def require(capability: str, name: str, use: str) -> None:
    """Refuse a use that the fields of a method cannot serve, in one sentence that names the methods that can.

    Args:
        capability: "energy" or "flow".
        name: of the method.
        use: what was asked for, as the subject of a sentence: "out-of-distribution detection".
    Raises:
        ConfigError: the method lacks the capability.
    """
    if gives(name, capability):
        return
    what = {"energy": "an energy", "flow": "a flow from noise to data"}[capability]
    raise ConfigError(
        f"{use} needs {what}, which a model trained with --method {name} does not have",
        hint=f"methods that have one: {', '.join(names.methods_with(capability))}",
    )
