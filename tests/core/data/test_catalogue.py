from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from vpfb_core import data
from vpfb_core.errors import DataError


def test_a_bare_name_is_the_built_in_set_and_a_written_path_the_folder(tmp_path, monkeypatch, good):
    good(tmp_path / "digits", 3)
    monkeypatch.chdir(tmp_path)
    built_in = data.load("digits")
    assert len(built_in) == 1797
    assert "./digits" in " ".join(built_in.notes)
    for path in ("./digits", "digits/", str(tmp_path / "digits")):
        found = data.load(path)
        assert len(found) == 3
        assert found.name == path


def test_a_bare_word_that_is_no_name_is_a_folder_or_file_here(tmp_path, monkeypatch, good):
    good(tmp_path / "photos", 3)
    np.save(tmp_path / "pictures.npy", np.zeros((2, 8, 8), np.uint8))
    monkeypatch.chdir(tmp_path)
    assert len(data.load("photos")) == 3
    assert len(data.load("pictures.npy")) == 2


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path, monkeypatch, good):
    good(tmp_path / "photos", 3)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(data.load("~/photos")) == 3


@pytest.mark.parametrize("source", ["digts", "Digits", "digit"])
def test_a_misspelt_name_gets_the_nearest_one(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=f"no data set, folder or file named '{source}'") as caught:
        data.load(source)
    assert "did you mean 'digits'?" in caught.value.hint


@pytest.mark.parametrize("source", ["qqqq", "", "\0", "x" * 300, "~nobody-of-this-name"])
def test_a_word_that_means_nothing_gets_the_names_that_exist(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as caught:
        data.load(source)
    if len(source) < 100:
        assert "data sets: digits" in caught.value.hint


def test_a_missing_path_is_not_mistaken_for_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"no folder or file './digits'"):
        data.load("./digits")


@pytest.mark.parametrize("name", ["notes.txt", "photos.zip", "weights"])
def test_a_file_of_another_kind_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(DataError, match="neither a folder, nor an image") as caught:
        data.load(str(tmp_path / name))
    assert (caught.value.hint is not None) == name.endswith(".zip")


def test_one_picture_loads_and_the_notes_say_what_that_means(tmp_path, good):
    good(tmp_path, 1, size=40)
    for source in (tmp_path, tmp_path / "good000.png"):
        found = data.load(str(source))
        assert found.images.shape == (1, 3, 40, 40)
        assert "reproduce that one picture" in " ".join(found.notes)
        assert found.files == ("good000.png",)


def test_one_unreadable_picture_is_an_error(tmp_path):
    (tmp_path / "only.PNG").write_bytes(b"")
    with pytest.raises(DataError, match=r"none of the 1 image file .*only.PNG \(empty file\)"):
        data.load(str(tmp_path / "only.PNG"))


def test_one_picture_has_no_classes(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "one.png")
    with pytest.raises(DataError, match="no classes"):
        data.load(str(tmp_path / "one.png"), conditional=True)
