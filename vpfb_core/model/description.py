"""What a model file says of itself, checked before anything is built from it. Knows JSON, no tensors.

A file can be whole and still be nonsense: the checksum says that nothing was damaged, not who wrote it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from vpfb_core.errors import CheckpointError
from vpfb_core.machine import container as checkpoint
from vpfb_core.methods.vpfb.normaliser import Normaliser, is_number

LARGEST_SIDE = 2**16  # pixels

Rule = Callable[[Any], bool]


def read(path: Path) -> dict[str, Any]:
    """The description in a model file, without torch.

    Raises:
        CheckpointError: as of `checkpoint.read`, and of `require`.
    """
    document = checkpoint.read_document(path, "model")
    require(document, path)
    return document


def require(document: dict[str, Any], path: Path) -> None:
    """Check that everything that is asked of a description is there, and what it should be.

    Raises:
        CheckpointError: it is not, and what.
    """
    for name, fits in _DOCUMENT.items():
        if not fits(document.get(name)):
            raise CheckpointError(f"{path} describes a model that this version cannot build: its {name} is not one")
    for name, fits in _ABOUT.items():  # of a model made by hand, little may be known
        if name in document["about"] and not fits(document["about"][name]):
            raise CheckpointError(f"{path} is not to be understood: what it says of its {name}")


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict)


def _none_or(rule: Rule) -> Rule:
    return lambda value: value is None or rule(value)


def _list_of(rule: Rule) -> Rule:
    return lambda value: isinstance(value, list) and all(map(rule, value))


def _values(rule: Rule) -> Rule:
    return lambda value: isinstance(value, dict) and all(map(rule, value.values()))


def _having(**rules: Rule) -> Rule:
    return lambda value: isinstance(value, dict) and all(rule(value.get(name)) for name, rule in rules.items())


def _is_shape(value: Any) -> bool:
    fits = _list_of(_is_count)(value) and len(value) == 3
    return fits and value[0] in (1, 3) and all(0 < side <= LARGEST_SIDE for side in value[1:])


def _is_scale(value: Any) -> bool:
    return is_number(value) and value > 0


def _is_normaliser(value: Any) -> bool:
    try:
        Normaliser.from_dict(value)
    except (KeyError, TypeError, ValueError, AttributeError):
        return False
    return True


_DOCUMENT: dict[str, Rule] = {
    "potential": _is_text,
    "homotopy": _having(name=_is_text),
    "data_std": _is_scale,
    "network": _having(name=_is_text),
    "statistics": _having(mean=_list_of(is_number), std=_is_scale),
    "shape": _is_shape,
    "groups": _list_of(_having(name=_is_text, classes=_list_of(_is_text))),
    "parameters": _is_count,
    "about": _is_mapping,
    "normaliser": _none_or(_is_normaliser),
}
_ABOUT: dict[str, Rule] = {
    "data": _having(name=_is_text, images=_none_or(_is_count), fingerprint=_none_or(_is_text)),
    "step": _is_count,
    "seconds": is_number,
    "device": _is_text,
    "seed": _is_count,
    "figures": _values(_none_or(is_number)),
    "config": _having(val_fraction=is_number),
    "versions": _values(_is_text),
}
