"""Image files that nobody would draw: a picture or a reason, in bounded memory and time."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exploring import bounded, budget, damaged
from PIL import Image, features

from vpfb_core.data import load
from vpfb_core.data.decoding import UnreadableError, read_header, read_picture, warnings_silenced
from vpfb_core.errors import DataError

FORMATS: dict[str, dict[str, Any]] = {  # ending → what Pillow is told
    "png": {}, "jpg": {"quality": 80}, "progressive.jpg": {"progressive": True}, "gif": {}, "bmp": {}, "tif": {},
    "lzw.tif": {"compression": "tiff_lzw"}, "jpeg.tif": {"compression": "jpeg"}, "webp": {},
    "lossless.webp": {"lossless": True}, "ppm": {}, "tga": {"compression": "tga_rle"}, "pcx": {}, "sgi": {},
    "ico": {}, "jp2": {}, "avif": {}, "dib": {},
}  # fmt: skip
MISSING = {"avif": not features.check("avif"), "jp2": not features.check("jpg_2000")}


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def is_read(path: Path) -> bool:
    """Whether a file is a picture; anything but a picture and a reason is an error."""
    try:
        header, found = read_header(path), read_picture(path, 16)
    except UnreadableError as error:
        assert str(error)
        assert len(str(error)) < 200
        return False
    assert found.mode in ("L", "RGB")
    assert min(*header.shape, *found.size) > 0
    return True


@budget(40, 4_000)
@pytest.mark.parametrize("ending", FORMATS)
def test_damaged_files(ending: str, examples: int, picture: Image.Image, tmp_path: Path) -> None:
    if MISSING.get(ending):
        pytest.skip(f"this Pillow cannot write .{ending}")
    path = tmp_path / f"a.{ending}"
    picture.save(path, **FORMATS[ending])
    assert is_read(path)
    with warnings_silenced(), bounded(mebibytes=1500, seconds=20 + examples):
        for content in damaged(path.read_bytes(), examples):
            path.write_bytes(content)
            is_read(path)


@budget(1, 40)
def test_files_cut_off_anywhere(examples: int, picture: Image.Image, tmp_path: Path) -> None:
    for ending in (ending for ending in FORMATS if not MISSING.get(ending)):
        path = tmp_path / f"a.{ending}"
        picture.save(path, **FORMATS[ending])
        whole = path.read_bytes()
        for length in np.random.default_rng(examples).integers(0, len(whole), 8 * examples):
            path.write_bytes(whole[:length])
            with warnings_silenced():
                is_read(path)


# --- claims -----------------------------------------------------------------------------------------------------------


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, data: bytes, *more: bytes) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def tiff(*tags: tuple[int, int, int, int]) -> bytes:
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4) + bytes(64)


def claims() -> Iterator[tuple[str, bytes]]:
    """Small files that say that they are huge."""
    side, huge = 40_000, 2**31 - 1
    for width, height in ((side, side), (12_000, 12_000), (huge, 1), (huge, huge), (1, huge)):
        yield "png", png(width, height, zlib.compress(bytes(1000)))
        header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
        yield "bmp", b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header + bytes(100)
        yield "ppm", b"P6\n%d %d\n255\n" % (width, height) + bytes(100)
        yield "tif", tiff(
            (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8),
            (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, huge),
        )  # fmt: skip
    yield (
        "gif",
        b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b",\0\0\0\0\xff\xff\xff\xff\0\x02\x02\x44\x01\0;",
    )
    yield "jpg", b"\xff\xd8\xff\xc0\0\x11\x08\xff\xff\xff\xff\x03\x01\x22\0\x02\x11\x01\x03\x11\x01" + bytes(100)
    yield "tga", struct.pack("<BBBHHBHHHHBB", 0, 0, 10, 0, 0, 0, 0, 0, 65535, 65535, 24, 0) + bytes(100)
    yield "sgi", struct.pack(">HBBHHHH", 474, 0, 1, 3, 65535, 65535, 3) + bytes(600)
    yield "pcx", bytes([10, 5, 1, 8]) + struct.pack("<HHHH", 0, 0, 65534, 65534) + bytes(120)
    yield "webp", b"RIFF\x20\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(4) + b"\xff\x3f\0\xff\x3f\0" + bytes(20)
    inner = png(side, side, zlib.compress(bytes(1000)))
    yield "ico", struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(inner), 22) + inner


@pytest.mark.parametrize(("ending", "content"), list(claims()))
def test_a_small_file_that_claims_to_be_huge_is_refused_before_allocation(
    ending: str, content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / f"a.{ending}"
    path.write_bytes(content)
    with warnings_silenced(), bounded(mebibytes=96, seconds=3), pytest.raises(UnreadableError) as caught:
        read_picture(path, 16)
    assert "memory" not in str(caught.value), "allocated, and failed"


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """128 MiB of zeros, compressed."""
    return zlib.compress(bytes(2**27))


def test_a_picture_that_unpacks_to_more_than_it_claims_is_read_as_far_as_it_claims(tmp_path: Path, bomb: bytes) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(8, 8, bomb))
    with bounded(mebibytes=48, seconds=5):
        is_read(path)


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP", b"iTXt"])
def test_a_text_or_profile_that_unpacks_to_much_is_not_unpacked(kind: bytes, tmp_path: Path, bomb: bytes) -> None:
    between = b"\0\0" if kind != b"iTXt" else b"\0\1\0\0\0"
    bombs = [chunk(kind, b"a" + between + bomb)] * 20
    path = tmp_path / "a.png"
    path.write_bytes(png(8, 8, zlib.compress(bytes(8 * 25)), *bombs))
    with bounded(mebibytes=128, seconds=5):
        is_read(path)


def test_a_folder_of_nonsense_is_a_data_error_in_bounded_memory(tmp_path: Path) -> None:
    for number, (ending, content) in enumerate(claims()):
        (tmp_path / f"{number}.{ending}").write_bytes(content)
    with bounded(mebibytes=512, seconds=20), pytest.raises(DataError, match=r"none of the \d+ image files"):
        load(str(tmp_path), workers=2)


@pytest.mark.parametrize(
    "content", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run", b"\x80\x04.", b"\xd7\xcd\xc6\x9a"]
)
def test_no_interpreter_is_started_for_a_file_that_asks_for_one(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subprocess.Popen", None)
    monkeypatch.setattr("os.system", None)
    for ending in ("png", "jpg", "tif", "ico"):
        path = tmp_path / f"a.{ending}"
        path.write_bytes(content)
        assert not is_read(path)
