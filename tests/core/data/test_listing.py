"""What in a folder of pictures is not data: runs and pictures of vpfb, and folders of other programs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from vpfb_core import data
from vpfb_core.data.image_statistics import to_bytes
from vpfb_core.data.listing import list_images
from vpfb_core.data.own_files import is_own_picture
from vpfb_core.errors import DataError
from vpfb_core.uses import pictures
from vpfb_core.uses.plotting.histogram import histogram


def draw(count: int = 4) -> torch.Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def write_run(folder: Path) -> None:
    """A run folder as training leaves it, with a sample grid."""
    (folder / "samples").mkdir(parents=True)
    for name in ("config.toml", "log.csv", "state.json"):
        (folder / name).write_text("")
    (folder / "samples" / "step-0000000.png").write_bytes(pictures.png(pictures.tile(draw())))


@pytest.mark.parametrize("path", ["runs/001-imgs", "my model", "deep/er/runs/7"])
def test_a_run_in_a_folder_of_pictures_is_left_out_wherever_it_is_and_the_notes_say_so(tmp_path, good, path):
    names = good(tmp_path, 3)
    write_run(tmp_path / path)
    good(tmp_path / path / "more", 2)
    found = data.load(str(tmp_path))
    assert found.files == tuple(names)
    assert f"left out 1 run of vpfb: {path}" in found.notes


@pytest.mark.parametrize("name", ["grid.png", "holiday.png", "000001.png", "sub/montage.PNG", "walk.gif", "plot.png"])
def test_pictures_that_vpfb_wrote_are_left_out_among_others_whatever_their_names(tmp_path, good, name):
    names = good(tmp_path, 3)
    (tmp_path / "sub").mkdir()
    if name.endswith(".gif"):
        content = pictures.gif(draw())
    elif name == "plot.png":
        content = histogram(torch.rand(20), torch.rand(20), names=("a", "b"), axis="energy", title="t")
    else:
        content = pictures.png(pictures.tile(draw()))
    (tmp_path / name).write_bytes(content)
    assert is_own_picture(tmp_path / name)
    found = data.load(str(tmp_path))
    assert found.files == tuple(names)
    assert f"left out 1 picture that vpfb wrote: {name}" in found.notes


@pytest.mark.parametrize("name", ["grid.png", "samples.png", "000001.png", "step-0000000.png", "walk.gif"])
def test_a_picture_of_somebody_else_is_data_though_it_is_named_like_ours(tmp_path, good, name):
    good(tmp_path, 2)
    Image.new("RGB", (8, 8), "red").save(tmp_path / name)
    assert len(data.load(str(tmp_path))) == 3


def test_samples_alone_can_be_read_and_a_grid_beside_them_is_left_out(tmp_path):
    pictures.write_folder(tmp_path, draw(5))
    (tmp_path / "grid.png").write_bytes(pictures.png(pictures.tile(draw())))
    found = data.load(str(tmp_path))
    assert found.files == tuple(f"{i:06d}.png" for i in range(5))
    assert torch.equal(found.images, to_bytes(draw(5)))
    assert "all of these images were written by vpfb" in found.notes


def test_grids_alone_can_be_read(tmp_path):
    for i in range(2):
        (tmp_path / f"grid-{i}.png").write_bytes(pictures.png(pictures.tile(draw())))
    assert len(data.load(str(tmp_path))) == 2
    assert len(data.load(str(tmp_path / "grid-0.png"))) == 1


@pytest.mark.parametrize(
    "name",
    ["@eaDir", "__MACOSX", ".ipynb_checkpoints", "thumbnails", "Thumbs", ".thumbnails", "$RECYCLE.BIN", "#recycle"],
)
def test_folders_of_other_programs_are_neither_classes_nor_data(tmp_path, good, name):
    for kind in ("cat", "dog"):
        good(tmp_path / kind, 3)
        good(tmp_path / kind / name, 3)
    good(tmp_path / name, 3)
    good(tmp_path / name / "cat", 3)
    (tmp_path / "cat" / "Thumbs.db").write_bytes(b"")
    found = data.load(str(tmp_path), conditional=True)
    assert found.groups[0].classes == ("cat", "dog")
    assert len(found) == 6
    said = f"left out 3 folders of other programs: {name}, cat/{name}, dog/{name}"
    assert (said in found.notes) == (not name.startswith("."))


def test_a_folder_of_which_nothing_is_left_says_what_was_left_out(tmp_path, good):
    good(tmp_path / "thumbnails", 3)
    write_run(tmp_path / "runs" / "001-imgs")
    with pytest.raises(DataError, match="left out 1 run of vpfb: runs/001-imgs; left out 1 folder of other") as caught:
        data.load(str(tmp_path))
    assert caught.value.hint == "name a folder itself to use what was left out"
    assert len(data.load(str(tmp_path / "thumbnails"))) == 3


def test_a_folder_with_a_configuration_and_no_results_is_no_run(tmp_path, good):
    good(tmp_path / "cat", 2)
    (tmp_path / "cat" / "config.toml").write_text("")
    assert len(list_images(tmp_path).files) == 2


def test_runs_are_no_class(tmp_path, good):
    good(tmp_path / "cat", 3)
    good(tmp_path / "dog", 3)
    write_run(tmp_path / "runs" / "001-imgs")
    assert data.load(str(tmp_path), conditional=True).groups[0].classes == ("cat", "dog")
