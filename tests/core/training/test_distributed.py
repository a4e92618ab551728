"""Two processes that train one model: they come to what one would, and end together whatever happens to either."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import two_processes
from present import present
from torch import Tensor

from vpfb_core.config import read_file
from vpfb_core.errors import ConfigError, DataError, LostProcessError
from vpfb_core.machine import container as checkpoint
from vpfb_core.machine import distributed
from vpfb_core.machine.devices import resolve_device
from vpfb_core.machine.launch import ProcessRank, process_rank
from vpfb_core.model.runs import Run
from vpfb_core.training import Result, prepare
from vpfb_core.training.state import read_state


def train(folder: Path, **settings: Any) -> Result:
    """By this process alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return two_processes.train(**settings)


def weights(run: Path) -> dict[str, Tensor]:
    tensors = checkpoint.read(Run(run).state, "state").tensors
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("adam/")}


def assert_same_weights(ours: Path, theirs: Path) -> None:
    """As far as sums in another order agree in float32: to a thousandth of what the steps have changed."""
    begun, one, other = weights(ours.parent / "untrained"), weights(ours), weights(theirs)
    assert one.keys() == other.keys()
    moved = {name: (other[name] - begun[name]).norm() for name in other}
    assert all(moved.values())
    assert {name: float((one[name] - other[name]).norm() / moved[name]) for name in one} == pytest.approx(
        dict.fromkeys(one, 0), abs=1e-3
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where one process has trained, and begun to train, and two have done what `two_processes` says."""
    folder = tmp_path_factory.mktemp("together")
    train(folder, out="one")
    train(folder, out="untrained", lr=1e-12, steps=1)
    train(folder, out="begun by one", stop_after=3)
    run_two_processes(folder, "together", "memory", "killed")
    return folder


def run_two_processes(folder: Path, *whats: str) -> None:
    """Do these things in a folder, of which the first must succeed."""
    subprocess.run(
        [sys.executable, two_processes.__file__, *whats], cwd=folder, check=True, timeout=1800,
        env=os.environ | {"XDG_CACHE_HOME": str(folder / "cache")},
    )  # fmt: skip
    ended = [how_it_ended(folder, whats[0], rank) for rank in range(2)]
    assert [(code, out) for code, out, _ in ended] == [(0, "")] * 2, ended


def how_it_ended(folder: Path, what: str, rank: int) -> tuple[int, str, str]:
    """Exit code and streams of one of the two processes that did this."""
    codes = json.loads((folder / "codes.json").read_text())[what]
    out, err = ((folder / f"{what}-{rank}.{stream}").read_text() for stream in ("out", "err"))
    return codes[rank], out, err


def seen(folder: Path, rank: int = 0, what: str = "together") -> dict[str, Any]:
    return torch.load(folder / f"{what}-{rank}.pt")


def assert_gradient_of_one_process(name: str, *shared: list[Tensor]) -> None:
    expected = two_processes.gradients(name)
    assert any(gradient.abs().max() > 1e-3 for gradient in expected)
    for gradient in shared:
        for ours, theirs in zip(expected, gradient, strict=True):
            torch.testing.assert_close(theirs, ours, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", two_processes.LOSSES)
def test_the_gradient_of_a_shared_batch_is_that_of_one_process(name: str, folder: Path) -> None:
    """Whether both processes divide their shares alike (into parts of 2) or not (into parts of 1, and of 3)."""
    found = [seen(folder, rank)["gradients"] for rank in range(2)]
    assert_gradient_of_one_process(name, *(each[name, how] for each in found for how in ("alike", "differently")))


@pytest.mark.slow
def test_a_compiled_step_of_two_processes_has_the_gradient_of_one_that_is_not_compiled(tmp_path: Path) -> None:
    run_two_processes(tmp_path, "compiled")
    assert_gradient_of_one_process("stein", *(seen(tmp_path, rank, "compiled")["gradient"] for rank in range(2)))


@pytest.mark.parametrize("name", ["contrast", "time-score"])
def test_a_loss_beside_the_objective_is_part_of_its_gradient(name: str) -> None:
    with_it, without = two_processes.gradients(name), two_processes.gradients("stein")
    with_it = with_it[: len(without)]  # the parameters of the gauge come last
    assert any(not torch.allclose(one, other, rtol=0.01) for one, other in zip(with_it, without, strict=True))


def test_two_processes_train_the_model_that_one_trains(folder: Path) -> None:
    assert seen(folder)["whole"] == "finished"
    assert_same_weights(folder / "two", folder / "one")
    rows = [list(csv.DictReader(Run(folder / name).log.open())) for name in ("one", "two")]
    for figure in ("step", "loss", "grad_norm", "lr", "val_residual"):
        ours, theirs = ([float(row[figure] or 0) for row in each] for each in rows)
        assert ours == pytest.approx(theirs, rel=1e-4), "figures are those of the whole batch"
    assert read_file(Run(folder / "two").config)["machine.micro_batch"] == 4, "the larger of the shares of 7 images"


def test_one_process_that_runs_out_of_memory_takes_fewer_images_at_a_time_and_nothing_else_changes(
    folder: Path,
) -> None:
    assert [seen(folder, rank)["scarce"] for rank in range(2)] == ["finished"] * 2
    assert_same_weights(folder / "scarce", folder / "one")


def test_a_run_resumes_with_another_number_of_processes(folder: Path) -> None:
    assert seen(folder)["resumed"] == "finished"
    assert_same_weights(folder / "begun by one", folder / "one")
    assert [seen(folder, rank)["stopped"] for rank in range(2)] == [3, 3], "a request to one process stops both"
    run = Run(folder / "stopped by the second")
    assert present(read_state(run)).counters.step == 3
    assert train(folder, out=run.path.name, resume="auto").status == "finished"
    assert_same_weights(run.path, folder / "one")


def test_a_loss_that_is_not_finite_on_one_process_concerns_both(folder: Path) -> None:
    assert [seen(folder, rank)["rolled back"] for rank in range(2)] == ["finished"] * 2
    assert present(read_state(Run(folder / "rolled back"))).counters.rollbacks == 1
    said = [seen(folder, rank)["diverged"] for rank in range(2)]
    assert said[0] == said[1]
    assert "DivergedError: training diverged at step 4: the loss is inf" in said[0]
    assert present(read_state(Run(folder / "diverged"))).counters.step == 4


def test_images_that_one_process_cannot_read_stop_both_and_the_run_is_saved(folder: Path) -> None:
    assert [seen(folder, rank)["unreadable"] for rank in range(2)] == ["DataError: the disk is gone"] * 2
    run = Run(folder / "unreadable")
    assert (run.status()["status"], present(read_state(run)).counters.step) == ("interrupted", 2)


def test_two_processes_evaluate_to_the_figures_of_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ours = two_processes.evaluated()
    assert seen(folder, 1)["evaluated"] == [{}, {}], "the first process has the figures"
    for computed, expected in zip(seen(folder)["evaluated"], ours, strict=True):
        assert computed == pytest.approx(expected, rel=1e-4)


def test_shares_come_back_in_order_and_failures_are_everybodys(folder: Path) -> None:
    first, second = seen(folder, 0), seen(folder, 1)
    assert first["shards"] == [[[0, 1], [2, 3, 4]], [[0]], []]
    assert second["shards"] == [None, None, None]
    assert first["one of them fails"] == second["one of them fails"] == "IndexError: list index out of range"
    assert first["the first fails"] == second["the first fails"] == "IndexError: pop from empty list"


def test_a_process_without_memory_for_one_image_says_so_and_the_other_that_it_has_died(folder: Path) -> None:
    (code, out, errors), (second, _, said) = (how_it_ended(folder, "memory", rank) for rank in range(2))
    assert (code, second) == (5, 5), errors
    assert json.loads(out)["error"]["kind"] == "process"
    assert "another process of this job has died" in errors
    assert "out of memory on cpu with one image at a time, at step 3; the last save is kept (process 1 of 2)" in said
    assert present(read_state(Run(folder / "memory"))).counters.step == 2


def test_a_process_that_is_killed_ends_the_other(folder: Path) -> None:
    (code, out, errors), (second, *_) = (how_it_ended(folder, "killed", rank) for rank in range(2))
    assert (code, second) == (5, -9), errors
    assert json.loads(out)["error"]["kind"] == "process"
    assert "another process of this job has died" in errors
    assert present(read_state(Run(folder / "killed"))).counters.step == 2


# --- without other processes ------------------------------------------------------------------------------------------


def test_only_a_broken_connection_is_a_lost_process() -> None:
    group = distributed.Group(ProcessRank())
    group.count = 2
    broken = RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:538] Connection closed by peer")
    for inside in (distributed._exchange, group.naming_lost_processes):
        with pytest.raises(LostProcessError) as lost, inside():
            raise broken
        assert "torchrun's report" in (lost.value.hint or "")
        for other in (
            DataError("'./gloo/cat.png' cannot be read"),
            FileNotFoundError(2, "No such file or directory", "gloo"),
            torch.OutOfMemoryError("CUDA out of memory"),
            RuntimeError("the file ./igloo has no tensors"),
        ):
            with pytest.raises(type(other)) as caught, inside():
                raise other
            assert caught.value is other


def test_each_process_of_a_machine_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    from vpfb_core.machine import devices

    monkeypatch.setattr(devices, "available_devices", lambda: ["cuda:0", "cuda:1", "cpu"])
    assert str(resolve_device("cuda:1")) == "cuda:1"
    for name, value in two_processes.launched(1).items():
        monkeypatch.setenv(name, value)
    assert [str(resolve_device(name)) for name in ("auto", "cuda", "cuda:0", "cpu")] == ["cuda:1"] * 3 + ["cpu"]
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ConfigError, match="cuda:2"):
        resolve_device()


def test_a_rank_is_taken_from_a_whole_set_of_variables_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in two_processes.launched(1).items():
        monkeypatch.setenv(name, value)
    assert process_rank() == ProcessRank(1, 2, 1, 2)
    monkeypatch.delenv("LOCAL_RANK")
    assert process_rank() == ProcessRank()


def test_a_batch_smaller_than_the_number_of_processes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from vpfb_core.data import load
    from vpfb_core.training import presets

    for name, value in two_processes.launched(0, count=16).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="batch of 7 images cannot be shared by 16 processes"):
        presets.resolve(two_processes.config(), load("digits", conditional=True), torch.device("cpu"))


def test_the_official_objective_is_not_parted() -> None:
    with pytest.raises(ConfigError, match="loss takes its statistics over the whole batch"):
        prepare(two_processes.config(objective="official", conditional=False, micro_batch=4))
