"""The idx file format of MNIST and its relatives: a short header, then bytes (yann.lecun.com/exdb/mnist)."""

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

_UINT8 = 8  # the code of the element type that images and labels have
_MOST_PACKED = 1032  # the largest compression ratio of the .gz format
_HINT = "remove the file to have it downloaded again"


def read_idx(path: Path, ndim: int) -> np.ndarray:
    """The array of an idx file, or of its .gz if only that is there.

    Args:
        path: the file, without .gz.
        ndim: 3 for images (N, H, W), 1 for labels (N,).
    Returns:
        uint8, of the shape that the file states.
    Raises:
        DataError: the file is absent, unreadable, truncated, or no idx file of `ndim` dimensions.
    """
    found = stored(path) or path
    try:
        with gzip.open(found) if found.suffix == ".gz" else found.open("rb") as file:
            header = file.read(4 + 4 * ndim)
            if len(header) < 4 + 4 * ndim or header[:4] != bytes([0, 0, _UINT8, ndim]):
                raise DataError(f"'{found}' is not an idx file of bytes in {ndim} dimensions", hint=_HINT)
            shape = struct.unpack(f">{ndim}I", header[4:])
            size = math.prod(shape)
            if size > MAX_BYTES:
                raise DataError(f"'{found}' claims the shape {shape}, more than {MAX_BYTES / 2**30:g} GiB")
            if size > found.stat().st_size * (_MOST_PACKED if found.suffix == ".gz" else 1):
                raise DataError(f"'{found}' is damaged: its header states {size:,} bytes and it is shorter", hint=_HINT)
            data = file.read(size + 1)  # one more, so that gzip reads its checksum at the end
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"'{found}' cannot be read: {getattr(error, 'strerror', None) or error}", hint=_HINT) from error
    if len(data) != size:
        has = f"has {len(data):,}" if len(data) < size else "has more"
        raise DataError(f"'{found}' is damaged: its header states {size:,} bytes and it {has}", hint=_HINT)
    return np.frombuffer(data, np.uint8).reshape(shape)
