"""Training on a folder that is read on the way: the same batches, the same run after a stop, nothing left behind."""

from __future__ import annotations

import csv
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stopped_runs
from miniatures import write_folder
from stopped_runs import assert_equal_bit_for_bit, state_of

import vpfb_core as vpfb
from vpfb_core.data import reader, streaming
from vpfb_core.errors import DataError
from vpfb_core.model.runs import Run
from vpfb_core.training import Progress, Result
from vpfb_core.training.state import read_state

pytestmark = pytest.mark.usefixtures("small_limits")


@pytest.fixture(autouse=True)
def _in_an_empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No run of ours in the tree."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "imgs")


def reading_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("vpfb-read")]


def train(stop_after: int | None = None, **settings: Any) -> Result:
    """A short run on the folder, asked to stop after some steps of this session."""
    small = {"data": "imgs", "widths": (8,), "batch_size": 16, "steps": 12, "threads": 1, "sample_every": 50}
    return stopped_runs.train(vpfb.TrainConfig(**(small | settings)), stop_after)


def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(folder / "even" / "000.png", folder / "odd" / "copy.png")
    (folder / "odd" / "bad.png").write_bytes(b"junk")
    whole = train(out="whole", workers=1, conditional=True)
    stopped = train(out="parts", workers=4, conditional=True, stop_after=5)
    assert (stopped.status, stopped.step) == ("interrupted", 5)
    monkeypatch.setattr(reader, "KEPT_BYTES", 0)
    rest = train(out="parts", resume="auto", workers=2, conditional=True)
    assert (rest.status, rest.step) == ("finished", 12)
    assert_equal_bit_for_bit(state_of(rest.run), state_of(whole.run))
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

    config = vpfb.TrainConfig(data="imgs", widths=(8,), batch_size=16, steps=60, threads=1, out="run")
    with pytest.raises(DataError, match=r"image files read so far in 'imgs' cannot be read: .*\(empty file\)"):
        vpfb.train(config, on_step=spoil)
    kept = read_state(Run(Path("run")))
    assert kept is not None
    assert kept.counters.step == steps, "saved where it stopped"
    assert Run(Path("run")).status()["status"] == "interrupted"
    assert not reading_threads()


def test_a_folder_that_vanishes_stops_the_run_and_the_run_resumes_once_it_is_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(out="whole")
    monkeypatch.setattr(reader, "KEPT_BYTES", 0)

    def take_away(progress: Progress) -> None:
        if progress.step == 2:
            folder.rename("away")

    config = vpfb.TrainConfig(data="imgs", widths=(8,), batch_size=16, steps=12, threads=1, sample_every=50, out="run")
    with pytest.raises(DataError, match="'imgs' has disappeared"):
        vpfb.train(config, on_step=take_away)
    Path("away").rename(folder)
    assert_equal_bit_for_bit(state_of(train(out="run", resume="auto").run), state_of(whole.run))


def test_an_exception_in_the_middle_leaves_no_thread(folder: Path) -> None:
    def interrupt(_progress: Progress) -> None:
        raise KeyboardInterrupt

    config = vpfb.TrainConfig(data=str(folder), widths=(8,), steps=60, threads=1)
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
