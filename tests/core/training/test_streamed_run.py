"""Training on a folder that is read on the way: the same batches, the same run after a stop, nothing left behind."""

from __future__ import annotations

import csv
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import vpfb_core as vpfb
from vpfb_core import data
from vpfb_core.data import ImageSet, LoadOptions, Source, StreamedSet, reader, streamed_batches, streaming
from vpfb_core.data.batches import Batches, Order
from vpfb_core.errors import DataError
from vpfb_core.machine import container as checkpoint
from vpfb_core.model.runs import Run
from vpfb_core.training import Progress, Result, loop
from vpfb_core.training.state import read_state

CPU = torch.device("cpu")
NONE = ImageSet("none", torch.empty(0, 3, 8, 8, dtype=torch.uint8))


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Folders of more than 50 files are streamed, after a look at 20 of them; small grids; runs outside of the tree."""
    monkeypatch.setattr(streaming, "STREAMED_FILES", 50)
    monkeypatch.setattr(streaming, "SAMPLE", 20)
    monkeypatch.setattr(streaming, "MOST_HELD_OUT", 8)
    monkeypatch.setattr(loop, "GRID_IMAGES", 4)
    monkeypatch.setattr(loop, "CHECKS", 2)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """120 different pictures of 8×8, in two sub-folders."""
    draw = np.random.default_rng(0)
    for i in range(120):
        path = tmp_path / "imgs" / ("even", "odd")[i % 2] / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path, compress_level=1)
    return tmp_path / "imgs"


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


def train(stop_after: int | None = None, **settings: Any) -> Result:
    """A short run on the folder, asked to stop after some steps of this session."""
    taken = 0

    def count(_progress: Progress) -> None:
        nonlocal taken
        taken += 1

    small = {"data": "imgs", "widths": (8, 8), "batch_size": 16, "steps": 12, "threads": 1, "sample_every": 50}
    config = vpfb.TrainConfig(**(small | settings))
    return vpfb.train(config, on_step=count, should_stop=lambda: taken == stop_after)


def state(run: Run) -> dict[str, Tensor]:
    return checkpoint.read(run.state, "state").tensors


def assert_equal_bit_for_bit(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


# --- batches ----------------------------------------------------------------------------------------------------------


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
        images, labels = streamed[step]
        assert torch.equal(images, expected[step][0])
        assert torch.equal(labels, expected[step][1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_arrive_whole_on_a_gpu(folder: Path, batches: Any) -> None:
    here, there = (
        batches(stream(folder, conditional=True), device=torch.device(device)) for device in ("cpu", "cuda")
    )  # fmt: skip
    for step in range(30):
        for ours, theirs in zip(there[step], here[step], strict=True):
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
    assert "--val-fraction 0" in (caught.value.hint or "")


def test_closing_ends_the_threads_at_once_with_much_left_to_read(
    folder: Path, batches: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = reader.read_picture
    monkeypatch.setattr(reader, "read_picture", lambda *a: time.sleep(0.05) or honest(*a))
    streamed = batches(stream(folder, workers=2), batch_size=16)
    streamed[0]
    assert reading_threads()
    began = time.monotonic()
    streamed.close()
    assert time.monotonic() - began < 1, "80 pictures of 50 ms are still queued for two threads"
    assert not reading_threads()


# --- runs -------------------------------------------------------------------------------------------------------------


def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(folder / "even" / "000.png", folder / "odd" / "copy.png")
    (folder / "odd" / "bad.png").write_bytes(b"junk")
    whole = train(out="whole", workers=1, conditional=True)
    stopped = train(out="parts", workers=4, conditional=True, stop_after=5)
    assert (stopped.status, stopped.step) == ("interrupted", 5)
    monkeypatch.setattr(reader, "KEPT_BYTES", 0)
    rest = train(out="parts", resume="auto", workers=2, conditional=True)
    assert (rest.status, rest.step) == ("finished", 12)
    assert_equal_bit_for_bit(state(rest.run), state(whole.run))
    assert rest.val_residual == whole.val_residual
    assert whole.notes == ("left out 1 unreadable file: odd/bad.png (not an image)",)
    assert not reading_threads()


def test_a_run_without_a_held_out_side_measures_on_what_it_trains_on(folder: Path) -> None:
    result = train(steps=2, val_fraction=0.0)
    assert np.isfinite(result.val_residual)
    assert result.model.about["data"]["images"] == 120


def test_training_stops_at_too_many_unreadable_files_and_keeps_the_last_good_state(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vpfb_core.data.unreadable._FEWEST", 50)
    monkeypatch.setattr(reader, "KEPT_BYTES", 0)
    steps = 0

    def spoil(progress: Progress) -> None:
        nonlocal steps
        steps = progress.step
        if steps == 3:
            for path in list(folder.rglob("*.png"))[::2]:
                path.write_bytes(b"")

    config = vpfb.TrainConfig(data="imgs", widths=(8, 8), batch_size=16, steps=60, threads=1, out="run")
    with pytest.raises(DataError, match=r"image files read so far in 'imgs' cannot be read: .*\(empty file\)"):
        vpfb.train(config, on_step=spoil)
    kept = read_state(Run(Path("run")))
    assert kept is not None
    assert kept.counters.step == steps, "saved where it stopped"
    assert Run(Path("run")).status()["status"] == "interrupted"
    assert not reading_threads()


def test_a_folder_that_vanishes_stops_the_run_and_once_it_is_back_the_run_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(out="whole")
    monkeypatch.setattr(reader, "KEPT_BYTES", 0)

    def take_away(progress: Progress) -> None:
        if progress.step == 2:
            folder.rename("away")

    config = vpfb.TrainConfig(
        data="imgs", widths=(8, 8), batch_size=16, steps=12, threads=1, sample_every=50, out="run"
    )
    with pytest.raises(DataError, match="'imgs' has disappeared"):
        vpfb.train(config, on_step=take_away)
    Path("away").rename(folder)
    assert_equal_bit_for_bit(state(train(out="run", resume="auto").run), state(whole.run))


def test_an_exception_in_the_middle_leaves_no_thread(folder: Path) -> None:
    def interrupt(_progress: Progress) -> None:
        raise KeyboardInterrupt

    config = vpfb.TrainConfig(data=str(folder), widths=(8, 8), steps=60, threads=1)
    with pytest.raises(KeyboardInterrupt):
        vpfb.train(config, on_step=interrupt)
    assert not reading_threads()


@pytest.mark.parametrize("limit", [50, 1000], ids=["streamed", "in memory"])
def test_every_file_that_was_left_out_is_named_in_the_run_folder_with_the_reason(
    folder: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(streaming, "STREAMED_FILES", limit)
    bad = {"even/empty.png": b"", "odd/words.png": b"not a picture", 'odd/a "b", c.png': b"\x89PNG\r\n\x1a\n"}
    for name, content in bad.items():
        (folder / name).write_bytes(content)
    config = vpfb.TrainConfig(
        data=str(folder), size=8, widths=(8,), steps=20, batch_size=16, threads=1, val_fraction=0.05, out="run"
    )
    vpfb.train(config)
    with Run(Path("run")).skipped.open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["file", "reason"]
    assert dict(rows[1:]).keys() == bad.keys()
    assert dict(rows[1:])["even/empty.png"] == "empty file"
    assert all(reason for _, reason in rows[1:])
