"""Batches that are read from disk: the same as in memory, in bounded memory, and nothing left behind."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from miniatures import write_folder
from PIL import Image
from torch import Tensor

from vpfb_core import data
from vpfb_core.data import ImageSet, LoadOptions, Source, StreamedSet, reader, streamed_batches
from vpfb_core.data.batches import Batches, Order
from vpfb_core.errors import DataError

CPU = torch.device("cpu")
NONE = ImageSet("none", torch.empty(0, 3, 8, 8, dtype=torch.uint8))

pytestmark = pytest.mark.usefixtures("small_limits")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "imgs")


def stream(folder: Path, **options: Any) -> StreamedSet:
    found = data.find(str(folder), LoadOptions(stream=True, **options))
    assert isinstance(found, StreamedSet)
    return found


@pytest.fixture
def batches() -> Iterator[Any]:
    """batches(images, rows, held_out, …): batches of a source that are closed in the end."""
    made: list[Batches] = []

    def make(
        images: Source,
        rows: Tensor | None = None,
        held_out: ImageSet = NONE,
        *,
        batch_size: int = 16,
        flip: bool = True,
        device: torch.device = CPU,
    ) -> Batches:
        rows = torch.arange(len(images)) if rows is None else rows
        made.append(images.batches(rows, Order(len(rows), batch_size, seed=1, flip=flip), device, held_out))
        return made[-1]

    yield make
    for each in made:
        each.close()


def reading_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("vpfb-read")]


@pytest.mark.parametrize("workers", [1, 5])
@pytest.mark.parametrize("kept_bytes", [0, 2**30])
def test_batches_equal_those_of_the_set_in_memory(
    folder: Path, batches: Any, monkeypatch: pytest.MonkeyPatch, workers: int, kept_bytes: int
) -> None:
    monkeypatch.setattr(reader, "KEPT_BYTES", kept_bytes)
    in_memory = data.load(str(folder), conditional=True)
    rows = torch.arange(5, 120)
    expected = batches(in_memory, rows)
    streamed = batches(stream(folder, conditional=True, workers=workers), rows)
    for step in (0, 1, 2, 7, 8, 3, 40):  # over the end of an epoch, and back as after a roll-back
        for ours, theirs in zip(streamed[step], expected[step], strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_arrive_whole_on_a_gpu(folder: Path, batches: Any) -> None:
    here, there = (
        batches(stream(folder, conditional=True), device=torch.device(device)) for device in ("cpu", "cuda")
    )  # fmt: skip
    for step in range(30):
        for ours, theirs in zip(there[step][:2], here[step][:2], strict=True):
            assert ours.device.type == "cuda"
            assert torch.equal(ours.cpu(), theirs)


def test_no_more_than_a_few_steps_are_read_ahead(folder: Path, batches: Any) -> None:
    images = stream(folder)
    streamed = batches(images, batch_size=8)
    streamed[0]
    wanted, deadline = 8 * (1 + streamed_batches.AHEAD), time.monotonic() + 30
    while images.reader._kept.sum() < wanted and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)  # for what must not come
    assert images.reader._kept.sum() == wanted


def test_copies_of_held_out_images_and_unreadable_files_are_replaced_the_same_way_whoever_asks(
    folder: Path, batches: Any
) -> None:
    held_out = stream(folder).subset(torch.tensor([0]))
    pixels = held_out.images
    for i in range(60, 66):  # odd ones only: the listing puts "even" first
        shutil.copy(folder / "even" / "000.png", folder / "odd" / f"copy{i}.png")
    (folder / "odd" / "bad.png").write_bytes(b"junk")
    images = stream(folder)
    rows = torch.arange(1, len(images))
    epoch = -(-len(rows) // 16)
    forwards = batches(images, rows, held_out)
    seen = [forwards[step][0] for step in range(2 * epoch)]
    copied = (torch.cat(seen) == pixels).flatten(1).all(1) | (torch.cat(seen) == pixels.flip(-1)).flatten(1).all(1)
    assert not copied.any()
    assert images.skipped == (("odd/bad.png", "not an image"),)
    backwards = batches(stream(folder, workers=3), rows, held_out)
    for step in reversed(range(2 * epoch)):
        assert torch.equal(backwards[step][0], seen[step])
    # Every place whose own image can be trained on has that image.
    order = batches(ImageSet("numbers", torch.arange(len(rows)).to(torch.uint8)[:, None, None, None]), flip=False)
    names = images.files
    places = torch.cat([order[step][0].flatten() for step in range(epoch)]).tolist()
    plain = batches(images, rows, held_out, flip=False)
    own = torch.cat([plain[step][0] for step in range(epoch)])
    for k, place in enumerate(places):
        name = names[int(rows[place])]
        if "copy" not in name and "bad" not in name:
            assert torch.equal(own[k], images.subset(rows[place : place + 1]).images[0]), name


def test_a_set_of_copies_of_the_held_out_image_says_so(tmp_path: Path, batches: Any) -> None:
    (tmp_path / "same").mkdir()
    for i in range(60):
        Image.new("RGB", (8, 8), (9, 99, 9)).save(tmp_path / "same" / f"{i}.png")
    images = stream(tmp_path / "same")
    with pytest.raises(DataError, match="no image is left to train on") as caught:
        batches(images, torch.arange(1, 60), images.subset(torch.tensor([0])))[0]
    assert "`val_fraction=0`" in (caught.value.hint or "")


def test_closing_ends_the_threads_at_once_with_much_left_to_read(
    folder: Path, batches: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = reader.read_picture

    def slow(path: Path, size: int) -> Image.Image:
        time.sleep(0.05)
        return honest(path, size)

    monkeypatch.setattr(reader, "read_picture", slow)
    streamed = batches(stream(folder, workers=2), batch_size=16)
    streamed[0]
    assert reading_threads()
    began = time.monotonic()
    streamed.close()
    assert time.monotonic() - began < 1, "80 pictures of 50 ms are still queued for two threads"
    assert not reading_threads()
