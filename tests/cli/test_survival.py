"""What a run survives: kill -9, full disks and signals at any moment, damaged states, data and settings that changed.

Every command is a process of its own. With fixed steps the run must end, bit for bit, where an uninterrupted one does.
"""

from __future__ import annotations

import csv
import errno
import json
import random
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from present import present
from warm_process import Ended, WarmProcess

from vpfb_core.errors import CheckpointError
from vpfb_core.machine import container as checkpoint
from vpfb_core.model.lock import locked
from vpfb_core.model.runs import Run
from vpfb_core.training.state import read_state

TRAIN = [
    "train", "--data", "digits", "--set", "widths=[8]", "--batch-size", "4", "--val-fraction", "0.005", "--steps", "6",
    "--save-every", "2", "--sample-every", "3", "--set", "log_every=1", "--threads", "1", "--out", "run", "-q",
]  # fmt: skip
RESUME = [*TRAIN, "--resume", "auto"]
OPERATIONS = 166  # on files, in a run of these settings

Tensors = dict[str, torch.Tensor]


def moments(few: int, many: int, of: int = OPERATIONS) -> list[object]:
    """Operations at which a fault comes: a few in every test run, many in the slow one."""
    drawn = random.Random(0).sample(range(1, of + 1), many)
    return [*drawn[:few], *(pytest.param(at, marks=pytest.mark.slow) for at in drawn[few:])]


@pytest.fixture(scope="module")
def uninterrupted(process: WarmProcess, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """The folder of a run that nothing interrupts, and the seconds that it took."""
    folder = tmp_path_factory.mktemp("whole") / "whole"
    folder.mkdir()
    ended = process.run(folder, *TRAIN)
    assert (ended.code, ended.err) == (0, "")
    assert ended.operations >= OPERATIONS
    return folder, ended.seconds


@pytest.fixture(scope="module")
def whole(uninterrupted: tuple[Path, float]) -> Tensors:
    """What it comes to."""
    return tensors(uninterrupted[0])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the run goes; the streams of the commands are kept beside it."""
    path = tmp_path / "here"
    path.mkdir()
    return path


@pytest.fixture(scope="module")
def killed(process: WarmProcess, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed after step 4, with its states of steps 4 and 2."""
    folder = tmp_path_factory.mktemp("killed") / "killed"
    folder.mkdir()
    process.run(folder, *TRAIN, kill_at=120)
    assert present(read_state(Run(folder / "run"))).counters.step == 4
    return folder / "run"


@pytest.fixture
def run(killed: Path, folder: Path) -> Run:
    """A copy of it in the folder."""
    shutil.copytree(killed, folder / "run")
    return Run(folder / "run")


def tensors(folder: Path) -> Tensors:
    """Of state and model."""
    run = Run(folder / "run")
    found = dict(checkpoint.read(run.state, "state").tensors)
    return found | {f"model/{name}": kept for name, kept in checkpoint.read(run.model, "model").tensors.items()}


def assert_goes_on_to_the_end(process: WarmProcess, folder: Path, whole: Tensors) -> Ended:
    ended = process.run(folder, *RESUME)
    assert ended.code == 0, ended.err
    assert_ended_as(folder, whole)
    return ended


def assert_ended_as(folder: Path, whole: Tensors) -> None:
    ours = tensors(folder)
    assert ours.keys() == whole.keys()
    assert [name for name in ours if not torch.equal(ours[name], whole[name])] == []
    run = Run(folder / "run")
    assert run.finished
    assert not list(run.path.rglob("*.part")), "what killed writers left is gone"
    steps = [int(row["step"]) for row in csv.DictReader(run.log.open())]
    assert steps == [0, 1, 2, 3, 4, 5, 6], "the log has every step once"


def contents(folder: Path) -> dict[str, bytes]:
    """Of the files that resuming needs."""
    return {path.name: path.read_bytes() for path in (folder / "run").glob("*state*.safetensors")}


# --- at any moment ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", moments(2, OPERATIONS))
def test_a_run_killed_at_any_operation_on_files_goes_on_to_the_same_end(
    at: int, process: WarmProcess, folder: Path, whole: Tensors
) -> None:
    assert process.run(folder, *RESUME, kill_at=at).code == -signal.SIGKILL
    again = process.run(folder, *RESUME, kill_at=1 + at // 2)  # and once more, while it is resumed
    assert again.code in (-signal.SIGKILL, 0)
    assert_goes_on_to_the_end(process, folder, whole)


@pytest.mark.parametrize("trial", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 60))])
def test_a_run_killed_at_any_time_goes_on_to_the_same_end(
    trial: int, process: WarmProcess, folder: Path, uninterrupted: tuple[Path, float], whole: Tensors
) -> None:
    draw, seconds = random.Random(trial), uninterrupted[1]
    for _ in range(3):
        process.run(folder, *RESUME, send=(seconds * draw.uniform(0.05, 1), signal.SIGKILL))
    assert_goes_on_to_the_end(process, folder, whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("trial", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 25))])
def test_a_signal_at_any_time_ends_the_run_with_130_and_it_goes_on_to_the_same_end(
    trial: int, number: int, process: WarmProcess, folder: Path, uninterrupted: tuple[Path, float], whole: Tensors
) -> None:
    moment = uninterrupted[1] * random.Random(100 * trial + number).uniform(0.05, 1)
    ended = process.run(folder, *RESUME, send=(moment, number))
    assert ended.code in (130, 0), ended.err  # or it had finished
    assert "Traceback" not in ended.err
    assert_goes_on_to_the_end(process, folder, whole)


def test_ctrl_c_in_a_long_run_saves_it_and_writes_a_model(process: WarmProcess, folder: Path) -> None:
    long = ["100000" if word == "6" else word for word in TRAIN]
    ended = process.run(folder, *long, "--compile", "off", interrupt_at=120)
    assert (ended.code, "saved in run" in ended.err) == (130, True), ended.err
    run = Run(folder / "run")
    assert present(read_state(run)).counters.step >= 2
    assert run.model.is_file()


@pytest.mark.parametrize("at", moments(1, OPERATIONS))
def test_a_disk_that_is_full_from_any_operation_on_is_a_data_error_and_costs_no_state(
    at: int, process: WarmProcess, folder: Path, whole: Tensors
) -> None:
    ended = process.run(folder, *RESUME, "--json", fails=(at, errno.ENOSPC))
    assert ended.code == 3, ended.err
    failure = json.loads(ended.out)["error"]
    assert (failure["kind"], failure["exit_code"]) == ("data", 3)
    assert "No space left" in failure["message"]
    if at > 60:  # two saves of three have been made
        assert read_state(Run(folder / "run")) is not None
    assert_goes_on_to_the_end(process, folder, whole)


@pytest.mark.parametrize("size", [400, *(pytest.param(n, marks=pytest.mark.slow) for n in (800, 3_000, 60_000))])
def test_files_that_cannot_grow_any_more_leave_both_states_as_they_were(
    size: int, process: WarmProcess, folder: Path, run: Run, whole: Tensors
) -> None:
    before = contents(folder)
    ended = process.run(folder, *RESUME, largest_file=size)
    assert (ended.code, "File too large" in ended.err) == (3, True), ended.err
    assert contents(folder) == before
    assert_goes_on_to_the_end(process, folder, whole)


# --- damage -----------------------------------------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, flip])
def test_of_two_states_the_whole_one_is_used_and_it_is_said(
    damage, process: WarmProcess, folder: Path, run: Run, whole: Tensors
) -> None:
    damage(run.state)
    damaged = run.state.read_bytes()
    noisy = [word for word in RESUME if word != "-q"]
    ended = process.run(folder, *noisy)
    assert ended.code == 0, ended.err
    assert "warning: run/state.safetensors" in ended.err
    assert "going on from step 2, the save before it" in ended.err
    assert_ended_as(folder, whole)
    assert (run.path / "damaged-1.state.safetensors").read_bytes() == damaged, "nothing is deleted"


@pytest.mark.parametrize("at", moments(1, 50, of=50))
def test_after_a_damaged_state_the_good_one_is_there_whenever_the_run_is_killed(
    at: int, process: WarmProcess, folder: Path, run: Run, whole: Tensors
) -> None:
    cut(run.state)
    process.run(folder, *RESUME, kill_at=at)
    assert read_state(run) is not None
    assert_goes_on_to_the_end(process, folder, whole)


def test_if_both_states_are_damaged_the_run_is_refused_and_nothing_touched(
    process: WarmProcess, folder: Path, run: Run
) -> None:
    for path in (run.state, run.earlier_state(1)):
        flip(path)
    before = contents(folder)
    ended = process.run(folder, *RESUME)
    assert ended.code == 4
    assert "state.safetensors is damaged" in ended.err
    assert contents(folder) == before
    with pytest.raises(CheckpointError, match="damaged"):
        read_state(run)


def test_a_run_whose_states_were_deleted_keeps_its_model(process: WarmProcess, folder: Path) -> None:
    assert process.run(folder, *TRAIN).code == 0
    kept = Run(folder / "run")
    for path in (kept.state, kept.earlier_state(1)):
        path.unlink()
    before = contents(folder)
    for words in (RESUME, ["train", "--resume", "run", "-q"]):
        ended = process.run(folder, *words)
        assert ended.code == 4
        assert "state.safetensors is missing" in ended.err
        assert contents(folder) == before


def test_a_finished_model_that_was_damaged_is_made_anew_from_the_state(
    process: WarmProcess, folder: Path, whole: Tensors
) -> None:
    assert process.run(folder, *TRAIN).code == 0
    flip(Run(folder / "run").model)
    assert_goes_on_to_the_end(process, folder, whole)


# --- what changed in the meantime -------------------------------------------------------------------------------------


def test_data_that_vanished_or_changed_is_refused_and_the_states_are_kept(process: WarmProcess, folder: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    data = folder / "images.npy"
    np.save(data, images)
    of_data = [data.name if word == "digits" else word for word in RESUME]
    assert process.run(folder, *of_data, kill_at=133).code == -signal.SIGKILL
    before = contents(folder)
    assert before

    data.unlink()
    vanished = process.run(folder, *of_data)
    assert (vanished.code, "images.npy" in vanished.err) == (3, True), vanished.err
    np.save(data, images[::-1])
    changed = process.run(folder, *of_data)
    assert changed.code == 2
    assert "have changed since the run run began" in changed.err
    assert contents(folder) == before

    np.save(data, images)
    assert process.run(folder, *of_data).code == 0


@pytest.mark.parametrize(("line", "code"), [("lr = 0.5", 2), ("", 2), ("= =", 2)])
def test_settings_that_changed_in_the_run_folder_are_refused_by_name(
    line: str, code: int, process: WarmProcess, folder: Path, run: Run
) -> None:
    before, name = contents(folder), line.split()[:1]
    kept = [kept for kept in run.config.read_text().splitlines() if line and kept.split()[:1] != name]
    run.config.write_text("\n".join([*kept, line]))
    ended = process.run(folder, "train", "--resume", "run", "-q")
    assert ended.code == code, ended.err
    assert {"": "data", "=": "TOML"}.get("".join(name), "".join(name)) in ended.err
    assert contents(folder) == before


def test_a_run_is_held_by_one_process_and_a_killed_one_holds_nothing(
    process: WarmProcess, folder: Path, run: Run, whole: Tensors
) -> None:
    assert run.lock.read_text().strip().isdecimal(), "the lock of the killed process is still there"
    before = contents(folder)
    with locked(run):  # by this process
        refused = process.run(folder, *RESUME)
    assert refused.code == 2
    assert "another process (pid " in refused.err
    assert contents(folder) == before
    assert_goes_on_to_the_end(process, folder, whole)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_run_folder_that_cannot_be_written_is_a_data_error(
    number: int, process: WarmProcess, folder: Path, run: Run, whole: Tensors
) -> None:
    ended = process.run(folder, *RESUME, fails=(1, number))
    assert ended.code == 3
    assert ended.err.startswith("vpfb: error: cannot write in run: ")
    assert_goes_on_to_the_end(process, folder, whole)


def test_a_lock_that_is_a_link_is_not_followed(process: WarmProcess, folder: Path, run: Run) -> None:
    (folder / "precious").write_text("keep me")
    run.lock.unlink()
    run.lock.symlink_to(folder / "precious")
    assert process.run(folder, *RESUME).code == 3
    assert (folder / "precious").read_text() == "keep me"
