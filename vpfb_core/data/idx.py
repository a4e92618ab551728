"""The file format of MNIST and its relatives: a short header, then bytes (yann.lecun.com/exdb/mnist)."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from vpfb_core.data.download import stored
from vpfb_core.data.framing import MAX_BYTES
from vpfb_core.errors import DataError

_BYTES = 8  # the code of the only element type that pictures and labels have
_MOST_PACKED = 1032  # bytes that one of a .gz can stand for: the limit of its format
_HINT = "remove it, and it is downloaded again"


def read_idx(path: Path, ndim: int) -> np.ndarray:
    """The bytes of an idx file, or of the same file compressed with .gz beside it.

    Args:
        ndim: 3 for pictures (N, H, W), 1 for labels (N,).
    Returns:
        uint8, of the shape that the file states.
    Raises:
        DataError: absent, unreadable, cut short, or no idx file of so many dimensions.
    """
    found = stored(path) or path
    try:
        with gzip.open(found) if found.suffix == ".gz" else found.open("rb") as file:
            header = file.read(4 + 4 * ndim)
            if len(header) < 4 + 4 * ndim or header[:4] != bytes([0, 0, _BYTES, ndim]):
                raise DataError(f"'{found}' is no idx file of bytes in {ndim} dimensions", hint=_HINT)
            shape = struct.unpack(f">{ndim}I", header[4:])
            size = math.prod(shape)
            if size > MAX_BYTES:
                raise DataError(f"'{found}' claims the shape {shape}, more than {MAX_BYTES / 2**30:g} GiB")
            if size > found.stat().st_size * (_MOST_PACKED if found.suffix == ".gz" else 1):
                raise DataError(f"'{found}' is damaged: it states {size:,} bytes and is shorter", hint=_HINT)
            data = file.read(size + 1)  # to the end, where gzip keeps its checksum
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"'{found}' cannot be read: {getattr(error, 'strerror', None) or error}", hint=_HINT) from error
    if len(data) != size:
        has = f"has {len(data):,}" if len(data) < size else "has more"
        raise DataError(f"'{found}' is damaged: it states {size:,} bytes and {has}", hint=_HINT)
    return np.frombuffer(data, np.uint8).reshape(shape)
