"""TensorBoard events: those of log.csv, without lines that a resumed run repeats."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import stopped_runs

import vpfb_core as vpfb
from vpfb_core.errors import MissingError
from vpfb_core.model import run_log
from vpfb_core.training import tensorboard


def test_without_tensorboard_nothing_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingError, match="package tensorboard") as caught:
        vpfb.train(vpfb.TrainConfig(data="digits", steps=1, log="tensorboard", out=str(tmp_path / "run")))
    assert str(caught.value.hint).startswith('pip install "vpfb[tensorboard]"')
    assert not (tmp_path / "run").exists()


def test_the_events_of_a_run_that_was_continued_are_those_of_its_log(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = vpfb.TrainConfig(
        data="digits",
        widths=(8,),
        batch_size=8,
        val_fraction=0.02,
        steps=6,
        sample_every=3,
        log_every=1,
        log="tensorboard",
        out=str(tmp_path / "run"),
    )
    stopped_runs.train(config, stop_after=4)
    run = vpfb.train(config.replace(resume="auto")).run
    events = EventAccumulator(str(run.events))
    events.Reload()
    log = run_log.read(run.log)
    assert [event.step for event in events.Scalars("val_residual")] == log["step"] == list(range(7))
    assert [event.value for event in events.Scalars("val_residual")] == pytest.approx(log["val_residual"])
    assert [event.step for event in events.Images("samples")] == [0, 3, 6]


def test_tensorboard_is_not_imported_without_need() -> None:
    assert "SummaryWriter" not in vars(tensorboard)
