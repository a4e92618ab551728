"""Data that a program holds in memory, under a name by which a configuration refers to them."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from vpfb_core.data.images import ImageSet
from vpfb_core.data.in_memory import InMemory
from vpfb_core.data.load_options import LoadOptions
from vpfb_core.data.source import ConditionGroup
from vpfb_core.data.stacking import stack_array
from vpfb_core.data.table import Table
from vpfb_core.data.table_loading import table_of_array
from vpfb_core.errors import DataError

PREFIX = "array-"
_held: weakref.WeakValueDictionary[str, InMemory] = weakref.WeakValueDictionary()


class HeldName(str):
    """The name of data in memory, which keeps them alive."""

    held: InMemory


def hold(data: Any) -> HeldName:
    """The name under which `find` knows some data. They are forgotten when nothing refers to the name any more.

    The name contains a part of their fingerprint, so that the same data get the same name in another process.

    Args:
        data: an `ImageSet` or a `Table`, or an array or tensor for `from_tensors`.
    Raises:
        DataError: the data have another shape or other values.
    """
    held = data if isinstance(data, InMemory) else from_tensors(data)
    name = HeldName(f"{PREFIX}{held.fingerprint()[:12]}")
    name.held = replace(held, name=str(name))
    _held[str(name)] = name.held
    return name


def is_held(name: str) -> bool:
    """Whether `hold` returned this name, and the data are still in memory."""
    return str(name) in _held


def held(name: str, options: LoadOptions) -> InMemory:
    """The data of a name for which `is_held` is true. Images get the size and the channels that options name.

    Raises:
        DataError: the data have no classes, or not the columns or the classes that options name.
    """
    found = _held[str(name)]
    if options.conditional and not found.groups:
        raise DataError(f"'{name}' has no classes", hint="vpfb_core.data.from_tensors(data, labels) has them")
    if isinstance(found, Table):
        return found.as_asked(options)
    return _framed(found, options) if len(found.shape) == 3 else found


def from_tensors(data: Any, labels: Any = None) -> InMemory:
    """Images or rows of a table from a tensor or an array, with classes if there are labels.

    Args:
        data: numbers (N, d), which are a table, or images (N, C, H, W) or (N, H, W[, C]) of uint8 or of floats in
            [0, 1], C in {1, 3}. Where both orders are possible, a tensor has the channels first, and an array last.
        labels: the class of each datum, (N,): whole numbers or names. None is for data without classes.
    Raises:
        DataError: the data or the labels have another shape or other values.
    """
    found = _without_labels(data)
    if labels is None:
        return found
    given = np.asarray(labels.detach().cpu() if isinstance(labels, torch.Tensor) else labels)
    if given.shape != (len(found),) or given.dtype.kind not in "biuU":
        raise DataError(
            f"labels of dtype {given.dtype} and shape {given.shape} do not fit {len(found):,} {found.noun}",
            hint=f"labels are whole numbers or names of shape ({len(found)},)",
        )
    classes, index = np.unique(given, return_inverse=True)
    group = ConditionGroup("class", tuple(map(str, classes.tolist())))
    return replace(found, labels=torch.from_numpy(index.astype(np.int64))[:, None], groups=(group,))


def _framed(images: InMemory, options: LoadOptions) -> InMemory:
    """Images with the size and the channels that options name."""
    channels, size, _ = images.shape
    wanted = (options.channels or channels, options.size or size)
    if wanted == (channels, size):
        return images
    pixels = images.data.permute(0, 2, 3, 1).numpy()
    taken = stack_array(pixels, size=wanted[1], channels=wanted[0], workers=options.workers)
    return replace(images, data=taken.images, notes=(*images.notes, *taken.notes))


def _without_labels(data: Any) -> InMemory:
    given = data.detach().cpu() if isinstance(data, torch.Tensor) else data
    values = given.float().numpy() if isinstance(given, torch.Tensor) and given.dtype == torch.bfloat16 else (
        np.asarray(given)
    )  # fmt: skip
    if values.ndim == 2:
        return table_of_array("the array", values, LoadOptions())
    first, last = (values.ndim == 4 and values.shape[axis] in (1, 3) for axis in (1, 3))
    if first and (isinstance(data, torch.Tensor) or not last):
        values = values.transpose(0, 2, 3, 1)
    if values.ndim not in (3, 4) or not values.size or (values.ndim == 4 and values.shape[3] not in (1, 3)):
        raise DataError(
            f"data of shape {tuple(np.shape(given))} are neither rows (N, d) nor images",
            hint="images are (N, C, H, W) or (N, H, W[, C]), with C = 1 or 3",
        )
    if values.dtype.kind == "f":
        if not (values.min() >= 0 and values.max() <= 1):  # false for NaN, too
            raise DataError("images of floats have values that are not in [0, 1]", hint="divide by 255")
        values = (values * 255).round().astype(np.uint8)
    if values.dtype != np.uint8:
        raise DataError(f"images have dtype {values.dtype}", hint="images are uint8, or floats in [0, 1]")
    values = values[..., None] if values.ndim == 3 else values
    size = min(values.shape[1:3])
    taken = stack_array(np.ascontiguousarray(values), size=size, channels=None, workers=0)
    return ImageSet("the array", taken.images, flips=taken.images.shape[1] == 3, notes=taken.notes)
