"""Training methods: the interface of a method (`base`), and one module or folder per method."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vpfb_core import names
from vpfb_core.errors import ConfigError
from vpfb_core.methods.vpfb import version_1
from vpfb_core.settings import shown

if TYPE_CHECKING:
    from vpfb_core.methods.base import Method

__all__ = ["build", "find", "gives", "register", "require", "version_1"]


_registered: dict[str, type[Method]] = {}  # the methods of `register`; others are imported as `names.METHODS` says


def register(method: type[Method], *, summary: str, gives: tuple[str, ...]) -> None:
    """Make a method available by its name in this process.

    Args:
        method: the class of the method.
        summary: one line that says what it is.
        gives: the capabilities of its fields: "energy", "flow".
    """
    names.METHODS[method.name] = names.MethodName(summary, method.__module__, method.__name__, gives)
    _registered[method.name] = method


def find(name: str) -> type[Method]:
    """The class of the method of that name.

    Raises:
        ConfigError: there is no such method; the hint suggests the nearest one.
    """
    if name not in names.METHODS:
        near = difflib.get_close_matches(name, names.METHODS, 1)
        meant = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(f"unknown method {shown(name)}", hint=f"{meant}methods: {', '.join(names.METHODS)}")
    if name in _registered:
        return _registered[name]
    row = names.METHODS[name]
    method: type[Method] = getattr(importlib.import_module(row.module), row.attribute)
    return method


def build(name: str, settings: Mapping[str, Any]) -> Method:
    """A method with these settings; the others have their defaults.

    Raises:
        ConfigError: the name or a setting is unknown, or a value does not fit.
    """
    method = find(name)
    return method(method.Settings.from_dict(settings))


def gives(name: str, capability: str) -> bool:
    """Whether the fields of a method have a capability, "energy" or "flow"."""
    row = names.METHODS.get(name)
    return row is not None and capability in row.gives


def require(capability: str, name: str, use: str) -> None:
    """Raise ConfigError if the fields of a method lack a capability.

    Args:
        capability: "energy" or "flow".
        name: the name of the method.
        use: what needs the capability, as the subject of a sentence, such as "out-of-distribution detection".
    Raises:
        ConfigError: the method lacks the capability. The hint names the methods that have it.
    """
    if gives(name, capability):
        return
    what = {"energy": "an energy", "flow": "a flow from noise to data"}[capability]
    raise ConfigError(
        f"{use} needs {what}, which a model trained with --method {name} does not have",
        hint=f"methods that have one: {', '.join(names.methods_with(capability))}",
    )
