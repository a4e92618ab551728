"""Conditions by name. A condition selects at most one class of each condition group."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import numpy as np
import torch
from torch import Tensor

from vpfb_core.data.source import ConditionGroup
from vpfb_core.errors import ConfigError, counted, did_you_mean
from vpfb_core.machine.file_names import same_name

# A name or the index of a class, several of them, class indices (N, G) or (N,), or None for unconditional.
Condition = str | int | Sequence[str | int] | np.ndarray | Tensor | None
_INTEGERS = {torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8}


def condition_tensor(condition: Condition, groups: Sequence[ConditionGroup], n: int, first: int = 0) -> Tensor | None:
    """The class index of each sample in each condition group.

    Args:
        condition: a class such as "3", a class of each of several groups such as "circle,red", or "colour=red" if
            several groups have a class of that name. In a single group, a class index such as 3 is also accepted. A
            sequence of such conditions alternates over the samples. Class indices (n, G), or (n,) of a single group,
            are checked and returned. None is unconditional.
        groups: the condition groups of the model.
        n: the number of samples.
        first: the index of the first sample, if these samples are a part of a larger set.
    Returns:
        int64 (n, G) on the CPU, −1 for none; None if there are no groups.
    Raises:
        ConfigError: a name is unknown, two classes belong to one group, an index or the type does not fit, or the
            model is unconditional.
    """
    if condition is None:
        return torch.full((n, len(groups)), -1) if groups else None
    if not groups:
        raise ConfigError(
            "this model is unconditional, so it has no classes", hint="train a model with vpfb train --conditional"
        )
    if isinstance(condition, np.ndarray) and condition.dtype.kind in "iu":
        condition = torch.from_numpy(condition.astype(np.int64))
    if isinstance(condition, Tensor) and condition.ndim:
        counts = torch.tensor([len(group.classes) for group in groups])
        shapes = [(n, len(groups)), (n,)] if len(groups) == 1 else [(n, len(groups))]
        if tuple(condition.shape) not in shapes or condition.dtype not in _INTEGERS:
            raise ConfigError(
                f"class indices have shape {tuple(condition.shape)} and dtype {condition.dtype}",
                hint=f"expected integers of shape {' or '.join(map(str, shapes))}",
            )
        condition = condition.cpu().reshape(shapes[0])
        if bool(((condition < -1) | (condition >= counts)).any()):
            raise ConfigError(f"class indices must lie between -1 and {(counts - 1).tolist()}")
        return condition.long()
    rows = torch.tensor([_row(each, groups) for each in _listed(condition)])
    return rows[torch.arange(first, first + n) % len(rows)]


def require_one_each(condition: Condition, n: int) -> None:
    """Refuse a sequence of conditions for n given data, unless it has one condition, or one per datum.

    Samples that are drawn may alternate between conditions, but each datum that is given has a condition of its own.

    Raises:
        ConfigError: the sequence has another length.
    """
    if condition is None or isinstance(condition, Tensor):
        return
    if (count := len(_listed(condition))) not in (1, n):
        raise ConfigError(
            f"{count} conditions were given for {counted(n, 'data')}", hint="give one condition, or one per datum"
        )


def _listed(condition: object) -> Sequence[object]:
    """The conditions of a sequence, or a single condition in a list."""
    if isinstance(condition, str) or not isinstance(condition, Sequence | np.ndarray) or np.ndim(condition) == 0:
        return [condition]
    if not len(condition):
        raise ConfigError("the list of conditions is empty", hint="None is unconditional")
    return list(condition)


def _row(condition: object, groups: Sequence[ConditionGroup]) -> list[int]:
    """The class index in each group of one condition. Errors are those of `condition_tensor`."""
    if isinstance(condition, str):
        return parse_condition(condition, groups)
    if isinstance(condition, Tensor) and not condition.ndim:
        condition = condition.item()
    if not isinstance(condition, Integral) or isinstance(condition, bool):
        raise ConfigError(
            f"a condition of type {type(condition).__name__}: {condition!r}",
            hint='expected a class such as "3", its index, or class indices as a tensor (n, groups)',
        )
    index = int(condition)
    if len(groups) != 1:
        possible = ", ".join(group.name for group in groups)
        raise ConfigError(f"the class index {index} could be of {possible}", hint="give the name of the class")
    if not 0 <= index < len(groups[0].classes):
        raise ConfigError(f"no class index {index}", hint=f"the indices are 0 to {len(groups[0].classes) - 1}")
    return [index]


def parse_condition(text: str, groups: Sequence[ConditionGroup]) -> list[int]:
    """The class index in each group of a condition such as "circle,red", −1 for none. A class name may have a comma.

    Raises:
        ConfigError: a name is unknown or ambiguous, or two classes belong to one group.
    """
    indices = [-1] * len(groups)
    for name in _split(text, groups):
        group, index = find_class(name, groups)
        if indices[group] not in (-1, index):
            taken = groups[group].classes[indices[group]]
            raise ConfigError(f"{taken!r} and {name!r} exclude each other: both are classes of {groups[group].name!r}")
        indices[group] = index
    return indices


def _split(text: str, groups: Sequence[ConditionGroup]) -> list[str]:
    """The names that commas join in a condition. A name may have commas of its own."""
    parts, names = text.split(","), []
    most = 1 + max(f"{group.name}{name}".count(",") for group in groups for name in group.classes)
    while parts:
        joined = (",".join(parts[:count]) for count in range(min(most, len(parts)), 0, -1))
        candidates = [each for whole in joined for each in (whole, whole.strip())]
        names.append(next((each for each in candidates if _indices(each, groups)), candidates[-1]))
        parts = parts[1 + names[-1].count(",") :]
    return names


def find_class(name: str, groups: Sequence[ConditionGroup]) -> tuple[int, int]:
    """The indices (group, class) of "class" or "group=class".

    Raises:
        ConfigError: the name is unknown (the hint suggests the nearest one), or several groups have such a class.
    """
    found = _indices(name, groups)
    if len(found) == 1:
        return found[0]
    if found:
        choices = ", ".join(f"{groups[position].name}={groups[position].classes[index]}" for position, index in found)
        raise ConfigError(f"class '{name}' is in several groups", hint=f"name the group: {choices}")
    known = [known for group in groups for known in group.classes]
    near = did_you_mean(name, known) or did_you_mean(name.rpartition("=")[2], known)
    raise ConfigError(f"unknown class '{name}'", hint=f"{near}classes: {', '.join(known)}")


def _indices(name: str, groups: Sequence[ConditionGroup]) -> list[tuple[int, int]]:
    """The indices (group, class) of every class that "class" or "group=class" can mean.

    A class of exactly that name comes first, because class names may contain "="; then the same with a group; then both
    with names that only look the same, such as one é that is stored as two characters.
    """
    classes = [
        (position, index, class_name, f"{group.name}={class_name}")
        for position, group in enumerate(groups)
        for index, class_name in enumerate(group.classes)
    ]
    for matches in (str.__eq__, same_name):
        for whole in (False, True):
            found = [
                (position, index) for position, index, plain, full in classes if matches(name, full if whole else plain)
            ]
            if found:
                return found
    return []
