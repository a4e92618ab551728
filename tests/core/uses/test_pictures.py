"""Grids, and files of pictures."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vpfb_core as vpfb
from vpfb_core.errors import ConfigError
from vpfb_core.machine.files import write_bytes
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


def test_samples_in_a_folder_are_distinguished_from_other_pictures(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    assert pictures.samples_in(folder) == []
    pictures.write_folder(folder, torch.rand(3, 1, 8, 8), first=9)
    for name in ("cat.png", "1.png", "notes.txt", "000003.jpg"):
        (folder / name).write_bytes(b"something else")
    assert [path.name for path in pictures.samples_in(folder)] == ["000009.png", "000010.png", "000011.png"]
    Image.new("L", (8, 8)).save(folder / "000010.png")
    with pytest.raises(ConfigError, match=r"000010\.png would be overwritten, and vpfb did not write it"):
        pictures.samples_in(folder)
