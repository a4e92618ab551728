"""Pictures that the data tests write themselves."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

QUADRANTS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0))  # top left, top right, bottom left, bottom right


@pytest.fixture
def quadrants() -> Image.Image:
    """16×16, a colour in each corner."""
    pixels = np.zeros((16, 16, 3), np.uint8)
    for colour, rows, columns in zip(QUADRANTS, (0, 0, 8, 8), (0, 8, 0, 8), strict=True):
        pixels[rows : rows + 8, columns : columns + 8] = colour
    return Image.fromarray(pixels)


@pytest.fixture
def good() -> Callable[..., list[str]]:
    """good(folder, count, size=8, grey=False) writes that many different PNGs; returns their names."""

    def write(folder: Path, count: int, *, size: int = 8, grey: bool = False) -> list[str]:
        folder.mkdir(parents=True, exist_ok=True)
        draw = np.random.default_rng(0)
        names = [f"good{i:03}.png" for i in range(count)]
        for name in names:
            pixels = draw.integers(0, 256, (size, size) if grey else (size, size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name, compress_level=1)
        return names

    return write


@pytest.fixture
def claiming() -> Callable[[int, int], bytes]:
    """claiming(width, height): a PNG of a few bytes that says it is that large."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    def png(width: int, height: int) -> bytes:
        header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        data = zlib.compress(bytes(64))
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")

    return png
