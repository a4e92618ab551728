"""Grids, and files of pictures."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

import vpfb_core as vpfb
from vpfb_core.data.image_statistics import to_bytes
from vpfb_core.errors import ConfigError
from vpfb_core.machine.files import replacing
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
    images = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with replacing(tmp_path / "s.npz") as file, pictures.npz(file, 5, (3, 8, 8)) as append:
        append(images[:2])
        append(images[2:])
    assert torch.equal(vpfb.data.load(str(tmp_path / "s.npz")).images, to_bytes(images))
    with np.load(tmp_path / "s.npz") as archive:
        assert np.array_equal(archive["images"], to_bytes(images).permute(0, 2, 3, 1).numpy())


def test_the_same_images_make_the_same_archive(tmp_path: Path) -> None:
    for name in ("a.npz", "b.npz"):
        with replacing(tmp_path / name) as file, pictures.npz(file, 3, (1, 4, 4)) as append:
            append(torch.zeros(3, 1, 4, 4))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_an_archive_of_many_images_needs_no_more_memory_than_one_batch(tmp_path: Path) -> None:
    batch = torch.zeros(1000, 1, 64, 64, dtype=torch.uint8)  # 4 MB
    with replacing(tmp_path / "s.npz") as file, pictures.npz(file, 20_000, (1, 64, 64)) as append:
        append(batch)
        tracemalloc.start()
        for _ in range(19):
            append(batch)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 3 * batch.numel()
    with np.load(tmp_path / "s.npz") as archive:
        assert archive["images"].shape == (20_000, 64, 64, 1)


@pytest.mark.parametrize(
    ("count", "shape", "options", "fits"),
    [
        (4096, (3, 64, 64), {}, True), (1_000_000_000, (1, 8, 8), {}, False), (100_000, (3, 64, 64), {}, False),
        (2000, (1, 8, 8), {"columns": 2000}, False), (900, (1, 8, 8), {"columns": 900}, True),
        (64, (1, 8, 8), {"frames": 17}, True), (4096, (3, 64, 64), {"frames": 17}, False),
    ],
)  # fmt: skip
def test_a_grid_that_no_file_can_hold_is_refused_with_the_limit(
    count: int, shape: tuple[int, ...], options: dict[str, Any], fits: bool
) -> None:
    if fits:
        pictures.require_grid(count, shape, **options)
    else:
        with pytest.raises(ConfigError, match="pixels") as error:
            pictures.require_grid(count, shape, **options)
        assert "268,435,456" in str(error.value.hint)


def test_the_size_of_a_grid_is_known_before_it_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    for count, columns in ((1, None), (5, None), (9, None), (10, None), (6, 2), (7, 2)):
        height, width = pictures.tile(torch.zeros(count, 1, 20, 30), columns).shape[1:]
        monkeypatch.setattr(pictures, "LARGEST_GRID", height * width)
        pictures.require_grid(count, (1, 20, 30), columns=columns)
        monkeypatch.setattr(pictures, "LARGEST_GRID", height * width - 1)
        with pytest.raises(ConfigError):
            pictures.require_grid(count, (1, 20, 30), columns=columns)


def test_a_gif_has_every_frame() -> None:
    frames = torch.rand(6, 1, 20, 20, generator=torch.Generator().manual_seed(0))
    opened = Image.open(io.BytesIO(pictures.gif(frames)))
    assert (len(ImageSequence.all_frames(opened)), opened.info["loop"]) == (6, 0)


@pytest.mark.parametrize(
    ("path", "kind"), [("a.png", "png"), ("b/A.PNG", "png"), ("x.npz", "npz"), ("x.gif", "gif"), ("-", "stdout"),
                       ("out", "folder"), ("out.d/", "folder")],
)  # fmt: skip
def test_the_name_of_the_output_says_what_it_is(path: str, kind: str) -> None:
    assert pictures.output_format(path) == kind


def test_an_unknown_output_is_refused_with_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"\.jpg") as error:
        pictures.output_format("a.jpg")
    assert ".gif" in (error.value.hint or "")


def test_an_animation_is_neither_written_nor_offered_where_there_is_no_path_from_noise() -> None:
    for out in ("a.gif", "a.jpg"):
        with pytest.raises(ConfigError) as error:
            pictures.output_format(out, animated=False)
        assert ".gif" not in (error.value.hint or "")


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
