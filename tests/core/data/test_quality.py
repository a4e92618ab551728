"""What is said of images from which little can be learned."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from vpfb_core import data


def notes(folder, **options) -> str:
    return "\n".join(data.load(str(folder), **options).notes)


@pytest.mark.parametrize("colour", ["white", "black", (90, 120, 30)])
def test_blank_images_are_named(tmp_path, good, colour):
    good(tmp_path, 5)
    Image.new("RGB", (8, 8), colour).save(tmp_path / "scan 3.png")
    assert "1 of them is blank, in a single colour: scan 3.png" in notes(tmp_path)


def test_the_noise_of_a_blank_scan_is_no_content(tmp_path, good):
    good(tmp_path, 5)
    noise = np.random.default_rng(0).integers(251, 256, (8, 8), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "page.png")
    assert "1 of them is blank" in notes(tmp_path)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "I;16"])
def test_white_on_a_transparent_ground_is_said_to_vanish(tmp_path, good, mode):
    good(tmp_path, 3)
    icon = np.zeros((8, 8, 4), np.uint8)
    icon[2:6, 2:6] = 255
    picture = Image.fromarray(icon)
    for i in range(2):
        path = tmp_path / f"icon{i}.png"
        if mode in ("RGBA", "LA"):
            picture.convert(mode).save(path)
        elif mode == "P":
            Image.fromarray(icon[..., 0] // 255, "P").save(path, transparency=0)
            flat = Image.open(path)
            flat.putpalette([0, 0, 0, 255, 255, 255])
            flat.save(path, transparency=0)
        else:
            Image.fromarray(icon[..., 0].astype(np.uint16) * 257).save(path, transparency=0)
    said = notes(tmp_path)
    assert "blank, since they are white on a transparent ground, which is laid over white: 2 of them" in said
    assert "2 of them are blank, in a single colour: icon0.png, icon1.png" in said


def test_black_on_a_transparent_ground_is_as_good_as_any(tmp_path, good):
    good(tmp_path, 3)
    icon = np.zeros((8, 8, 4), np.uint8)
    icon[2:6, 2:6, 3] = 255
    Image.fromarray(icon).save(tmp_path / "icon.png")
    assert "blank" not in notes(tmp_path)


def test_copies_are_named_and_a_set_of_nothing_else_is_called_that(tmp_path, good):
    (name,) = good(tmp_path, 1)
    for i in range(3):
        (tmp_path / f"z{i}.png").write_bytes((tmp_path / name).read_bytes())
    assert "all images are identical" in notes(tmp_path)
    good(tmp_path, 3)
    assert "3 of them are exact copies of others: z0.png, z1.png, z2.png" in notes(tmp_path)
    for i in range(3):
        (tmp_path / f"z{i}.png").unlink()
    assert "cop" not in notes(tmp_path)


def test_dark_images_are_named(tmp_path, good):
    good(tmp_path, 3, grey=True)
    Image.fromarray(np.arange(0, 64, dtype=np.uint16).reshape(8, 8) * 50).save(tmp_path / "night.png")
    said = notes(tmp_path, channels=1)
    assert "12-bit grey levels in 16 bits, scaled by 4,095: 1 of them" in said
    assert "nearly black" not in said
    dark = np.random.default_rng(0).integers(0, 16, (8, 8), dtype=np.uint8)
    Image.fromarray(dark).save(tmp_path / "cellar.png")
    assert "1 of them is nearly black, without a value above 15 of 255: cellar.png" in notes(tmp_path, channels=1)


@pytest.mark.parametrize("kind", ["folder", "array", "opaque array"])
def test_grey_images_that_are_asked_for_say_how_many_lose_their_colour(tmp_path, good, kind):
    good(tmp_path, 3)
    good(tmp_path / "grey", 2, grey=True)
    source = tmp_path
    if kind != "folder":
        pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3 if kind == "array" else 4), dtype=np.uint8)
        source = tmp_path / "a.npy"
        np.save(source, pixels)
    said = "colour is dropped, since grey images were requested: 3 of them are in colour"
    assert said in notes(source, channels=1)
    assert said not in notes(source)
    assert "colour is dropped" not in notes(tmp_path / "grey", channels=1)


def test_small_classes_are_named_with_their_numbers(tmp_path, good):
    for name, count in {"ant": 1, "bee": 2, "cow": 10}.items():
        good(tmp_path / name, count)
    said = notes(tmp_path, conditional=True)
    assert "2 classes have fewer than 10 images, at least one of which is used for training: ant (1), bee (2)" in said
    assert "fewer than" not in notes(tmp_path)


def test_small_classes_of_an_array_are_named_as_well(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (24, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=np.repeat([0, 1], [21, 3]))
    assert "1 class has fewer than 10 images, at least one of which is used for training: 1 (3)" in notes(
        tmp_path / "a.npz", conditional=True
    )


@pytest.mark.parametrize("count", [1, 5])
def test_a_folder_of_nothing_but_one_blank_image_teaches_nothing(tmp_path, count):
    for i in range(count):
        Image.new("RGB", (8, 8), "white").save(tmp_path / f"{i}.png")
    assert "all images are blank and equal, so there is nothing to learn from them" in notes(tmp_path)
    for i in range(5):
        Image.new("RGB", (8, 8), (50 * i, 0, 0)).save(tmp_path / f"{i}.png")
    assert "5 of them are blank, in a single colour" in notes(tmp_path)


def test_nothing_is_said_of_the_sets_that_have_a_name():
    assert "blank" not in "".join(data.load("constant").notes)
