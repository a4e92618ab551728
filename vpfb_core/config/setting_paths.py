"""The paths of settings, such as `optimiser.lr`, and the bare names that stand for them, such as `lr`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields as fields_of
from typing import Any, NoReturn

from vpfb_core import names
from vpfb_core.config.sections import ORDER, PARTS, SECTIONS
from vpfb_core.errors import ConfigError, did_you_mean
from vpfb_core.settings import Settings, require_name, shown

RETIRED = frozenset({"checkpoint_activations"})  # settings of files of version 1, ignored since they change no result

# The paths by bare name, without those of the settings of networks and methods.
_COMMON: dict[str, str] = {
    field.metadata["flat"] or field.name: f"{section}.{field.name}"
    for section, kind in SECTIONS.items()
    for field in fields_of(kind)
} | {part: f"{part}.name" for part in PARTS}


def located(settings: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The values of settings by path.

    Args:
        settings: settings by bare name, by path, or as sections.
        defaults: settings by path, from which the method and the network are taken if `settings` do not name them.
    Raises:
        ConfigError: the name of a setting or of a section is unknown; the hint suggests the nearest one.
    """
    given = _without_sections(settings)
    known = _paths(given, defaults or {})
    paths = set(known.values())
    for name in given.keys() - known.keys() - paths:
        _refuse(name, known, _names_of_parts(given, defaults or {}))
    return {name if name in paths else known[name]: value for name, value in given.items()}


def merge_levels(levels: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Settings merged from several levels, by path.

    Args:
        levels: settings from the lowest level to the highest; each level overrides those before it. `steps` and
            `time_budget` both give the length of a run, so a level that gives one of them replaces both.
    Raises:
        ConfigError: a name is unknown.
    """
    given = [{name: value for name, value in level.items() if value is not None} for level in levels]
    parts: dict[str, Any] = {}
    for level in given:
        named = _names_of_parts(_without_sections(level), {})
        parts |= {f"{part}.name": name for part, name in named.items() if name is not None}
    merged: dict[str, Any] = {}
    for level in given:
        found = located(level, defaults=parts)
        if found.keys() & {"optimiser.steps", "optimiser.time_budget"}:
            merged.pop("optimiser.steps", None)
            merged.pop("optimiser.time_budget", None)
        merged |= found
    return merged


def known_names(method: str | None = None, network: str | None = None) -> dict[str, str]:
    """The paths of all settings by bare name.

    Args:
        method: the method whose settings are included; None includes those of every method.
        network: the network whose settings are included; None includes those of every network.
    """
    found = dict(_COMMON)
    for part, name, all_names in (("network", network, names.NETWORKS), ("method", method, tuple(names.METHODS))):
        for each in [name] if name is not None else all_names:
            found |= {setting: f"{part}.{setting}" for setting in settings_of(part, each).names()}
    return found


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


def require_setting(part: str, name: str, setting: str) -> None:
    """Raise ConfigError if a network or a method does not have a setting.

    Args:
        part: "network" or "method".
        name: the name of the network or the method.
        setting: the bare name of the setting.
    """
    existing = settings_of(part, name).names()
    if setting not in existing:
        raise ConfigError(f"the {part} {name} has no setting {setting!r}", hint=f"its settings: {', '.join(existing)}")


def _without_sections(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by bare name or by path, from settings some of which are grouped in sections."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if name in ORDER and isinstance(value, Mapping):
            found |= {f"{name}.{inner}": each for inner, each in value.items()}
        elif name in ORDER and name not in _COMMON:
            raise ConfigError(f"{name} = {shown(value)}: expected a section of settings")
        elif isinstance(value, Mapping):
            _refuse_section(name)
        elif name not in RETIRED:
            found[name] = value
    return found


def _names_of_parts(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The names of the network and of the method that settings give, or those of `defaults`; None if neither does."""
    return {part: given.get(f"{part}.name", given.get(part, defaults.get(f"{part}.name"))) for part in PARTS}


def _paths(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, str]:
    """The paths by bare name of all settings that can be used together with the given ones."""
    common = _COMMON.keys() | set(_COMMON.values())
    if given.keys() <= common:  # no module of a network or a method is imported
        return _COMMON
    chosen = _names_of_parts(given, defaults)
    return known_names(chosen["method"] or names.DEFAULT_METHOD, chosen["network"])


def _refuse(name: str, known: Mapping[str, str], chosen: Mapping[str, str | None]) -> NoReturn:
    """Raise ConfigError for a setting that is unknown, or that only another network or method has."""
    for part in PARTS:
        chosen_name = chosen[part] or (names.DEFAULT_METHOD if part == "method" else None)
        if chosen_name is not None and f"{part}.{name}" == known_names().get(name):
            require_setting(part, chosen_name, name)
    section, dot, inner = name.partition(".")
    if not dot:
        require_name(name, known)
    if section not in ORDER:
        _refuse_section(section)
    if inner in known:
        raise ConfigError(f"unknown setting {name!r}", hint=f"did you mean '{known[inner]}'?")
    its = [path for path in known.values() if path.startswith(f"{section}.")]
    hint = did_you_mean(name, its).strip() or f"settings of {section}: {', '.join(path.split('.')[1] for path in its)}"
    raise ConfigError(f"unknown setting {name!r}", hint=hint)


def _refuse_section(name: str) -> NoReturn:
    raise ConfigError(f"unknown section {name!r}", hint=f"{did_you_mean(name, ORDER)}sections: {', '.join(ORDER)}")
