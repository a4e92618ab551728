"""Grids, files of pictures, and where models are found."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vpfb_core as vpfb
from vpfb_core.errors import CheckpointError, ConfigError, DataError
from vpfb_core.machine.files import write_bytes
from vpfb_core.model.runs import find_model, list_runs, new_run
from vpfb_core.uses import pictures


def test_a_grid_shows_every_image_in_reading_order_enlarged_by_a_whole_factor() -> None:
    images = torch.linspace(0, 1, 5)[:, None, None, None].expand(5, 1, 8, 8)
    grid = pictures.tile(images)
    assert grid.shape == (1, 2 * 66 + 2, 3 * 66 + 2)
    centres = [(2 + 32 + 66 * (i // 3), 2 + 32 + 66 * (i % 3)) for i in range(6)]
    assert [round(float(grid[0, y, x]), 2) for y, x in centres] == [0, 0.25, 0.5, 0.75, 1, 1]
    assert pictures.tile(torch.zeros(1, 3, 100, 100)).shape == (3, 104, 104), "large images keep their pixels"


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_holds_the_rounded_pixels(channels: int) -> None:
    image = torch.rand(channels, 5, 7, generator=torch.Generator().manual_seed(0))
    back = np.asarray(Image.open(io.BytesIO(pictures.png(image)))).reshape(5, 7, channels)
    assert np.array_equal(back, np.rint(image.permute(1, 2, 0).numpy() * 255).astype(np.uint8))


def test_an_archive_of_samples_is_a_data_set(tmp_path: Path) -> None:
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    write_bytes(tmp_path / "s.npz", pictures.npz(images))
    assert torch.equal(vpfb.data.load(str(tmp_path / "s.npz")).images, pictures.to_bytes(images))


def test_a_gif_has_every_frame() -> None:
    frames = torch.rand(6, 1, 20, 20, generator=torch.Generator().manual_seed(0))
    opened = Image.open(io.BytesIO(pictures.gif(frames)))
    assert (opened.n_frames, opened.info["loop"]) == (6, 0)


@pytest.mark.parametrize(
    ("path", "kind"), [("a.png", "png"), ("b/A.PNG", "png"), ("x.npz", "npz"), ("x.gif", "gif"), ("-", "stdout"),
                       ("out", "folder"), ("out.d/", "folder")],
)  # fmt: skip
def test_the_name_of_the_output_says_what_it_is(path: str, kind: str) -> None:
    assert pictures.output_format(path) == kind


def test_an_unknown_output_is_refused_with_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"\.jpg"):
        pictures.output_format("a.jpg")


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bytes(tmp_path / "deep" / "file", b"old")

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="No space left"):
        write_bytes(tmp_path / "deep" / "file", b"new")
    assert [path.read_bytes() for path in (tmp_path / "deep").iterdir()] == [b"old"]
    with pytest.raises(DataError, match="is a folder"):
        write_bytes(tmp_path / "deep", b"x")


def test_runs_are_numbered_on_and_named_after_the_data(tmp_path: Path) -> None:
    paths = [new_run(name, tmp_path / "runs").path.name for name in ("./my imgs/", "cifar", "/a/b.npz")]
    assert paths == ["001-my-imgs", "002-cifar", "003-b.npz"]


def test_the_newest_run_with_a_model_is_meant_when_none_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_model() == find_model("digits"), "no run: the built-in model"
    for age, name in enumerate(["a", "b", "c"]):
        run = new_run(name)
        run.config.write_text("")
        if name != "c":
            run.model.write_text("")
        for path in run.path.iterdir():
            os.utime(path, (1e9 - age, 1e9 - age))
    assert find_model() == Path("runs/001-a/model.safetensors")
    assert [run.path.name for run in list_runs()] == ["001-a", "002-b", "003-c"]


def test_a_bare_built_in_name_is_that_and_a_path_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    assert find_model("digits").name == "digits.safetensors"
    with pytest.raises(CheckpointError, match="folder without a model"):
        find_model("./digits")
    with pytest.raises(CheckpointError, match="no model 'digit'"):
        find_model("digit")
