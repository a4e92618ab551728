"""A whole run: its files, how it stops, how it is resumed, and what it refuses."""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import stopped_runs
import torch
from PIL import Image
from present import present
from stopped_runs import assert_equal_bit_for_bit, state_of
from torch import Tensor

import vpfb_core as vpfb
from vpfb_core.errors import ConfigError, DataError, DivergedError, StepTooLargeError
from vpfb_core.machine import container as checkpoint
from vpfb_core.methods.vpfb import objectives
from vpfb_core.model.runs import Run
from vpfb_core.training import Progress, Result, checks, clock, current_run, prepare
from vpfb_core.training.state import read_state

SMALL = {"data": "digits", "widths": (8,), "batch_size": 8, "steps": 8, "val_fraction": 0.02, "threads": 1}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No run of ours in the tree."""
    monkeypatch.chdir(tmp_path)


def config(**settings: Any) -> vpfb.TrainConfig:
    return vpfb.TrainConfig(**(SMALL | settings))


def train(stop_after: int | None = None, **settings: Any) -> Result:
    """A run of `config`, asked to stop after some steps of this session."""
    return stopped_runs.train(config(**settings), stop_after)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """An uninterrupted run."""
    return train(out=str(tmp_path_factory.mktemp("whole") / "run"))


def model_tensors(run: Run) -> dict[str, Tensor]:
    return checkpoint.read(run.model, "model").tensors


def test_a_run_folder_has_all_documented_files() -> None:
    result = train(out="run", conditional=True)
    assert (result.status, result.step, result.images) == ("finished", 8, 64)
    run = result.run
    for path in (run.config, run.model, run.state, run.progress, run.log, run.card):
        assert path.is_file(), path
    assert {grid.name for grid in run.samples.iterdir()} >= {"step-0000000.png", "step-0000008.png"}
    with Image.open(run.samples / "step-0000008.png") as grid:
        assert grid.info["seed"] == "0"
    assert json.loads(run.progress.read_text())["status"] == "finished"
    assert not list(run.path.glob(".*.part")), "temporary files are gone"
    rows = list(csv.DictReader(run.log.open()))
    assert int(rows[-1]["step"]) == 8
    assert float(rows[-1]["val_residual"]) == pytest.approx(result.val_residual)
    model = vpfb.load("run")
    assert model.groups[0].classes == tuple("0123456789")
    assert model.sample(3, condition=["3", "5"]).images.shape == (3, 1, 8, 8)
    assert model.about["step"] == 8


def test_training_lowers_the_held_out_residual_and_samples_become_like_real_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checks, "GRID_IMAGES", 32)
    monkeypatch.setattr(checks, "GRID_NFE", 12)
    result = train(steps=60, warmup=5, lr=3e-3, sample_every=60)
    rows = list(csv.DictReader(result.run.log.open()))
    residuals = [float(row["val_residual"]) for row in rows]
    assert residuals[0] == pytest.approx(1.0, abs=0.1), "N = 0 leaves the whole variance of y"
    assert residuals[-1] < 0.8 * residuals[0]
    accuracies = [float(row["sample_accuracy"]) for row in rows]
    assert accuracies[0] > 0.9, "a classifier tells the noise that an untrained model draws from images"
    assert 0.3 < accuracies[-1] <= accuracies[0]


def test_the_best_model_is_that_of_the_least_held_out_residual() -> None:
    """A rate that is too high at the end makes the last model worse than one before it."""
    result = train(steps=20, warmup=15, lr=0.3, decay=0, ema=0.01, sample_every=1, log_every=1)
    residuals = [float(row["val_residual"]) for row in csv.DictReader(result.run.log.open())]
    assert min(residuals) < residuals[-1]
    best = vpfb.load(result.run.best)
    assert best.about["step"] < result.step
    assert best.about["figures"]["val_residual"] <= min(residuals) * (1 + 1e-6)


@pytest.mark.parametrize(
    "settings",
    [{}, {"dropout": 0.2, "precision": "bf16", "time_score": 0.1, "conditional": True, "algorithm": "muon"}],
)
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(settings: dict[str, Any], whole: Result) -> None:
    whole = train(out="whole", **settings) if settings else whole
    stopped = train(out="parts", stop_after=3, **settings)
    assert (stopped.status, stopped.step) == ("interrupted", 3)
    again = train(out="parts", resume="auto", stop_after=2, **settings)
    assert (again.status, again.step) == ("interrupted", 5)
    rest = train(out="parts", resume="auto", **settings)
    assert (rest.status, rest.step) == ("finished", 8)
    assert_equal_bit_for_bit(state_of(rest.run), state_of(whole.run))
    assert rest.val_residual == whole.val_residual
    steps = [int(row["step"]) for row in csv.DictReader(rest.run.log.open())]
    assert steps == sorted(steps), "the log has no line twice"


def test_a_run_killed_after_its_last_save_repeats_the_lost_steps(whole: Result) -> None:
    class KilledError(Exception):
        pass

    def kill(progress: Progress) -> None:
        if progress.step == 6:
            raise KilledError

    with pytest.raises(KilledError):
        vpfb.train(config(out="killed", save_every=4, log_every=1), on_step=kill)
    assert present(read_state(Run(Path("killed")))).counters.step == 4
    assert_equal_bit_for_bit(state_of(train(out="killed", resume="auto").run), state_of(whole.run))


def test_a_run_stopped_during_its_calibration_is_calibrated_when_it_is_resumed() -> None:
    settings, calibrating = config(steps=20, batch_size=64, widths=(4,)), False

    def hear(progress: Progress) -> None:
        nonlocal calibrating
        calibrating = progress.calibrating

    whole = vpfb.train(settings.replace(out="whole"))
    assert whole.model.reference is not None, "so much that calibration takes a while"
    stopped = vpfb.train(settings.replace(out="parts"), on_step=hear, should_stop=lambda: calibrating)
    assert (stopped.status, stopped.step, stopped.model.reference) == ("interrupted", 20, None)
    states = [stopped.run.earlier_state(age).read_bytes() for age in (0, 1)]
    rest = vpfb.train(settings.replace(out="parts", resume="auto"))
    assert rest.status == "finished"
    assert_equal_bit_for_bit(model_tensors(rest.run), model_tensors(whole.run))
    assert states == [rest.run.earlier_state(age).read_bytes() for age in (0, 1)], "no state was written twice"
    steps = [row["step"] for row in csv.DictReader(rest.run.log.open())]
    assert len(steps) == len(set(steps))


def test_seeds_differ_and_the_same_seed_repeats() -> None:
    runs = (train(out=name, seed=seed, steps=2).run for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    first, same, other = map(state_of, runs)
    assert_equal_bit_for_bit(first, same)
    assert not torch.equal(*(found["network/potential.network.first.weight"] for found in (first, other)))


def test_training_touches_neither_the_global_generator_nor_the_thread_count() -> None:
    torch.manual_seed(5)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    train(dropout=0.3)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("objective", ["ritz", "official"])
@pytest.mark.parametrize("schedule", ["ot", "vp", "log-homotopy"])
def test_every_objective_and_schedule_trains_samples_and_loads(objective: str, schedule: str) -> None:
    if objective == "official" and schedule != "ot":
        with pytest.raises(ConfigError, match="ot only"):
            train(objective=objective, schedule=schedule)
        return
    result = train(objective=objective, schedule=schedule, steps=3)
    model = vpfb.load(result.run.path)
    assert torch.equal(model.sample(2).images, result.model.sample(2).images)


@pytest.mark.parametrize(
    "settings",
    [{"conditional": True}, pytest.param({"objective": "ritz", "conditional": True}, marks=pytest.mark.slow)],
)
def test_a_batch_in_parts_trains_the_same_model(settings: dict[str, Any]) -> None:
    settings |= {
        "warmup": 0,
        "log_every": 100,
        "steps": 3,
        "precision": "fp32",
    }  # Adam magnifies rounding from step to step
    whole, parts = train(out="whole", **settings), train(out="parts", micro_batch=3, **settings)
    untrained = train(out="untrained", **settings | {"lr": 1e-12, "steps": 1})
    for name, one in state_of(whole.run).items():
        if not name.startswith("adam/"):
            moved = (one - state_of(untrained.run)[name]).norm()
            assert (state_of(parts.run)[name] - one).norm() < 2e-3 * moved
    assert parts.loss == pytest.approx(whole.loss, rel=1e-4)
    assert parts.val_residual == pytest.approx(whole.val_residual, rel=1e-4)


def test_the_contrast_of_conditions_sets_in_as_the_rate_falls() -> None:
    """Two runs, one with far more of it, agree up to the middle, and not after it."""
    settings = {"conditional": True, "warmup": 0, "save_every": 5, "keep": 3}
    runs = [train(out=f"run {weight}", contrast=weight, **settings).run for weight in (0.0, 50.0)]
    halfway = [checkpoint.read(run.earlier_state(1), "state") for run in runs]
    assert [state.document["counters"]["step"] for state in halfway] == [5, 5]
    assert_equal_bit_for_bit(*(state.tensors for state in halfway))
    assert not torch.equal(*(state_of(run)["network/potential.network.first.weight"] for run in runs))


# --- memory -----------------------------------------------------------------------------------------------------------

NO_GPU_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
NO_MEMORY = RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")


def memory_for(rows: int, monkeypatch: pytest.MonkeyPatch, error: Exception, from_call: int = 0) -> None:
    """Let the objective run out of memory for more than `rows` rows, from one of its calls on."""
    honest, calls = objectives.OBJECTIVES["stein"], -1

    def scarce(potential: Any, data: Tensor, *args: Any, **keywords: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if len(data) > rows and calls >= from_call:
            raise error
        return honest(potential, data, *args, **keywords)

    monkeypatch.setitem(objectives.OBJECTIVES, "stein", scarce)


@pytest.mark.parametrize(
    ("batch_size", "rows", "error"), [(8, 2, NO_GPU_MEMORY), (7, 3, NO_MEMORY)],
    ids=["it fails at the first part", "it fails when some parts are done"],
)  # fmt: skip
def test_a_step_that_runs_out_of_memory_is_taken_again_with_half_the_images_at_a_time(
    batch_size: int, rows: int, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {
        "batch_size": batch_size,
        "conditional": True,
        "dropout": 0.2,
        "contrast": 1.0,
        "steps": 4,
        "log_every": 9,
    }
    small = train(out="small", micro_batch=2, **settings)
    memory_for(rows, monkeypatch, error)
    scarce = train(out="scarce", **settings)
    assert (scarce.status, scarce.loss) == ("finished", small.loss)
    assert_equal_bit_for_bit(state_of(scarce.run), state_of(small.run))


def test_without_memory_for_one_image_the_run_ends_at_its_last_save_and_resumes_with_more_memory(
    whole: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(StepTooLargeError) as failure:
        memory_for(0, patch, NO_GPU_MEMORY, from_call=5)
        train(out="run", save_every=2)
    assert failure.value.message == "out of memory on cpu with one image at a time, at step 5; the last save is kept"
    run = Run(Path("run"))
    status, state = run.status(), present(read_state(run))
    assert (status["status"], status["step"], state.counters.step) == ("interrupted", 4, 4)
    result = train(out="run", resume="auto")
    assert result.status == "finished"
    assert_equal_bit_for_bit(state_of(result.run), state_of(whole.run))


def test_a_loss_over_the_whole_batch_is_not_divided_when_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def scarce(*_args: Any, **_keywords: Any) -> Tensor:
        raise NO_GPU_MEMORY

    monkeypatch.setitem(objectives.OBJECTIVES, "official", scarce)
    with pytest.raises(StepTooLargeError, match="with 8 images at a time, which cannot be divided") as failure:
        train(out="run", objective="official")
    assert failure.value.hint == "use a smaller `batch_size`"


# --- choosing the run -------------------------------------------------------------------------------------------------


def test_without_out_runs_are_numbered_and_resume_finds_the_unfinished_one() -> None:
    finished = train(steps=3)
    stopped = train(steps=3, stop_after=2)
    other = train(steps=3, stop_after=2, lr=1e-4)
    assert [result.run.path.name for result in (finished, stopped, other)] == ["001-digits", "002-digits", "003-digits"]
    assert train(steps=3, resume="auto").run == stopped.run
    assert train(steps=3, resume="auto").run.path.name == "004-digits", "nothing unfinished is left with these settings"
    assert vpfb.train(vpfb.TrainConfig(resume=str(other.run.path))).status == "finished", "the run knows its settings"


def test_a_run_resumed_by_its_folder_is_still_found_by_its_settings() -> None:
    stopped = train(stop_after=2)
    again = vpfb.train(vpfb.TrainConfig(resume=str(stopped.run.path)), should_stop=lambda: True)
    assert again.status == "interrupted"
    assert train(resume="auto").run == stopped.run


def test_a_folder_that_holds_a_run_is_refused_and_kept() -> None:
    run = train(out="run").run
    before = run.model.read_bytes()
    with pytest.raises(ConfigError, match="already holds a run"):
        train(out="run", seed=3)
    assert run.model.read_bytes() == before


def test_a_finished_run_is_left_as_it_is() -> None:
    first = train(out="run")
    run = first.run
    before = run.state.read_bytes()
    result = train(out="run", resume="auto")
    assert (result.status, result.step) == ("already finished", 8)
    assert result.seconds > 0.5 * first.seconds
    assert run.state.read_bytes() == before


def test_a_finished_run_is_left_as_it_is_although_time_of_its_budget_is_left() -> None:
    first = train(out="run", steps=None, time_budget=4.0)
    stored = checkpoint.read(first.run.state, "state")
    counters = stored.document["counters"] | {"seconds": 2.0}
    checkpoint.write(first.run.state, "state", stored.tensors, stored.document | {"counters": counters})
    again = train(out="run", resume="auto", steps=None, time_budget=4.0)
    assert (again.status, again.step) == ("already finished", first.step)


def test_resuming_with_another_setting_is_refused_by_name() -> None:
    train(out="run", stop_after=2)
    others: dict[str, Any] = {"lr": 1e-4, "batch_size": 9, "seed": 4, "widths": (8, 16)}
    for setting, value in others.items():
        with pytest.raises(ConfigError, match=setting):
            train(out="run", resume="auto", **{setting: value})


def test_how_a_run_is_computed_and_saved_may_change_on_resuming() -> None:
    train(out="run", stop_after=2)
    assert train(out="run", resume="auto", save_every=3, keep=0, on_nonfinite="rollback").status == "finished"


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 2])
def test_as_many_earlier_states_are_kept_as_asked(keep: int) -> None:
    run = train(out="run", save_every=1, keep=keep).run
    assert len(list(run.path.glob("state.*.safetensors"))) == keep
    documents = [checkpoint.read(run.earlier_state(age), "state").document for age in range(keep + 1)]
    assert [document["counters"]["step"] for document in documents] == [8, 7, 6][: keep + 1]


def break_the_loss(monkeypatch: pytest.MonkeyPatch, at: set[int]) -> None:
    """Make the loss infinite in these calls, counted from 0."""
    calls, honest = -1, objectives.OBJECTIVES["stein"]

    def broken(*args: Any, **keywords: Any) -> Tensor:
        nonlocal calls
        calls += 1
        loss = honest(*args, **keywords)
        return loss / 0 if calls in at else loss

    monkeypatch.setitem(objectives.OBJECTIVES, "stein", broken)


def test_a_non_finite_loss_stops_the_run_and_keeps_the_last_good_state(monkeypatch: pytest.MonkeyPatch) -> None:
    break_the_loss(monkeypatch, {5})
    with pytest.raises(DivergedError, match="step 5: the loss is inf") as error:
        train(out="run", save_every=2)
    assert "step 4 is kept" in (error.value.hint or "")
    run = Run(Path("run"))
    assert run.status()["status"] == "diverged"
    assert all(tensor.isfinite().all() for tensor in state_of(run).values())
    assert all(tensor.isfinite().all() for tensor in checkpoint.read(run.model, "model").tensors.values())


def test_rolling_back_continues_from_the_last_good_state_at_half_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    break_the_loss(monkeypatch, {5})
    rates: dict[int, float] = {}
    settings = config(save_every=2, on_nonfinite="rollback", warmup=0, decay=0.0, lr=1e-3)
    result = vpfb.train(settings, on_step=lambda now: rates.update({now.step: now.lr}))
    assert (result.status, result.step) == ("finished", 8)
    assert present(read_state(result.run)).counters.rollbacks == 1
    assert (rates[4], rates[8]) == pytest.approx((1e-3, 5e-4))
    steps = [int(row["step"]) for row in csv.DictReader(result.run.log.open())]
    assert steps == sorted(set(steps))


def test_rolling_back_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    break_the_loss(monkeypatch, set(range(3, 1000)))
    with pytest.raises(DivergedError, match="diverged"):
        train(on_nonfinite="rollback")


# --- data and machine -------------------------------------------------------------------------------------------------


def test_one_image_trains(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "one").mkdir()
    Image.new("RGB", (20, 20), (200, 30, 90)).save(tmp_path / "one" / "a.png")
    result = train(data="one", size=8, steps=3)
    assert result.status == "finished"
    assert torch.isfinite(torch.tensor(result.val_residual))


def test_a_dry_plan_writes_nothing() -> None:
    plan = prepare(config())
    assert plan.config.run.preset == "tiny"
    assert plan.config.data.augment == "none", "digits are never mirrored"
    assert plan.parameters == sum(p.numel() for p in vpfb.networks.build(plan.network).parameters())
    assert plan.memory_bytes > 4 * plan.parameters
    assert not list(Path().iterdir())


def test_an_unwritable_folder_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="file"):
        train(out="file/run")


def test_no_curves_are_drawn_after_the_end_of_a_time_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock.Clock, "is_over", lambda _clock: True)
    result = train(out="run", steps=2)
    assert result.status == "finished"
    assert not result.run.curves.exists()


def test_the_memory_in_use_is_read_once_per_line_of_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """The allocator of a GPU is slow to report it."""
    reads: list[torch.device] = []

    def counted(device: torch.device) -> int:
        reads.append(device)
        return 2**20

    monkeypatch.setattr(current_run, "memory_in_use", counted)
    result = train(out="run", log_every=3, sample_every=100, save_every=100)
    lines = len(result.run.log.read_text().splitlines()) - 1  # without the names
    assert len(reads) == lines + 1 < result.step, "one more at the beginning of the session"


def test_the_memory_in_use_is_known_from_the_first_step_of_every_session() -> None:
    known: list[int] = []
    for _ in range(2):
        begun = len(known)
        vpfb.train(
            config(out="run", resume="auto", log_every=100), on_step=lambda now: known.append(now.memory_bytes),
            should_stop=lambda: len(known) > begun + 1,  # noqa: B023  (it is called in this turn of the loop)
        )  # fmt: skip
    assert len(known) >= 4
    assert all(known)


def test_a_time_budget_ends_a_run_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = itertools.count()  # each look at the clock takes one
    monkeypatch.setattr(clock, "time", SimpleNamespace(monotonic=lambda: float(next(seconds))))
    result = train(steps=None, time_budget="60s")
    assert result.status == "finished"
    assert 1 < result.step < 60
    rates = [float(row["lr"]) for row in csv.DictReader(result.run.log.open())]
    assert rates[-1] == pytest.approx(0, abs=1e-5), "the rate has followed elapsed/budget down to 0"
