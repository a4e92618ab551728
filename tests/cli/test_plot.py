"""`vpfb plot`: which picture a model gets, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cli_runner import Vpfb
from PIL import Image, ImageSequence

from vpfb_core.uses.plotting import model_plot


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SAMPLES": 20, "PATHS": 3, "GRID": 8, "FRAMES": 4, "POINTS": 5}.items():
        monkeypatch.setattr(model_plot, name, value)


def test_a_model_of_two_columns_is_drawn_as_a_figure_and_as_an_animation(vpfb: Vpfb) -> None:
    assert vpfb("train", "--data", "moons", "--steps", "2", "-q").code == 0
    ran = vpfb("plot", "-o", "moons.png", "--json")
    assert (ran.code, ran.json) == (
        0, {"model": "runs/001-moons/model.safetensors", "output": "moons.png", "seed": 0}
    )  # fmt: skip
    assert Image.open("moons.png").size == (1196, 1040)
    Path("moons").mkdir()
    animated = vpfb("plot", "runs/001-moons", "--data", "moons", "-o", "moons.gif")
    assert (animated.code, "'moons' is the data set of that name" in animated.err) == (0, True)
    frames = list(ImageSequence.Iterator(Image.open("moons.gif")))
    assert 2 <= len(frames) <= 5, "from noise to the lowest level at which energies are accurate"


def test_a_model_without_a_flow_is_drawn_by_its_energy_and_has_no_animation(vpfb: Vpfb) -> None:
    assert vpfb("train", "--data", "moons", "--method", "energy-matching", "--steps", "2", "-q").code == 0
    assert vpfb("plot", "-o", "moons.png").code == 0
    assert Image.open("moons.png").size == (1196, 1040)
    ran = vpfb("plot", "-o", "moons.gif")
    assert (ran.code, "energy-matching" in ran.err) == (2, True)


def test_a_model_of_more_columns_is_drawn_in_pairs_and_has_no_animation(vpfb: Vpfb) -> None:
    rows = np.random.default_rng(0).normal(size=(40, 3))
    np.savetxt("rows.csv", rows, delimiter=",", header="a,b,c", comments="")
    assert vpfb("train", "--data", "rows.csv", "--steps", "2", "-q").code == 0
    assert vpfb("plot", "-o", "pairs.png").code == 0
    assert Image.open("pairs.png").size == (845, 845)
    ran = vpfb("plot", "-o", "pairs.gif")
    assert (ran.code, "3" in ran.err) == (2, True)
    Path("rows.csv").unlink()
    assert vpfb("plot", "-o", "again.png").code == 3, "the training data are drawn, and they are gone"


def test_a_run_on_images_gets_its_training_curves(vpfb: Vpfb, monkeypatch: pytest.MonkeyPatch) -> None:
    vpfb("train", "--data", "digits", "--steps", "1", "--set", "widths=[4]", "--batch-size", "4", "-q")
    assert vpfb("plot", "runs/001-digits", "-o", "curves.png").code == 0
    assert Image.open("curves.png").size == (1170, 780)
    assert vpfb("plot", "runs/001-digits", "-o", "curves.gif").code == 2
    run = Path("runs/001-digits")
    (run / "other.safetensors").write_bytes((run / "model.safetensors").read_bytes())
    monkeypatch.chdir(run)
    for name in ("digits", "other.safetensors"):
        ran = vpfb("plot", "-o", "digits.png", name)
        assert (ran.code, "nothing to plot" in ran.err) == (4, True), "the log beside it is that of another model"
        assert vpfb("info", "--plot", name, "-o", "digits.png").code == 4
    assert vpfb("sample", "-m", "other.safetensors", "--weights", "raw", "-n", "1").code == 4
    assert vpfb("plot", "-o", "curves.png", "model.safetensors").code == 0
    ran = vpfb("plot", "-o", "plot.pdf")
    assert (ran.code, ".png or .gif" in ran.err) == (2, True)
