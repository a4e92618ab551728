"""The files of `vpfb sample`: a folder that is there already, and the classes in an archive."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from cli_runner import Vpfb
from PIL import Image

from vpfb_core import data

DRAW = ("sample", "-o", "pictures/", "--nfe", "4", "--seed")


def test_samples_in_a_folder_take_the_place_of_older_ones_and_of_nothing_else(vpfb: Vpfb) -> None:
    assert "older" not in vpfb(*DRAW, "1", "-n", "3").err
    Path("pictures/cat.png").write_bytes(b"a picture of another program")
    again = vpfb(*DRAW, "2", "-n", "2")
    assert again.code == 0
    assert "3 older samples in pictures replaced" in again.err
    assert sorted(path.name for path in Path("pictures").iterdir()) == ["000000.png", "000001.png", "cat.png"]


def test_a_picture_of_another_program_is_not_overwritten(vpfb: Vpfb) -> None:
    Path("pictures").mkdir()
    Image.new("L", (8, 8)).save("pictures/000001.png")
    refused = vpfb(*DRAW, "3", "-n", "1")
    assert refused.code == 2
    assert "000001.png would be overwritten, and vpfb did not write it" in refused.err
    assert [path.name for path in Path("pictures").iterdir()] == ["000001.png"]


def test_samples_of_classes_keep_their_labels_in_an_archive(vpfb: Vpfb) -> None:
    assert (
        vpfb("sample", "-m", "digits", "-n", "5", "--class", "3", "--class", "1", "--nfe", "2", "-o", "s.npz").code == 0
    )
    drawn = data.load("s.npz", conditional=True)
    assert drawn.labels is not None
    names = [drawn.groups[0].classes[i] for i in drawn.labels[:, 0].tolist()]
    assert names == ["3", "1", "3", "1", "3"]
    assert drawn.groups[0].classes == tuple("0123456789")


def test_samples_of_no_class_have_no_labels(vpfb: Vpfb) -> None:
    assert vpfb("sample", "-m", "digits", "-n", "2", "--nfe", "2", "-o", "s.npz").code == 0
    assert np.load("s.npz").files == ["images", "seed"]
