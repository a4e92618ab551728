from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from present import present

from vpfb_core import data
from vpfb_core.errors import DataError


@pytest.fixture
def colour() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 12, 12, 3), dtype=np.uint8)


@pytest.fixture
def saved(tmp_path):
    """saved(array) or saved(name=array, …) writes an .npy or .npz file; returns its path."""

    def save(array: np.ndarray | None = None, **arrays: Any) -> str:
        path = tmp_path / ("file.npz" if array is None else "file.npy")
        if array is None:
            np.savez_compressed(path, **arrays)
        else:
            np.save(path, array)
        return str(path)

    return save


def test_arrays_of_the_right_size_are_kept_to_the_bit(saved, colour):
    for path in (saved(colour), saved(images=colour), saved(anything=colour), saved(np.asfortranarray(colour))):
        found = data.load(path)
        assert torch.equal(found.images, torch.from_numpy(colour.transpose(0, 3, 1, 2).copy()))
        assert found.labels is None
        assert found.files is None
        assert found.notes == ("6 colour images of 12x12",)


def test_grey_arrays_with_and_without_a_channel_axis_are_the_same(saved, colour):
    grey = colour[..., 0]
    assert data.load(saved(grey)).fingerprint() == data.load(saved(grey[..., None])).fingerprint()
    assert data.load(saved(grey)).images.shape == (6, 1, 12, 12)
    assert data.load(saved(grey), channels=3).images.shape == (6, 3, 12, 12)


def test_arrays_and_folders_of_the_same_pictures_give_the_same_set(tmp_path, saved, good):
    names = good(tmp_path / "folder", 8, size=20)
    array = np.stack([np.asarray(Image.open(tmp_path / "folder" / name)) for name in names])
    choices: list[dict[str, Any]] = [
        {}, {"size": 16}, {"size": 32}, {"channels": 1}, {"size": 16, "channels": 1}, {"max_size": 10}
    ]  # fmt: skip
    for options in choices:
        folder = data.load(str(tmp_path / "folder"), **options)
        assert folder.fingerprint() == data.load(saved(array), **options).fingerprint(), options


def test_colour_arrays_that_show_grey_become_grey(saved, colour):
    grey = colour[..., :1].repeat(3, axis=-1)
    found = data.load(saved(grey))
    assert torch.equal(found.images[:, 0], torch.from_numpy(grey[..., 0].copy()))


def test_only_colour_arrays_may_be_flipped(saved, colour):
    assert data.load(saved(colour)).flips
    assert not data.load(saved(colour[..., 0])).flips


def test_a_fourth_channel_is_opacity_over_white(saved):
    pixels = np.zeros((2, 8, 8, 4), np.uint8)
    pixels[0, ..., 3] = 255
    assert data.load(saved(pixels)).images[:, 0, 0, 0].tolist() == [0, 255]


def test_oblong_arrays_are_cropped_to_the_centre(saved):
    pixels = np.zeros((2, 8, 20), np.uint8)
    pixels[:, :, 6:14] = 200
    found = data.load(saved(pixels))
    assert found.images.shape == (2, 1, 8, 8)
    assert found.images.unique().tolist() == [200]


def test_labels_are_classes_named_by_their_numbers(saved, colour):
    found = data.load(saved(images=colour, labels=np.array([7, 3, -1, 7, 11, 3])), conditional=True)
    assert found.groups == (data.ConditionGroup("class", ("3", "7", "11")),)
    assert present(found.labels).tolist() == [[1], [0], [-1], [1], [2], [0]]


def test_labels_are_positions_in_classes_where_these_are_given(saved, colour):
    arrays = {"images": colour, "labels": np.array([0, 1, 2, 2, 1, 0]), "classes": np.array(["a", "bb", "c"])}
    found = data.load(saved(**arrays), conditional=True)
    assert found.groups[0].classes == ("a", "bb", "c")
    assert present(found.labels)[:, 0].tolist() == [0, 1, 2, 2, 1, 0]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "no array named 'labels'"),
        ({"labels": np.zeros(5, int)}, "labels are int64 of shape (5,)"),
        ({"labels": np.zeros(6)}, "labels are float64"),
        ({"labels": np.full(6, -2)}, "label -2 is negative"),
        ({"labels": np.full(6, -1)}, "all labels are -1"),
        ({"labels": np.full(6, 2), "classes": np.array(["a", "b"])}, "label 2 has no name among the 2 classes"),
        ({"labels": np.zeros(6, int), "classes": np.array(["a", "a"])}, "not a list of distinct names"),
        ({"labels": np.zeros(6, int), "classes": np.arange(3)}, "not a list of distinct names"),
    ],
)
def test_wrong_labels_are_refused_and_only_when_asked_for(saved, colour, arrays, message):
    path = saved(images=colour, **arrays)
    assert len(data.load(path)) == 6
    with pytest.raises(DataError) as caught:
        data.load(path, conditional=True)
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 8, 8), np.float32), "float32 of shape (4, 8, 8)"),
        (np.zeros((4, 8, 8), bool), "bool"),
        (np.zeros((4, 8, 8), np.int64), "int64"),
        (np.zeros((0, 8, 8), np.uint8), "(0, 8, 8)"),
        (np.zeros((4, 0, 8), np.uint8), "(4, 0, 8)"),
        (np.zeros((8, 8), np.uint8), "(8, 8)"),
        (np.zeros((), np.uint8), "()"),
        (np.zeros((8, 8, 3), np.uint8), "single image"),
        (np.zeros((4, 3, 8, 8), np.uint8), "(4, 3, 8, 8)"),
        (np.zeros((4, 8, 8, 2), np.uint8), "(4, 8, 8, 2)"),
        (np.zeros((1, 4, 8, 8, 3), np.uint8), "(1, 4, 8, 8, 3)"),
    ],
)
def test_arrays_of_another_kind_are_refused_with_dtype_and_shape(saved, array, message):
    for path in (saved(array), saved(images=array)):
        with pytest.raises(DataError) as caught:
            data.load(path)
        assert message in caught.value.message
        assert caught.value.hint


def test_channels_first_and_fractions_get_the_line_that_mends_them(saved):
    with pytest.raises(DataError) as caught:
        data.load(saved(np.zeros((4, 3, 8, 8), np.uint8)))
    assert "transpose(0, 2, 3, 1)" in present(caught.value.hint)
    with pytest.raises(DataError) as caught:
        data.load(saved(np.zeros((4, 8, 8, 3))))
    assert "astype('uint8')" in present(caught.value.hint)


def test_an_archive_whose_images_cannot_be_told_is_refused(saved, colour):
    with pytest.raises(DataError, match="the arrays x, y, and none named 'images'"):
        data.load(saved(x=colour, y=colour))
    with pytest.raises(DataError, match="no arrays"):
        data.load(saved())


def header(shape: tuple[int, ...], dtype: str = "|u1") -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": dtype, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def test_enormous_claims_are_refused_before_allocation(tmp_path):
    for shape in ((10**9, 1024, 1024, 3), (10**15,) * 4):
        content = header(shape) + bytes(100)
        (tmp_path / "file.npy").write_bytes(content)
        with zipfile.ZipFile(tmp_path / "file.npz", "w") as archive:
            archive.writestr("images.npy", content)
        for name in ("file.npy", "file.npz"):
            with pytest.raises(DataError, match="more than 8 GiB"):
                data.load(str(tmp_path / name))


def test_a_file_cut_anywhere_is_an_error(saved, colour):
    for path in map(Path, (saved(colour), saved(images=colour, labels=np.arange(6)))):
        whole = path.read_bytes()
        for length in (0, 1, 4, 9, 60, 127, 130, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:length])
            with pytest.raises(DataError, match=r"truncated|damaged"):
                data.load(str(path))


def test_a_flipped_bit_in_an_archive_is_noticed(tmp_path, saved, colour):
    path = tmp_path / "file.npz"
    saved(images=colour)
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 4
    path.write_bytes(whole)
    with pytest.raises(DataError, match=r"damaged"):
        data.load(str(path))
