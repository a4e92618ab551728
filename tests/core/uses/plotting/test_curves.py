"""Training curves: what was measured stands where and when it was measured."""

from __future__ import annotations

import io
import math
from pathlib import Path

import matplotlib.axes
import matplotlib.figure
import numpy as np
import pytest
from PIL import Image

import vpfb_core as vpfb
from vpfb_core.machine.origin import Origin
from vpfb_core.model import run_log
from vpfb_core.training import record
from vpfb_core.uses.plotting import curves as module
from vpfb_core.uses.plotting.curves import Log, curves


def a_log(seconds: list[float], residual: list[float]) -> Log:
    count = len(seconds)
    return {
        "step": list(range(count)), "seconds": seconds, "val_residual": residual, "sample_accuracy": [math.nan] * count,
        "lr": [1e-3] * count, "images_per_second": [50.0] * count,
    }  # fmt: skip


def short(folder: Path, **settings: int) -> vpfb.TrainConfig:
    """A short run in a folder."""
    small = {"data": "digits", "widths": (8,), "batch_size": 8, "val_fraction": 0.02}
    return vpfb.TrainConfig(**small, **settings, out=str(folder / "run"))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[matplotlib.figure.Figure]:
    """The figures that are made a PNG of."""
    figures: list[matplotlib.figure.Figure] = []
    png = module.png

    def keep(figure: matplotlib.figure.Figure, origin: Origin) -> bytes:
        figures.append(figure)
        return png(figure, origin)

    monkeypatch.setattr(module, "png", keep)
    return figures


def points(axes: matplotlib.axes.Axes) -> np.ndarray:
    """The points of the first curve, (N, 2)."""
    return np.asarray(axes.lines[0].get_xydata())


def test_a_figure_that_is_repeated_until_the_next_check_is_one_point(drawn: list[matplotlib.figure.Figure]) -> None:
    curves({"run": a_log([0, 60, 120, 180, 240], [1.0, 1.0, 0.5, 0.5, 0.25])})
    axes = drawn[0].axes
    assert axes[0].get_title(loc="left") == "validation residual (lower is better)"
    assert points(axes[0]).tolist() == [[0, 1], [2, 0.5], [4, 0.25]]
    assert axes[0].get_xlabel() == "training time (minutes)"
    assert len(points(axes[2])) == 5, "the learning rate is that of every line"


def test_several_runs_have_one_unit_of_time_and_a_legend(drawn: list[matplotlib.figure.Figure]) -> None:
    curves({"a$b$": a_log([0, 3600], [1, 0.5]), "c": a_log([0, 36000], [1, 0.4])})
    assert [np.asarray(line.get_xdata())[-1] for line in drawn[0].axes[0].lines] == [1, 10]
    legend = drawn[0].legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["a$b$", "c"]
    assert not any(text.get_parse_math() for text in legend.get_texts())


@pytest.mark.parametrize("log", [{}, a_log([], []), a_log([0.0], [math.nan]), a_log([0, 1], [-1.0, 0.0])])
def test_a_log_with_little_in_it_is_drawn(log: Log) -> None:
    assert Image.open(io.BytesIO(curves({"run": log}))).size == (1170, 780)


def test_a_run_draws_its_curves_at_its_checks_and_at_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[int] = []

    def count(logs: dict[str, Log], origin: Origin) -> bytes:
        ((name, log),) = logs.items()
        assert name == "run"
        lines.append(len(log["step"]))
        return curves(logs, origin) if log["step"][-1] == 8 else b""

    monkeypatch.setattr(record, "curves", count)
    monkeypatch.setattr(record, "DRAWING_SHARE", 0)
    run = vpfb.train(short(tmp_path, steps=8, sample_every=3, log_every=100)).run
    assert lines == [2, 3, 4], "at steps 3, 6 and 8, after the line of step 0"
    with Image.open(run.curves) as picture:
        assert (picture.format, picture.info["seed"]) == ("PNG", "0")
    assert run_log.read(run.log)["step"] == [0, 3, 6, 8]


def test_the_curves_of_a_short_run_are_not_drawn_at_every_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawings: list[float] = []

    def count(logs: dict[str, Log], _origin: Origin) -> bytes:
        drawings.append(logs["run"]["step"][-1])
        return b""

    monkeypatch.setattr(record, "curves", count)
    monkeypatch.setattr(record, "DRAWING_SHARE", 1e9)
    vpfb.train(short(tmp_path, steps=4, sample_every=1))
    assert drawings == [1, 4]
