"""`.npy` and `.npz` files of uint8 images (N, H, W[, C]) as an `ImageSet`, and `.npy` files of rows as a `Table`.

The claims of a header are checked before memory is allocated; pickles are never opened.
"""

from __future__ import annotations

import io
import math
import zipfile
from contextlib import closing
from pathlib import Path
from typing import IO

import numpy as np
import torch

from vpfb_core.data.framing import MAX_BYTES, choose_size
from vpfb_core.data.images import ImageSet
from vpfb_core.data.in_memory import InMemory
from vpfb_core.data.labelling import listed
from vpfb_core.data.load_options import LoadOptions
from vpfb_core.data.source import ConditionGroup
from vpfb_core.data.stacking import stack_array
from vpfb_core.data.table_loading import table_of_array
from vpfb_core.errors import DataError

_LARGEST_HEADER = 10_000  # bytes, numpy's own limit
ENDINGS = frozenset({".npy", ".npz"})
_SHAPE = "images are uint8 arrays of shape (N, H, W) or (N, H, W, C) with C = 1, 3 or 4"


def load_arrays(path: Path, options: LoadOptions) -> InMemory:
    """The images of an .npy file, or of an .npz file with `images` (or a single array), `labels` and `classes`.

    An .npy file of numbers (N, d) is a table, unless they are uint8, which may be a single image.

    `labels` is (N,) integers, −1 where unknown. They are positions in `classes`, an array of names, if the file has
    one; otherwise the classes are the numbers that occur.

    Raises:
        DataError: the file is damaged, truncated, not a NumPy file, of another dtype or shape, or has no labels for
            `conditional`.
    """
    arrays = read_arrays(path)
    if path.suffix.lower() == ".npy" and arrays["images"].ndim == 2 and arrays["images"].dtype != np.uint8:
        return table_of_array(str(path), arrays["images"], options)
    pixels = _images(path, arrays)
    total = len(pixels)
    rows = options.rows(total)
    labels: torch.Tensor | None = None
    groups: tuple[ConditionGroup, ...] = ()
    if options.conditional:
        if "labels" not in arrays:
            raise DataError(f"'{path}' has no array named 'labels'", hint="add it, or train without `conditional`")
        labels, group = _labels(path, arrays, total)
        labels, groups = labels[rows], (group,)

    if len(rows) < total:
        pixels = pixels[rows.numpy()]
    count, height, width, depth = pixels.shape
    planes = options.channels or min(depth, 3)
    size = options.size or choose_size([(width, height)], count, planes, options.max_size)
    taken = stack_array(pixels, size=size, channels=options.channels, workers=options.workers)
    # Grey arrays often hold characters, and a mirrored 3 is not a 3.
    flips = taken.images.shape[1] == 3
    notes = taken.notes + options.cut(total)
    return ImageSet(str(path), taken.images, labels, groups, flips=flips, notes=notes)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npy file (under the name "images") or an .npz file, by name.

    Raises:
        DataError: the file is damaged, truncated, not a NumPy file, or larger than `MAX_BYTES`.
    """
    try:
        with path.open("rb") as file:
            if file.read(2) != b"PK":
                file.seek(0)
                return {"images": _read_npy(file, path.stat().st_size, str(path))}
        with closing(zipfile.ZipFile(path)) as archive:
            members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
            if (total := sum(member.file_size for member in members)) > MAX_BYTES:
                raise DataError(f"'{path}' unpacks to {total:,} bytes, more than {MAX_BYTES / 2**30:g} GiB")
            arrays = {}
            for member in members:
                with archive.open(member) as stream:
                    name = member.filename.removesuffix(".npy")
                    arrays[name] = _read_npy(stream, member.file_size, f"{path}, array '{name}'")
            return arrays
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {error.strerror or error}", hint="check its permissions") from error
    except Exception as error:  # zipfile and numpy raise nearly anything on damaged files
        raise DataError(f"'{path}' is damaged, or not a NumPy file: {error}", hint=_SHAPE) from error


def _read_npy(stream: IO[bytes], length: int, what: str) -> np.ndarray:
    """One array from a stream of `length` bytes, header included; `what` names it in messages."""
    version = np.lib.format.read_magic(stream)
    digits = 2 if version == (1, 0) else 4
    claim = stream.read(digits)
    if int.from_bytes(claim, "little") > _LARGEST_HEADER:  # in an archive it would be unpacked first
        raise DataError(f"{what} is damaged: its header claims {int.from_bytes(claim, 'little'):,} bytes")
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = header(io.BytesIO(claim + stream.read(int.from_bytes(claim, "little"))))
    if dtype.hasobject:
        raise DataError(f"{what} holds Python objects, which are not read", hint=_SHAPE)
    size = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or size > MAX_BYTES:
        raise DataError(f"{what} claims the shape {shape} of {dtype}, more than {MAX_BYTES / 2**30:g} GiB")
    if size > length:
        raise DataError(f"{what} is truncated: {shape} of {dtype} needs {size:,} bytes, the file has {length:,}")
    data = stream.read(size)
    if len(data) < size:
        raise DataError(
            f"{what} is truncated: {shape} of {dtype} needs {size:,} bytes, the file has only {len(data):,}"
        )
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def _images(path: Path, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """The images among the arrays of a file, uint8 (N, H, W, C)."""
    names = [name for name in arrays if name not in ("labels", "classes")]
    name = "images" if "images" in arrays else names[0] if len(names) == 1 else None
    if name is None:
        there = f"the arrays {listed(list(arrays))}" if arrays else "no arrays"
        raise DataError(f"'{path}' has {there}, and none named 'images'", hint="name the array of images 'images'")
    pixels = arrays[name]
    wrong = f"'{path}' holds {pixels.dtype} of shape {pixels.shape}"
    if pixels.dtype != np.uint8:
        hint = "convert images in [0, 1] by (255 * images).round().astype('uint8')"
        raise DataError(wrong, hint=hint if pixels.dtype.kind == "f" else _SHAPE)
    if 0 in pixels.shape or pixels.ndim not in (3, 4):
        raise DataError(wrong, hint=_SHAPE)
    if pixels.ndim == 3:
        if pixels.shape[2] in (1, 3, 4):
            raise DataError(f"{wrong}, which looks like a single image (H, W, C)", hint=_SHAPE)
        pixels = pixels[..., None]
    if pixels.shape[3] not in (1, 3, 4):
        first = pixels.shape[1] in (1, 3, 4)
        raise DataError(wrong, hint="channels go last: images.transpose(0, 2, 3, 1)" if first else _SHAPE)
    return pixels


def _labels(path: Path, arrays: dict[str, np.ndarray], count: int) -> tuple[torch.Tensor, ConditionGroup]:
    labels = arrays["labels"]
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise DataError(
            f"'{path}': labels are {labels.dtype} of shape {labels.shape}, not integers of shape ({count},)"
        )
    labels = labels.astype(np.int64)
    if labels.min() < -1:
        raise DataError(f"'{path}': label {labels.min()} is negative", hint="classes start at 0; -1 means unknown")
    if "classes" not in arrays:
        values = np.unique(labels[labels >= 0])
        if not len(values):
            raise DataError(f"'{path}': all labels are -1 (unknown)")
        labels = np.where(labels < 0, -1, np.searchsorted(values, labels))
        return torch.from_numpy(labels)[:, None], ConditionGroup("class", tuple(map(str, values.tolist())))
    names = arrays["classes"]
    if names.dtype.kind != "U" or names.ndim != 1 or len(set(names.tolist())) != len(names):
        raise DataError(f"'{path}': classes are {names.dtype} of shape {names.shape}, not a list of distinct names")
    if labels.max() >= len(names):
        raise DataError(f"'{path}': label {labels.max()} has no name among the {len(names)} classes")
    return torch.from_numpy(labels)[:, None], ConditionGroup("class", tuple(names.tolist()))
