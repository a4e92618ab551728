"""Folders that hold the training, validation and test data of one data set."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from present import present

from vpfb_core import data
from vpfb_core.data import LoadOptions, StreamedSet, streaming
from vpfb_core.data.catalogue import has_splits
from vpfb_core.data.divisions import part_of_name
from vpfb_core.errors import DataError


def write(folder: Path, count: int, seed: int) -> None:
    """Different pictures for every folder and seed."""
    folder.mkdir(parents=True, exist_ok=True)
    draws = np.random.default_rng([seed, *map(ord, folder.name)])
    for i in range(count):
        Image.fromarray(draws.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{i}.png")


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "photos"


def divide(root: Path, train: str = "train", other: str = "val") -> Path:
    """8 pictures to train on and 4 others, in the classes cat and dog."""
    for kind in ("cat", "dog"):
        write(root / train / kind, 4, 1)
        write(root / other / kind, 2, 2)
    return root


def for_training(source: str = "photos", **options) -> data.ImageSet:
    found = data.find(source, LoadOptions(validation=True, **options))
    assert isinstance(found, data.ImageSet)
    return found


@pytest.mark.parametrize(
    ("train", "other", "part"),
    [
        ("train", "val", "val"),
        ("Training", "Testing", "test"),
        ("train", "valid", "val"),
        ("TRAIN", "validation", "val"),
        ("train", "dev", "val"),
        ("training_set", "test_set", "test"),
        ("train2017", "val2017", "val"),
        ("train-images", "Test-Images", "test"),
    ],
)
def test_classes_come_from_below_and_the_other_part_is_held_out(photos, train, other, part):
    divide(photos, train, other)
    images = for_training(conditional=True)
    assert images.groups[0].classes == ("cat", "dog")
    rows, held_out = data.split(images, 0.5, seed=3)
    assert [present(images.files)[i].split("/")[0] for i in rows] == [train] * 8
    assert [present(images.files)[i].split("/")[0] for i in held_out] == [other] * 4
    assert present(images.labels)[held_out, 0].tolist() == [0, 0, 1, 1]
    assert f"training uses train, and validation {part}" in " ".join(images.notes)
    assert data.load(f"photos:{part}").files == ("cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png")
    assert len(data.load(f"photos:{other}")) == 4
    assert len(data.load("photos:train")) == 8
    assert len(data.load("photos:all")) == 12
    assert has_splits("photos")


def test_without_classes_held_out_pictures_are_not_trained_on_either(photos):
    write(photos / "train", 5, 1)
    write(photos / "test", 3, 2)
    images = for_training()
    rows, held_out = data.split(images, 0.1, seed=0)
    assert [present(images.files)[i] for i in rows] == [f"train/{i}.png" for i in range(5)]
    assert [present(images.files)[i] for i in held_out] == [f"test/{i}.png" for i in range(3)]
    assert data.split(images, 0, seed=0)[1].tolist() == held_out.tolist(), "whatever the share of validation"


def test_statistics_are_those_of_the_training_part(photos):
    divide(photos)
    assert torch.equal(for_training().sample, data.load("photos:train").images)


@pytest.mark.parametrize("beside", ["empty", "docs", "runs", "@eaDir", "extra", "preview.png"])
def test_other_things_beside_the_parts_do_not_matter_where_their_classes_agree(photos, beside):
    divide(photos)
    if beside in ("extra", "@eaDir"):
        write(photos / beside / "cat", 2, 9)
    elif beside == "preview.png":
        write(photos, 1, 9)
        (photos / "0.png").rename(photos / beside)
    else:
        (photos / beside).mkdir()
        (photos / beside / "README.txt").write_text("")
    images = for_training(conditional=True)
    assert images.groups[0].classes == ("cat", "dog")
    assert len(images) == 12
    said = f"left out beside them: {beside}" in " ".join(images.notes)
    assert said == (beside in ("extra", "preview.png"))


def test_a_validation_folder_without_pictures_leaves_a_random_share(photos):
    divide(photos)
    shutil.rmtree(photos / "val")
    (photos / "val").mkdir()
    images = for_training(conditional=True)
    assert (len(images), images.held_out) == (8, None)
    assert images.groups[0].classes == ("cat", "dog")


@pytest.mark.parametrize("others", [["bus"], ["bus", "boat"]])
def test_classes_that_are_called_train_and_test_are_classes_where_others_are_beside_them(photos, others):
    for name in ("train", "test", *others):
        write(photos / name, 3, 1)
    images = for_training(conditional=True)
    assert set(images.groups[0].classes) == {"train", "test", *others}
    assert "'train' and 'test' are taken as ordinary sub-folders" in " ".join(images.notes)
    assert not has_splits("photos")
    assert len(data.load("photos:test")) == 3, "a sub-folder can be named all the same"


def test_a_class_that_is_called_train_is_a_class(photos):
    write(photos / "train", 3, 1)
    write(photos / "bus", 3, 1)
    assert for_training(conditional=True).groups[0].classes == ("bus", "train")


def test_all_of_a_divided_folder_has_its_sub_folders_as_classes(photos):
    divide(photos)
    assert data.load("photos:all", conditional=True).groups[0].classes == ("train", "val")


def test_of_three_parts_validation_is_held_out_and_test_is_left_for_tests(photos):
    divide(photos)
    write(photos / "test" / "cat", 3, 3)
    images = for_training()
    assert {file.split("/")[0] for file in present(images.files)} == {"train", "val"}
    assert "('photos:test' names the other)" in " ".join(images.notes)
    assert len(data.load("photos", split="test")) == 3
    assert len(data.load("photos", split="val")) == 4


def test_where_there_is_no_test_part_validation_serves_and_typing_it_is_an_error(photos):
    divide(photos)
    assert len(data.load("photos", split="test")) == 4
    with pytest.raises(DataError, match="has no sub-folder 'test'"):
        data.load("photos:test")


def test_a_folder_without_a_training_part_cannot_be_trained_on(photos):
    divide(photos, "val", "test")
    with pytest.raises(DataError, match="is divided into val and test, and has no part 'train'") as caught:
        for_training()
    assert "photos:val" in present(caught.value.hint)
    assert len(data.load("photos", split="test")) == 4


def test_an_archive_that_wraps_its_folders_is_looked_through(photos):
    divide(photos / "archive" / "photos-v2")
    images = for_training(conditional=True)
    assert images.groups[0].classes == ("cat", "dog")
    assert len(data.split(images, 0.1, 0)[1]) == 4
    assert len(data.load("photos:val")) == 4


def test_classes_of_validation_pictures_are_those_of_training(photos):
    divide(photos)
    write(photos / "val" / "ant", 1, 4)  # would be the first class, by its name
    shutil.rmtree(photos / "val" / "cat")
    images = for_training(conditional=True)
    assert images.groups[0].classes == ("cat", "dog")
    labels = dict(zip(present(images.files), present(images.labels)[:, 0].tolist(), strict=True))
    assert labels["val/dog/0.png"] == labels["train/dog/0.png"] == 1
    assert labels["val/ant/0.png"] == -1
    assert "classes of the validation images that training lacks: ant" in images.notes


def test_validation_pictures_without_classes_are_of_an_unknown_class(photos):
    write(photos / "train" / "cat", 3, 1)
    write(photos / "train" / "dog", 3, 1)
    write(photos / "val", 2, 2)
    images = for_training(conditional=True)
    assert present(images.labels)[images.held_out, 0].tolist() == [-1, -1]


def test_each_part_may_have_its_table_of_attributes(photos):
    divide(photos)
    (photos / "train" / "attributes.csv").write_text("file,big,nice\ncat/0.png,1,0\ndog/0.png,0,1\n")
    (photos / "val" / "attributes.csv").write_text("file,nice\ncat/1.png,1\n")
    images = for_training(conditional=True)
    labels = dict(zip(present(images.files), present(images.labels).tolist(), strict=True))
    assert [group.name for group in images.groups] == ["big", "nice"]
    assert labels["train/cat/0.png"] == [1, 0]
    assert labels["val/cat/1.png"] == [-1, 1]
    assert labels["val/dog/1.png"] == [-1, -1]


def test_copies_of_validation_pictures_are_not_trained_on(photos):
    divide(photos)
    shutil.copy(photos / "val" / "cat" / "0.png", photos / "train" / "dog" / "copy.png")
    images = for_training()
    assert len(images) == 12
    assert "train/dog/copy.png" not in present(images.files)
    assert "left out of training: 1 exact copy of images for validation" in images.notes


def test_where_both_parts_are_the_same_pictures_they_are_trained_on_and_that_is_said(photos):
    divide(photos)
    shutil.rmtree(photos / "val")
    shutil.copytree(photos / "train", photos / "val")
    images = for_training()
    assert len(data.split(images, 0.1, 0)[0]) == 8
    assert "exact copies of those for validation" in " ".join(images.notes)


def test_the_fingerprint_tells_which_pictures_are_held_out(photos):
    divide(photos)
    assert for_training().fingerprint() != data.load("photos:all").fingerprint()


def test_a_divided_folder_that_is_read_during_training_is_held_out_the_same(photos, monkeypatch):
    divide(photos)
    in_memory = for_training(conditional=True, size=8)
    monkeypatch.setattr(streaming, "STREAMED_FILES", 10)
    streamed = data.find("photos", LoadOptions(validation=True, conditional=True, size=8, stream=True))
    assert isinstance(streamed, StreamedSet)
    for ours, theirs in zip(data.split(streamed, 0.1, 0), data.split(in_memory, 0.1, 0), strict=True):
        assert ours.tolist() == theirs.tolist()
    assert torch.equal(present(streamed.labels), present(in_memory.labels))
    assert len(streamed.sample) == 8


@pytest.mark.parametrize("name", ["trains", "tests", "Trainer", "value", "evaluate", "latest", "contest", "cat", ""])
def test_other_names_are_no_parts(name):
    assert part_of_name(name) is None
