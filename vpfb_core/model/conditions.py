"""Conditions by name: groups of exclusive classes, each with a null."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import torch
from torch import Tensor

from vpfb_core.data.source import ConditionGroup
from vpfb_core.errors import ConfigError

# A name, names that take turns, class indices (N, G), or None for no condition at all.
Condition = str | Sequence[str] | Tensor | None


def condition_tensor(condition: Condition, groups: Sequence[ConditionGroup], n: int, first: int = 0) -> Tensor | None:
    """The class index of each of n samples in each group, int64 (n, G), −1 for none; None if there are no groups.

    Args:
        condition: "3", or "circle,red" for a class of each of several groups, or "colour=red" where groups share names;
            several take turns over the samples; indices (n, G) are checked and passed on; None leaves all groups open.
        first: index of the first sample, where it is a part of many.
    Raises:
        ConfigError: an unknown name, two classes of one group, or conditions for an unconditional model.
    """
    if condition is None:
        return torch.full((n, len(groups)), -1) if groups else None
    if not groups:
        raise ConfigError(
            "this model is unconditional: it knows no classes", hint="train one with vpfb train --conditional"
        )
    if isinstance(condition, Tensor):
        counts = torch.tensor([len(group.classes) for group in groups])
        if condition.shape != (n, len(groups)) or condition.is_floating_point():
            raise ConfigError(f"conditions of shape {tuple(condition.shape)} do not fit ({n}, {len(groups)})")
        if bool(((condition.cpu() < -1) | (condition.cpu() >= counts)).any()):
            raise ConfigError(f"class indices must lie between −1 and {(counts - 1).tolist()}")
        return condition.long()
    wishes = [condition] if isinstance(condition, str) else list(condition)
    rows = torch.tensor([parse_condition(wish, groups) for wish in wishes])
    return rows[torch.arange(first, first + n) % len(rows)]


def parse_condition(text: str, groups: Sequence[ConditionGroup]) -> list[int]:
    """ "circle,red" → the class index in each group, −1 where nothing was said. A class's name may have a comma."""
    indices = [-1] * len(groups)
    for name in [text] if _places(text, groups) else [part.strip() for part in text.split(",")]:
        group, index = find_class(name, groups)
        if indices[group] not in (-1, index):
            taken = groups[group].classes[indices[group]]
            raise ConfigError(f"{taken!r} and {name!r} exclude each other: both are classes of {groups[group].name!r}")
        indices[group] = index
    return indices


def find_class(name: str, groups: Sequence[ConditionGroup]) -> tuple[int, int]:
    """(group, class index) of a class name, or of group=class."""
    found, plain = _places(name, groups), name.rpartition("=")[2]
    if len(found) == 1:
        return found[0]
    if found:
        choices = ", ".join(f"{groups[position].name}={plain}" for position, _ in found)
        raise ConfigError(f"class {name!r} is in several groups", hint=f"say which: {choices}")
    known = [known for group in groups for known in group.classes]
    near = difflib.get_close_matches(plain, known, 1)
    meant = f"did you mean {near[0]!r}? " if near else ""
    raise ConfigError(f"unknown class {name!r}", hint=f"{meant}classes: {', '.join(known)}")


def _places(name: str, groups: Sequence[ConditionGroup]) -> list[tuple[int, int]]:
    """(group, class index) of every class that a name, or group=class, can mean."""
    named_group, _, plain = name.rpartition("=")
    return [
        (position, group.classes.index(plain))
        for position, group in enumerate(groups)
        if plain in group.classes and named_group in ("", group.name)
    ]
