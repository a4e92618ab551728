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
        data: an `ImageSet` or a `Table`, or an array or tensor: numbers (N, d) are a table; images are a tensor
            (N, C, H, W) or an array (N, H, W[, C]), of uint8 or of floats in [0, 1].
    Raises:
        DataError: the data have another shape or other values.
    """
    held = data if isinstance(data, InMemory) else _as_set(data)
    name = HeldName(f"{PREFIX}{held.fingerprint()[:12]}")
    name.held = replace(held, name=str(name))
    _held[str(name)] = name.held
    return name


def is_held(name: str) -> bool:
    """Whether `hold` returned this name, and the data are still in memory."""
    return str(name) in _held


def held(name: str, options: LoadOptions) -> InMemory:
    """The data of a name for which `is_held` is true.

    Raises:
        DataError: the data have no classes, or not the columns, that options ask for.
    """
    found = _held[str(name)]
    if options.conditional and not found.groups:
        raise DataError(f"'{name}' has no classes", hint="pass an ImageSet or a Table with labels and groups")
    return found.select(options.columns) if isinstance(found, Table) and options.columns is not None else found


def _as_set(data: Any) -> InMemory:
    given = data.detach().cpu() if isinstance(data, torch.Tensor) else data
    values = given.float().numpy() if isinstance(given, torch.Tensor) and given.dtype == torch.bfloat16 else (
        np.asarray(given)
    )  # fmt: skip
    if values.ndim == 2:
        return table_of_array("the array", values, LoadOptions())
    if isinstance(data, torch.Tensor) and values.ndim == 4:
        values = values.transpose(0, 2, 3, 1)
    if values.ndim not in (3, 4) or not values.size or (values.ndim == 4 and values.shape[3] not in (1, 3)):
        raise DataError(
            f"data of shape {tuple(np.shape(given))} are neither rows (N, d) nor images",
            hint="images are a tensor (N, C, H, W) or an array (N, H, W[, C]), with C = 1 or 3",
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
