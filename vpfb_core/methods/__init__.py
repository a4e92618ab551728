"""Training methods: the interface of a method (`base`, `fields`, `step`), and one module or folder per method."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vpfb_core import names
from vpfb_core.errors import ConfigError, did_you_mean
from vpfb_core.methods.vpfb import version_1
from vpfb_core.settings import require_name, shown

if TYPE_CHECKING:
    from vpfb_core.dynamics.solver import Solver
    from vpfb_core.methods.base import Method, MethodSampling

__all__ = ["build", "choose_sampling", "find", "gives", "register", "require", "version_1"]

_registered: dict[str, type[Method]] = {}  # the methods of `register`; others are imported as `names.METHODS` says


def register(method: type[Method], *, summary: str, gives: tuple[str, ...]) -> None:
    """Make a method available by its name in this process.

    Args:
        method: the class of the method.
        summary: one line that says what it is.
        gives: the capabilities of the method, as in `names.MethodName`.
    """
    options = method.SamplingOptions.names()
    names.METHODS[method.name] = names.MethodName(summary, method.__module__, method.__name__, gives, options)
    _registered[method.name] = method


def find(name: str) -> type[Method]:
    """The class of the method of that name.

    Raises:
        ConfigError: there is no such method; the hint suggests the nearest one.
    """
    if name not in names.METHODS:
        hint = f"{did_you_mean(name, names.METHODS)}methods: {', '.join(names.METHODS)}"
        raise ConfigError(f"unknown method {shown(name)}", hint=hint)
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


def choose_sampling(method: Method, arguments: Mapping[str, Any]) -> tuple[Solver, MethodSampling]:
    """The solver and the options with which a method draws.

    Args:
        method: the method.
        arguments: settings of `Solver.choose` and options of the method, by name.
    Raises:
        ConfigError: a name is unknown, the method has no such option (the hint names the methods that have it), or a
            value does not fit.
    """
    solver = {name: value for name, value in arguments.items() if name in names.SOLVER_ARGUMENTS}
    options = {name: value for name, value in arguments.items() if name not in names.SOLVER_ARGUMENTS}
    own = method.SamplingOptions.names()
    for name in options:
        if others := [each for each, row in names.METHODS.items() if name in row.sampling and name not in own]:
            raise ConfigError(
                f"a model of the method {method.name} is sampled without {name}",
                hint=f"methods that take it: {', '.join(others)}",
            )
        require_name(name, (*names.SOLVER_ARGUMENTS, *own))
    chosen = method.SamplingOptions.from_dict(options)
    return method.choose_solver(chosen, solver), chosen


def gives(name: str, capability: str) -> bool:
    """Whether a method has a capability, such as "flow" (see `names.MethodName`)."""
    row = names.METHODS.get(name)
    return row is not None and row.has(capability)


def require(capability: str, name: str, use: str) -> None:
    """Raise ConfigError if a method lacks a capability.

    Args:
        capability: a capability, as in `names.MethodName`.
        name: the name of the method.
        use: what needs the capability, as the subject of a sentence, such as "out-of-distribution detection".
    Raises:
        ConfigError: the method lacks the capability. The hint names the methods that have it.
    """
    if gives(name, capability):
        return
    what, those = {
        "energy": ("an energy in closed form" if gives(name, "free-energy") else "an energy", "one"),
        "free-energy": ("an energy", "one"),
        "flow": ("a flow from noise to data", "one"),
        "density": ("energies of known normalisation", "them"),
        "code": ("a code of each datum", "one"),
        "tilt": ("a field that can be tilted exactly", "one"),
    }[capability]
    raise ConfigError(
        f"{use} needs {what}, which a model of the method {name} does not have",
        hint=f"methods that have {those}: {', '.join(names.methods_with(capability))}",
    )
