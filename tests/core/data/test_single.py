"""One image, and its mask, as a model sees them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vpfb_core import data
from vpfb_core.data.single import read_image, read_known
from vpfb_core.errors import DataError

SHAPE = (1, 8, 8)


def save(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def halves(height: int, width: int) -> np.ndarray:
    """White above, black below."""
    pixels = np.zeros((height, width), np.uint8)
    pixels[: height // 2] = 255
    return pixels


def test_an_image_of_the_models_size_comes_as_it_is(tmp_path: Path) -> None:
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    found = read_image(save(tmp_path / "a.png", pixels), SHAPE)
    assert torch.equal(found, torch.from_numpy(pixels)[None])


@pytest.mark.parametrize("channels", [1, 3])
def test_another_size_and_colour_is_brought_to_the_models_as_training_images_are(tmp_path: Path, channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 31, 3), dtype=np.uint8)
    path = save(tmp_path / "a.jpg", pixels)
    found = read_image(path, (channels, 8, 8))
    assert torch.equal(found, data.load(str(path), size=8, channels=channels).images[0])


def test_white_is_known_and_black_is_not(tmp_path: Path) -> None:
    image = save(tmp_path / "a.png", np.full((8, 8), 77, np.uint8))
    for name, mask in {"grey": halves(8, 8), "colour": np.stack([halves(8, 8)] * 3, 2)}.items():
        pixels, known = read_known(image, save(tmp_path / f"{name}.png", mask), (3, 8, 8))
        assert (pixels.shape, known.shape) == ((3, 8, 8), (1, 8, 8))
        assert (pixels == 77).all()
        assert torch.equal(known[0], torch.from_numpy(mask.reshape(8, 8, -1)[:, :, 0] == 255))


def test_the_mask_is_cropped_and_resized_with_the_image(tmp_path: Path) -> None:
    image = save(tmp_path / "a.jpg", np.zeros((320, 480, 3), np.uint8))
    mask = np.zeros((320, 480), np.uint8)
    mask[:, :240] = 255  # the left half, also of the centre square
    _, known = read_known(image, save(tmp_path / "m.png", mask), SHAPE)
    assert known[0, :, :4].all()
    assert not known[0, :, 4:].any()


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (halves(8, 9), "9x8 pixels, but .*8x8"),
        (np.full((8, 8), 255, np.uint8), "white everywhere"),
        (np.full((8, 8), 200, np.uint8), "counts as white everywhere.* grey levels are 200 to 200, .* begins at 128"),
        (np.zeros((8, 8), np.uint8), "black everywhere"),
        (np.full((8, 8), 90, np.uint8), "counts as black everywhere.* grey levels are 90 to 90, .* begins at 128"),
    ],
)
def test_a_mask_that_makes_no_sense_is_refused(tmp_path: Path, mask: np.ndarray, words: str) -> None:
    image = save(tmp_path / "a.png", np.zeros((8, 8), np.uint8))
    with pytest.raises(DataError, match=words):
        read_known(image, save(tmp_path / "m.png", mask), SHAPE)


def test_what_is_no_readable_image_is_refused_by_name(tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    for path, words in [(tmp_path / "absent.png", "no image"), (tmp_path, "folder"), (broken, "cannot be read")]:
        with pytest.raises(DataError, match=words) as caught:
            read_image(path, SHAPE)
        assert str(path) in caught.value.message
