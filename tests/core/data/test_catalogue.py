from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from present import present

from vpfb_core import data
from vpfb_core.data import catalogue, sets
from vpfb_core.errors import ConfigError, DataError


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
    assert "did you mean 'digits'?" in present(caught.value.hint)


@pytest.mark.parametrize("source", ["qqqq", "", "\0", "x" * 300, "~nobody-of-this-name"])
def test_a_word_that_means_nothing_gets_the_names_that_exist(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as caught:
        data.load(source)
    if len(source) < 100:
        assert "data sets: digits" in present(caught.value.hint)


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
        assert "reproduce that image" in " ".join(found.notes)
        assert found.files == ("good000.png",)


def test_one_unreadable_picture_is_an_error(tmp_path):
    (tmp_path / "only.PNG").write_bytes(b"")
    with pytest.raises(DataError, match=r"^cannot read '.*only.PNG': empty file$"):
        data.load(str(tmp_path / "only.PNG"))


def test_one_picture_has_no_classes(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "one.png")
    with pytest.raises(DataError, match="no classes"):
        data.load(str(tmp_path / "one.png"), conditional=True)


# --- splits -----------------------------------------------------------------------------------------------------------


def test_the_split_of_a_set_without_one_is_fixed_and_parts_it():
    train, test, everything = (data.load(name, conditional=True) for name in ("digits:train", "digits:test", "digits"))
    assert (len(train), len(test)) == (1438, 359)
    both = torch.cat([train.images, test.images]).flatten(1)
    assert torch.equal(
        both.unique(dim=0, return_counts=True)[1], everything.images.flatten(1).unique(dim=0, return_counts=True)[1]
    )
    assert torch.bincount(present(test.labels)[:, 0], minlength=10).min() > 20
    assert len(
        torch.cat([train.images.flatten(1).unique(dim=0), test.images.flatten(1).unique(dim=0)]).unique(dim=0)
    ) == len(train.images.flatten(1).unique(dim=0)) + len(test.images.flatten(1).unique(dim=0)), (
        "no picture is on both sides"
    )


def test_the_same_pictures_are_held_out_at_any_size():
    as_they_are, larger = (data.load("digits:test", size=size, conditional=True).labels for size in (None, 16))
    assert torch.equal(present(as_they_are), present(larger))
    assert data.load("digits:test", size=16).images.shape[2] == 16


def test_a_set_without_a_split_is_whole_unless_one_is_typed():
    for split in (None, "train", "test"):
        assert len(data.load("digits", split=split)) == 1797
    assert "is not divided, so all of it is used" in " ".join(data.load("digits", split="test").notes)
    assert len(data.load("digits:test", split="train")) == 359


def test_a_limit_applies_to_the_split():
    assert len(data.load("digits:test", limit=100)) == 100
    assert len(data.load("digits:test", limit=1000)) == 359


def test_any_source_can_be_limited(tmp_path, good):
    good(tmp_path / "photos", 9)
    np.savez(tmp_path / "file.npz", images=np.zeros((9, 8, 8), np.uint8), labels=np.arange(9))
    for source in ("photos", "file.npz"):
        found = data.load(str(tmp_path / source), limit=4)
        assert len(found) == 4
        assert "limited to 4 of 9, a fixed choice" in found.notes
    labels = present(data.load(str(tmp_path / "file.npz"), limit=4, conditional=True).labels)
    assert labels[:, 0].tolist() == data.LoadOptions(limit=4).rows(9).tolist()


@pytest.mark.parametrize(
    ("source", "count"),
    [("noise", 1_000), ("shapes", 10_000), ("moons", 20_000), ("digits", 1_797), ("digits:test", 359),
     ("shuffled:digits", 1_797), ("photos", 9)],
)  # fmt: skip
def test_a_limit_is_noted_once_and_only_where_it_leaves_data_out(source, count, tmp_path, good, monkeypatch):
    good(tmp_path / "photos", 9)
    monkeypatch.chdir(tmp_path)
    for limit, noted in ((7, [f"limited to 7 of {count:,}, a fixed choice"]), (count, []), (count + 1, [])):
        found = data.load(source, limit=limit)
        assert len(found) == min(limit, count)
        assert [note for note in found.notes if "limit" in note] == noted


@pytest.mark.parametrize("source", ["digits:valid", "cifar:val"])
def test_an_unknown_split_of_a_known_set_is_refused_with_those_that_exist(source):
    with pytest.raises(DataError, match="has no split 'val") as caught:
        data.load(source)
    assert f"{source.split(':')[0]}:test" in present(caught.value.hint)


@pytest.fixture
def divided(tmp_path, good, monkeypatch):
    """A folder named photos in the layout of many data sets: train/<class>/*, test/<class>/*."""
    monkeypatch.chdir(tmp_path)
    for split, count in {"train": 6, "test": 3}.items():
        for kind in ("cat", "dog"):
            good(tmp_path / "photos" / split / kind, count)
    return tmp_path / "photos"


def test_a_folder_divided_into_train_and_test_trains_on_train_and_says_so(divided):
    (divided / "README.txt").write_text("about")
    found = data.load("photos", conditional=True)
    assert len(found) == 12
    assert found.groups[0].classes == ("cat", "dog")
    assert "this is train ('photos:test' names the other)" in " ".join(found.notes)
    assert len(data.load("photos", split="test")) == 6


def test_all_of_a_divided_folder_can_be_asked_for(divided):
    assert len(data.load("photos", split="all")) == 18


def test_a_split_of_a_folder_is_its_sub_folder(divided):
    assert len(data.load("photos:test", conditional=True)) == 6
    assert len(data.load(f"{divided}:train")) == 12
    assert data.load("photos:test").name == "photos:test"


def test_a_folder_with_labels_beside_train_and_test_is_one_set(divided):
    (divided / "attributes.csv").write_text("file,nice\ntrain/cat/good000.png,1\n")
    assert len(data.load("photos")) == 18


def test_a_folder_of_other_sub_folders_has_no_splits(tmp_path, good, monkeypatch):
    monkeypatch.chdir(tmp_path)
    good(tmp_path / "photos" / "train", 3)
    good(tmp_path / "photos" / "bus", 3)
    assert len(data.load("photos")) == 6
    with pytest.raises(DataError, match="'photos' has no sub-folder 'test'"):
        data.load("photos:test")


def test_a_folder_whose_name_ends_like_a_split_is_that_folder(divided, good):
    good(divided.parent / "photos:test", 2)
    assert len(data.load("photos:test")) == 2


# --- additions --------------------------------------------------------------------------------------------------------


def test_a_new_data_set_takes_one_file(tmp_path, monkeypatch):
    (tmp_path / "stripes.py").write_text(
        "import torch\n"
        "from vpfb_core.data import ImageSet, LoadOptions, NamedSet\n"
        "def load_stripes(options: LoadOptions) -> ImageSet:\n"
        "    return ImageSet('stripes', torch.arange(8, dtype=torch.uint8).expand(20, 1, 8, 8))\n"
        "SETS = (NamedSet('stripes', 'stripes', load_stripes),)\n"
    )
    before = list(catalogue.SETS)
    monkeypatch.setattr(sets, "__path__", [*sets.__path__, str(tmp_path)])
    found = catalogue.registered()
    del sys.modules["vpfb_core.data.sets.stripes"]
    assert [name for name in found if name != "stripes"] == before
    monkeypatch.setitem(catalogue.SETS, "stripes", found["stripes"])
    assert data.load("stripes:test").shape == (1, 8, 8)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("cifar", "cifar10:test", True),
        ("mnist", "fashion-mnist", False),
        ("./imgs", "imgs", True),
        ("imgs:test", "imgs/", True),
        ("mnist", "shuffled:mnist", False),
        ("digits", "./digits", False),
        ("shuffled:mnist", "shuffled:mnist:test", True),
    ],
)
def test_names_are_compared_without_alias_split_and_spelling(
    one: str, other: str, same: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert catalogue.same_set(one, other) == same


@pytest.mark.parametrize(("name", "value"), [("size", "8"), ("max_size", 8.5), ("limit", 2.5), ("workers", "two")])
def test_a_number_that_is_not_whole_is_refused_by_its_name(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"{name} = .*: expected a whole number"):
        data.load("digits", **{name: value})  # type: ignore[arg-type]
