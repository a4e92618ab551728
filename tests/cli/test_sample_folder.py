"""`vpfb sample -o FOLDER`: what becomes of what is there already."""

from __future__ import annotations

from pathlib import Path

from cli_runner import Vpfb
from PIL import Image

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
