"""Runs that are resumed with more steps, on another machine, or from the weights of a model; runs without a step."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import stopped_runs
import torch
from stopped_runs import assert_equal_bit_for_bit, state_of

import vpfb_core as vpfb
from vpfb_cli.output import describe
from vpfb_core import training
from vpfb_core.errors import CheckpointError, ConfigError, NoStepError
from vpfb_core.machine import devices
from vpfb_core.machine import launch as launching
from vpfb_core.model.runs import Run
from vpfb_core.training import Progress, Result, prepare

SMALL: dict[str, Any] = {
    "data": "digits", "widths": (8,), "batch_size": 8, "val_fraction": 0.02, "threads": 1, "decay": 0.0,
    "precision": "fp32",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _in_an_empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No run of ours in the tree."""
    monkeypatch.chdir(tmp_path)


def train(on_step: Callable[[Progress], None] | None = None, **settings: Any) -> Result:
    return vpfb.train(vpfb.TrainConfig(**(SMALL | settings)), on_step=on_step)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a run of six steps in one piece."""
    out = str(tmp_path_factory.mktemp("whole") / "run")
    train(out=out, steps=6)
    return out


def furthest_apart(one: str, other: str) -> float:
    """The largest difference between two runs in any value of their states."""
    ours, theirs = state_of(one), state_of(other)
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


def compute_otherwise(run: str, **changes: int) -> None:
    """Change the settings of the machine in the configuration of a run."""
    path = Path(run) / "config.toml"
    lines = [line for line in path.read_text().splitlines() if line.partition(" = ")[0] not in changes]
    section = lines.index("[machine]") + 1
    path.write_text("\n".join([*lines[:section], *(f"{k} = {v}" for k, v in changes.items()), *lines[section:]]))


def test_a_run_that_is_moved_and_extended_twice_equals_the_run_in_one_piece_and_never_goes_back(whole: str) -> None:
    train(out="pieces", steps=3)
    Path("pieces").rename("moved")
    for steps, workers in ((5, 2), (6, 0)):
        compute_otherwise("moved", workers=workers)
        result = vpfb.train(vpfb.TrainConfig(resume="moved", steps=steps))
        assert (result.status, result.step) == ("finished", steps)
    assert_equal_bit_for_bit(state_of("moved"), state_of(whole))
    with pytest.raises(ConfigError, match="has already taken 6 steps, so it cannot go on to 4"):
        vpfb.train(vpfb.TrainConfig(resume="moved", steps=4))
    status = json.loads(Path("moved/state.json").read_text())
    Path("moved/state.json").write_text(json.dumps(status | {"seconds": 90.0}))
    with pytest.raises(ConfigError, match="has already taken 90 seconds, so it cannot go on to 60"):
        vpfb.train(vpfb.TrainConfig(resume="moved", time_budget=60.0))


def test_an_unfinished_run_goes_on_to_a_later_end_and_equals_the_run_in_one_piece(whole: str) -> None:
    stopped = stopped_runs.train(vpfb.TrainConfig(**SMALL, out="pieces", steps=5), stop_after=2)
    assert (stopped.status, stopped.step) == ("interrupted", 2)
    longer = vpfb.train(vpfb.TrainConfig(resume="pieces", steps=6))
    assert (longer.status, longer.step) == ("finished", 6)
    assert_equal_bit_for_bit(state_of("pieces"), state_of(whole))


def test_a_finished_run_goes_on_by_a_time_budget() -> None:
    train(out="run", steps=2)
    stopped = stopped_runs.train(vpfb.TrainConfig(resume="run", time_budget=36_000.0), stop_after=2)
    assert (stopped.status, stopped.step) == ("interrupted", 4)
    kept = prepare(vpfb.TrainConfig(resume="run")).config.optimiser
    assert (kept.steps, kept.time_budget) == (None, 36_000.0)


@pytest.mark.parametrize("changes", [{"micro_batch": 3}, pytest.param({"threads": 2}, marks=pytest.mark.slow)])
def test_with_other_threads_or_micro_batches_it_equals_the_run_in_one_piece_up_to_rounding(
    changes: dict[str, int], whole: str
) -> None:
    train(out="pieces", steps=3)
    for steps, change in ((5, changes), (6, {"threads": 1, "micro_batch": 5})):
        compute_otherwise("pieces", **change)
        assert vpfb.train(vpfb.TrainConfig(resume="pieces", steps=steps)).step == steps
    assert furthest_apart("pieces", whole) < 1e-4


def test_with_dropout_other_micro_batches_draw_other_masks() -> None:
    train(out="pieces", steps=1, dropout=0.2, warmup=0, lr=0.02)
    compute_otherwise("pieces", micro_batch=4)
    vpfb.train(vpfb.TrainConfig(resume="pieces", steps=6))
    train(out="whole", steps=6, dropout=0.2, warmup=0, lr=0.02)
    assert furthest_apart("pieces", "whole") > 1e-3


def test_a_run_on_another_machine_decides_anew_how_it_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    train(out="run", steps=2)
    path = Path("run/config.toml")
    text = path.read_text().replace("threads = 1", "threads = 7").replace("micro_batch = 8", "micro_batch = 3")
    path.write_text(text)
    here = prepare(vpfb.TrainConfig(resume="run")).config.machine
    assert (here.threads, here.micro_batch) == (7, 3)
    status = json.loads(Path("run/state.json").read_text())
    assert status["host"] == platform.node()
    Path("run/state.json").write_text(json.dumps(status | {"host": "elsewhere"}))
    monkeypatch.setattr(devices, "cores", lambda: 1)
    there = prepare(vpfb.TrainConfig(resume="run")).config.machine
    assert (there.threads, there.micro_batch) == (1, 8)


def test_a_run_that_was_saved_as_compiled_although_nothing_is_goes_on_uncompiled() -> None:
    train(out="run", steps=1, objective="official")
    config = Path("run/config.toml")
    config.write_text(config.read_text().replace('compile = "off"', 'compile = "on"'))
    going_on = prepare(vpfb.TrainConfig(resume="run", steps=2))
    assert going_on.config.machine.compile == "off"
    assert going_on.notes == ("run was saved with `compile=on`, which had no effect; it goes on with `compile=off`",)
    with pytest.raises(ConfigError, match="cannot be compiled"):
        prepare(vpfb.TrainConfig(resume="run", steps=2, compile="on"))
    assert vpfb.train(vpfb.TrainConfig(resume="run", steps=2)).step == 2
    assert prepare(vpfb.TrainConfig(resume="run", steps=3)).notes == ()


def test_a_run_begins_with_the_weights_of_a_model_and_names_the_first_that_does_not_fit() -> None:
    train(out="first", steps=2)
    began = train(out="second", steps=1, seed=5, lr=1e-12, init="first")
    ours, theirs = (vpfb.load(name, device="cpu").field.state_dict() for name in ("first", "second"))
    assert began.step == 1
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-6)
    with pytest.raises(CheckpointError, match=r"the weights of first do not fit this run: .*'.*'") as refused:
        train(out="third", steps=1, widths=(16,), init="first")
    assert describe(refused.value).exit_code == 4


def test_a_run_may_have_the_name_of_the_built_in_model_that_it_begins_with() -> None:
    train(out="digits", steps=1, lr=1e-12, widths=None, conditional=True, init="digits")
    ours, theirs = (vpfb.load(name, device="cpu").field.state_dict() for name in ("./digits", "vpfb:digits"))
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-6)


def test_a_run_with_the_time_score_begins_with_a_model_without_it_and_the_other_way_round() -> None:
    for name, first, then in (("on", 0.0, 0.1), ("off", 0.1, 0.0)):
        train(out=f"before {name}", steps=2, decay=0.5, time_score=first)
        train(out=name, steps=1, decay=0.5, lr=1e-12, init=f"before {name}", time_score=then)
        ours, theirs = (vpfb.load(run, device="cpu").field.state_dict() for run in (f"before {name}", name))
        assert any("gauge" in tensor for tensor in theirs) == bool(then)
        for tensor in ours.keys() & theirs.keys():
            torch.testing.assert_close(ours[tensor], theirs[tensor], rtol=0, atol=1e-6)


def test_a_run_without_a_setting_that_was_added_later_goes_on_without_it() -> None:
    train(out="run", steps=2, preset="small", time_score=0.0, algorithm="adam")
    config = Path("run/config.toml")
    added = ("time_score", "algorithm")
    lines = [line for line in config.read_text().splitlines() if not line.startswith(added)]
    assert len(lines) == len(config.read_text().splitlines()) - len(added)
    config.write_text("\n".join(lines) + "\n")
    assert vpfb.train(vpfb.TrainConfig(resume="run", steps=3)).step == 3
    resumed = prepare(vpfb.TrainConfig(resume="run", steps=4)).config
    assert (resumed.method.settings["time_score"], resumed.optimiser.algorithm) == (0, "adam")


def test_a_run_without_time_for_a_step_is_an_error_and_stays_interrupted() -> None:
    plan = prepare(vpfb.TrainConfig(**SMALL, out="run", time_budget=1.0))
    with pytest.raises(NoStepError, match="of 1 s was over before the first step") as ended:
        training.run(plan, began=time.monotonic() - 60)
    assert describe(ended.value).exit_code == 5
    assert Run(Path("run")).status()["status"] == "interrupted"


class Libc:
    """A C library that notes what it is asked, in place of glibc."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, ...]] = []

    def mallopt(self, *setting: int) -> None:
        self.asked.append(setting)

    def malloc_trim(self, padding: int) -> None:
        self.asked.append((padding,))


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc is asked")
def test_training_keeps_freed_memory_until_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    libc = Libc()
    monkeypatch.setattr(ctypes, "CDLL", lambda *_: libc)
    while_training: list[int] = []
    train(out="run", steps=1, on_step=lambda _: while_training.append(len(libc.asked)))
    assert set(while_training) == {2}  # both limits are raised
    assert libc.asked[2:] == [(-1, 2**26), (0,)]


def test_a_process_group_of_the_user_is_used_and_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from vpfb_core.machine import distributed

    job = launching.ProcessRank(rank=1, count=2, local_rank=1, local_count=2)
    monkeypatch.setattr(distributed.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(
        distributed.distributed, "init_process_group", lambda *_, **__: pytest.fail("the user has done so")
    )
    monkeypatch.setattr(distributed.distributed, "new_group", lambda *_, **__: "ours")
    assert (distributed.Group(job).rank, os.environ.get("RANK")) == (1, None)
