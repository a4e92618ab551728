from __future__ import annotations

import unicodedata

import pytest
from present import present

from vpfb_core import data
from vpfb_core.errors import DataError


def test_sub_folder_names_are_classes_in_natural_order_at_any_depth(tmp_path, good):
    for name in ("10", "2", "apple/red", "apple/green"):
        good(tmp_path / name, 1)
    good(tmp_path, 2)
    found = data.load(str(tmp_path), conditional=True)
    assert [(group.name, group.classes) for group in found.groups] == [("class", ("2", "10", "apple"))]
    labels = dict(zip(present(found.files), present(found.labels)[:, 0].tolist(), strict=True))
    assert labels["2/good000.png"] == 0
    assert labels["10/good000.png"] == 1
    assert labels["apple/red/good000.png"] == labels["apple/green/good000.png"] == 2
    assert labels["good000.png"] == -1
    notes = "\n".join(found.notes)
    assert "3 classes from the sub-folder names: 2, 10, apple" in notes
    assert "images outside any sub-folder, without a class: 2" in notes


def test_without_conditional_a_folder_has_no_labels(tmp_path, good):
    good(tmp_path / "a", 1)
    good(tmp_path / "b", 1)
    found = data.load(str(tmp_path))
    assert found.labels is None
    assert found.groups == ()


@pytest.mark.parametrize("sub_folder", ["", "only"])
def test_a_folder_with_neither_table_nor_classes_is_an_error(tmp_path, good, sub_folder):
    good(tmp_path / sub_folder, 2)
    with pytest.raises(DataError, match="has no classes") as caught:
        data.load(str(tmp_path), conditional=True)
    assert "attributes.csv" in present(caught.value.hint)


def test_labels_stay_with_their_picture_when_others_are_skipped(tmp_path, good):
    good(tmp_path / "b", 30)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "bad.png").write_bytes(b"")
    good(tmp_path / "a", 1)
    found = data.load(str(tmp_path), conditional=True)
    assert present(found.labels)[:, 0].tolist() == [0] + [1] * 30


@pytest.fixture
def table(tmp_path, good):
    """table(text) writes attributes.csv beside good000.png … good003.png and a/good000.png; load() reads all."""
    good(tmp_path, 4)
    good(tmp_path / "a", 1)

    def write(text: str | bytes) -> data.InMemory:
        (tmp_path / "attributes.csv").write_bytes(text.encode() if isinstance(text, str) else text)
        return data.load(str(tmp_path), conditional=True)

    return write


def test_attributes_are_groups_of_absent_and_present(table):
    found = table("file,old,red hair\na/good000.png,1,0\ngood000.png,0,1\n./good001.png,,1\n\ngood003.png,0.0,1.0\n")
    assert [(g.name, g.classes) for g in found.groups] == [
        ("old", ("~old", "old")),
        ("red hair", ("~red hair", "red hair")),
    ]
    assert found.files == ("a/good000.png", *(f"good00{i}.png" for i in range(4)))
    assert found.labels.tolist() == [[1, 0], [0, 1], [-1, 1], [-1, -1], [0, 1]]
    notes = "\n".join(found.notes)
    assert "2 attributes from attributes.csv: old, red hair" in notes
    assert "images not in attributes.csv, with unknown attributes: 1 (good002.png)" in notes
    assert "ignored" not in notes


def test_minus_one_means_absent_as_in_celeba(table):
    assert table("file,old\ngood000.png,-1\ngood001.png,1\n").labels[1:3, 0].tolist() == [0, 1]


def test_minus_one_beside_zero_is_ambiguous_and_refused(table):
    with pytest.raises(DataError, match="old is -1 on line 3 and 0 on line 2"):
        table("file,old\ngood000.png,0\ngood001.png,-1\n")


def test_the_table_wins_over_sub_folders(table):
    assert [group.name for group in table("file,old\ngood000.png,1\n").groups] == ["old"]


def test_files_of_the_table_that_are_not_there_are_noted(table):
    assert "files in attributes.csv that do not exist: 2 (x.png, y.png)" in "\n".join(
        table("file,old\ngood000.png,1\nx.png,1\ny.png,0\n").notes
    )


def test_tables_from_spreadsheets_with_byte_order_mark_and_crlf_are_read(table):
    assert table(b'\xef\xbb\xbffile,old\r\n"good000.png",1\r\n').labels[1, 0] == 1


def test_composed_and_decomposed_names_are_the_same_file(table, tmp_path):
    (tmp_path / "good000.png").rename(tmp_path / unicodedata.normalize("NFD", "é.png"))
    found = table(unicodedata.normalize("NFC", "file,old\né.png,1\n"))
    assert found.labels.max() == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1 names no attribute"),
        ("file\ngood000.png\n", "line 1 names no attribute"),
        ("file,old,\ngood000.png,1,1\n", "line 1: attribute name ''"),
        ("file,old,old\ngood000.png,1,1\n", "line 1: attribute name 'old'"),
        ("file,~old\ngood000.png,1\n", "line 1: attribute name '~old'"),
        ("file,old\n", "no rows"),
        ("file,old\ngood000.png,1\ngood001.png,yes\n", "line 3: old is 'yes'"),
        ("file,old\ngood000.png,2\n", "line 2: old is '2'"),
        ("file,old\n\ngood000.png,1,1\n", "line 3 has 3 fields, line 1 has 2"),
        ("file,old\ngood000.png\n", "line 2 has 1 fields"),
        ("file,old\n,1\n", "line 2 names no file"),
        ("file,old\ngood000.png,1\ngood001.png,1\n./good000.png,0\n", "line 4 names 'good000.png' again, after line 2"),
        ("file,old\nGOOD000.PNG,1\n", "no row names an image of the folder; the first row is 'GOOD000.PNG'"),
        ("file;old\ngood000.png;1\n", "line 1 names no attribute"),
        ('file,old\n"good000.png"x,1\n', "line 2 is not CSV"),
        ('file,old\n"good000.png,1\n', "is not CSV"),
        (b"file,old\ngood000.png,1\ncaf\xe9.png,1\n", "line 3 is not UTF-8"),
        ("file,old\ngood000.png,1\n".encode("utf-16"), "line 1 is not UTF-8"),
    ],
)
def test_a_wrong_table_is_refused_with_the_line(table, text, message):
    with pytest.raises(DataError) as caught:
        table(text)
    assert message in caught.value.message
    assert "attributes.csv" in caught.value.message


@pytest.mark.parametrize("odd", ["e\u0301", "\u00e9", "a=b", "tab\there", "line\nbreak", "no\u00a0break", "日本"])
def test_classes_are_called_as_their_folders_are_on_disk(tmp_path, good, odd):
    good(tmp_path / odd, 1)
    good(tmp_path / "plain", 1)
    found = data.load(str(tmp_path), conditional=True)
    assert set(found.groups[0].classes) == {odd, "plain"}
    assert f"{odd}/good000.png" in present(found.files)
