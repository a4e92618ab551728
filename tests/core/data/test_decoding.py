from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from vpfb_core.data.decoding import (
    BITS,
    OVER_WHITE,
    UnreadableError,
    eight_bit,
    read_header,
    read_picture,
    warnings_silenced,
)

CORNERS = ((2, 2), (13, 2), (2, 13), (13, 13))  # (x, y) inside each quadrant
# The EXIF standard: which side of the scene the stored row 0 and the stored column 0 are.
SIDES = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


def corners(picture):
    return [picture.convert("RGB").getpixel(corner) for corner in CORNERS]


def as_stored(upright: Image.Image, orientation: int) -> Image.Image:
    row, column = SIDES[orientation]
    pixels = np.asarray(upright)
    if row in ("left", "right"):
        pixels = pixels.transpose(1, 0, 2)
    if row in ("bottom", "right"):
        pixels = pixels[::-1]
    if column in ("bottom", "right"):
        pixels = pixels[:, ::-1]
    return Image.fromarray(np.ascontiguousarray(pixels))


@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", SIDES)
def test_exif_orientation_puts_every_corner_where_the_camera_saw_it(tmp_path, quadrants, orientation, ending):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"photo.{ending}"
    as_stored(quadrants, orientation).save(path, exif=exif, quality=100)
    for got, wanted in zip(corners(read_picture(path, 16)), corners(quadrants), strict=True):
        assert np.abs(np.subtract(got, wanted)).max() < 40, (orientation, got, wanted)


def test_sixteen_bit_grey_is_scaled_and_not_clipped(tmp_path):
    levels = np.array([[0, 200, 128 * 257, 65535]], np.uint16)
    Image.fromarray(levels).save(tmp_path / "deep.png")
    Image.fromarray(levels).save(tmp_path / "deep.tif")
    (tmp_path / "deep.pgm").write_bytes(b"P5 4 1 65535\n" + levels.astype(">u2").tobytes())
    for path in tmp_path.iterdir():
        picture = read_picture(path, 4)
        assert picture.mode == "L"
        assert np.asarray(picture)[0].tolist() == [0, 1, 128, 255], path
        assert read_header(path).grey


def test_big_endian_sixteen_bit_tiff_reads_like_little_endian(tmp_path):
    values = np.array([[0, 1 << 8], [40000, 65535]], np.uint16)
    path = tmp_path / "deep.tif"
    Image.frombytes("I;16B", (2, 2), values.astype(">u2").tobytes()).save(path)
    assert np.asarray(read_picture(path, 2)).tolist() == [[0, 1], [156, 255]]


def test_floats_in_unit_range_are_scaled_and_others_refused():
    assert np.asarray(eight_bit(Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32)))).tolist() == [[0, 128, 255]]
    for wrong in (-0.1, 255.0, np.nan):
        with pytest.raises(UnreadableError, match="outside"):
            eight_bit(Image.fromarray(np.array([[0.0, wrong]], np.float32)))
    with pytest.raises(UnreadableError, match="32-bit"):
        eight_bit(Image.fromarray(np.array([[0, 70000]], np.int32)))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB"])
def test_transparent_pixels_are_white_and_half_transparent_ones_half_white(tmp_path, mode):
    path = tmp_path / "clear.png"
    black = Image.new("RGBA", (3, 1), (0, 0, 0, 255))
    black.putpixel((1, 0), (0, 0, 0, 0))
    if mode in ("RGBA", "LA"):
        black.putpixel((2, 0), (0, 0, 0, 128))
        black.convert(mode).save(path)
        wanted = [0, 255, 127]
    else:  # one level or colour is the transparent one
        picture = Image.new("L", (3, 1), 0)
        picture.putpixel((1, 0), 7)
        picture.convert(mode).save(path, transparency=(7, 7, 7) if mode == "RGB" else 7)
        wanted = [0, 255, 0]
    assert [pixel[0] for pixel in np.asarray(read_picture(path, 1).convert("RGB"))[0].tolist()] == wanted


def test_palette_colours_are_looked_up_and_not_read_as_grey_levels(tmp_path, quadrants):
    for ending in ("png", "gif"):
        path = tmp_path / f"palette.{ending}"
        quadrants.quantize(8).save(path)
        assert corners(read_picture(path, 16)) == corners(quadrants)


def test_bilevel_pictures_are_black_and_white(tmp_path):
    path = tmp_path / "fax.png"
    Image.fromarray(np.array([[True, False]])).save(path)
    assert np.asarray(read_picture(path, 1)).tolist() == [[255, 0]]


def test_cmyk_jpeg_has_the_colours_it_shows(tmp_path, quadrants):
    path = tmp_path / "print.jpg"
    quadrants.convert("CMYK").save(path, quality=100)
    for got, wanted in zip(corners(read_picture(path, 16)), corners(quadrants), strict=True):
        assert np.abs(np.subtract(got, wanted)).max() < 40


@pytest.mark.parametrize("ending", ["gif", "png", "webp", "tif"])
def test_of_an_animation_the_first_frame_is_read(tmp_path, quadrants, ending):
    path = tmp_path / f"moving.{ending}"
    options = {"lossless": True} if ending == "webp" else {}
    quadrants.save(path, save_all=True, append_images=[Image.new("RGB", (16, 16), "black")], **options)
    assert corners(read_picture(path, 16)) == corners(quadrants)


def test_a_large_jpeg_is_decoded_small_but_never_below_twice_the_size(tmp_path):
    path = tmp_path / "large.jpg"
    Image.new("RGB", (1600, 800), "red").save(path)
    assert read_picture(path, 64).size == (400, 200)
    assert read_picture(path, 800).size == (1600, 800)


def test_an_enormous_claim_is_refused_before_allocation(tmp_path, claiming):
    for width, height in ((60000, 60000), (12000, 12000), (2**31 - 1, 2**31 - 1)):
        path = tmp_path / "huge.png"
        path.write_bytes(claiming(width, height))
        for read in (read_header, lambda p: read_picture(p, 8)):
            with warnings.catch_warnings(), warnings_silenced(), pytest.raises(UnreadableError, match="million"):
                read(path)


def test_broken_exif_does_not_cost_the_picture(tmp_path, quadrants):
    path = tmp_path / "photo.jpg"
    quadrants.save(path, exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + bytes(9), quality=95)
    with warnings_silenced():
        assert read_picture(path, 16).size == (16, 16)


def test_reasons_say_what_is_wrong(tmp_path, monkeypatch):
    def reason(data: bytes) -> str:
        path = tmp_path / "file.jpg"
        path.write_bytes(data)
        with pytest.raises(UnreadableError) as caught:
            read_picture(path, 16)
        return str(caught.value)

    jpeg = io.BytesIO()
    Image.effect_noise((64, 64), 80).save(jpeg, "JPEG")
    assert reason(b"") == "empty file"
    assert reason(b"dear diary") == "not an image"
    assert reason(jpeg.getvalue()[:-700]) == "truncated"
    with pytest.raises(UnreadableError, match="does not exist"):
        read_picture(tmp_path / "nowhere.png", 8)

    def locked(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", locked)
    assert reason(jpeg.getvalue()) == "no permission to read it"


# --- grey levels of other than 8 or 16 bits ---------------------------------------------------------------------------

MAX_SAMPLE_VALUE = 281  # a TIFF tag


@pytest.mark.parametrize("ending", ["tif", "png", "pgm"])
def test_twelve_bit_data_in_sixteen_bits_keep_their_brightness(tmp_path, ending):
    levels = np.array([[0, 1024, 2048, 4095]], np.uint16)
    path = tmp_path / f"camera.{ending}"
    if ending == "pgm":  # its header states the largest value
        path.write_bytes(b"P5 4 1 4095\n" + levels.astype(">u2").tobytes())
    else:
        Image.fromarray(levels).save(path)
    picture = read_picture(path, 4)
    assert np.asarray(picture)[0].tolist() == [0, 64, 128, 255]
    assert ending == "pgm" or picture.info[BITS] == 12


@pytest.mark.parametrize(
    ("stated", "levels", "wanted"),
    [
        (1023, [0, 512, 1023], [0, 128, 255]),
        (16383, [0, 8192, 16383], [0, 128, 255]),
        (3127, [0, 2048, 3127], [0, 128, 195]),  # the largest value that occurs, as many programs state it
        (65535, [0, 2048, 4095], [0, 8, 16]),
        (255, [0, 128, 255], [0, 128, 255]),
        (1023, [0, 512, 65535], [0, 2, 255]),  # a tag that the values contradict
    ],
)
def test_a_tiff_file_may_state_its_largest_value(tmp_path, stated, levels, wanted):
    path = tmp_path / "camera.tif"
    Image.fromarray(np.array([levels], np.uint16)).save(path, tiffinfo={MAX_SAMPLE_VALUE: stated})
    assert np.asarray(read_picture(path, 4))[0].tolist() == wanted


def test_eight_bit_data_in_sixteen_bits_keep_their_brightness(tmp_path):
    path = tmp_path / "mask.png"
    Image.fromarray(np.array([[0, 128, 255]], np.uint16)).save(path)
    assert np.asarray(read_picture(path, 4))[0].tolist() == [0, 128, 255]


def test_a_sixteen_bit_tiff_whose_zero_is_white_is_not_read_as_a_negative(tmp_path):
    path = tmp_path / "scan.tif"
    Image.fromarray(np.array([[0, 65535]], np.uint16)).save(path, tiffinfo={262: 0})
    assert np.asarray(read_picture(path, 2))[0].tolist() == [255, 0]


def png_with_key(bits: int, kind: int, row: bytes, width: int, key: tuple[int, ...]) -> bytes:
    """A PNG file of one row whose key colour is transparent; kind 0 is grey, 2 is RGB."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, bits, kind, 0, 0, 0))
    clear = chunk(b"tRNS", struct.pack(f">{len(key)}H", *key))
    return b"\x89PNG\r\n\x1a\n" + header + clear + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("bits", "kind", "row", "key", "wanted"),
    [
        (16, 0, np.array([0, 9000, 20000, 65535], ">u2").tobytes(), (9000,), [0, 255, 78, 255]),
        (16, 0, np.array([0, 100, 65535, 4095], ">u2").tobytes(), (65535,), [0, 6, 255, 255]),  # around 12-bit data
        (16, 2, np.repeat(np.array([0, 300, 40000, 65535], ">u2"), 3).tobytes(), (40000,) * 3, [0, 1, 255, 255]),
        (8, 0, bytes([0, 7, 8, 255]), (7,), [0, 255, 8, 255]),
        (4, 0, bytes([0x07, 0xF1]), (7,), [0, 255, 255, 17]),
        (2, 0, bytes([0b00_01_10_11]), (1,), [0, 255, 170, 255]),
        (1, 0, bytes([0b0101_0000]), (0,), [255, 255, 255, 255]),
    ],
)
def test_the_key_colour_of_a_png_file_is_white_at_every_depth(tmp_path, bits, kind, row, key, wanted):
    path = tmp_path / "key.png"
    path.write_bytes(png_with_key(bits, kind, row, 4, key))
    picture = read_picture(path, 4)
    assert np.asarray(picture.convert("L"))[0].tolist() == wanted
    assert picture.info[OVER_WHITE]
