"""A model of the method flow-matching, which has no energy: the commands that work with it and those that refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_runner import Vpfb
from PIL import Image

from vpfb_cli.app import build
from vpfb_cli.command_line import run

TRAIN = ["train", "--data", "digits", "--method", "flow-matching", "--set", "widths=[8]", "--batch-size", "4",
         "--threads", "1", "--steps", "2", "--val-fraction", "0.02", "--out", "run", "-q"]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run of two steps."""
    folder = tmp_path_factory.mktemp("flow")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run(build(), TRAIN) == 0
    return str(folder / "run")


def test_it_samples_interpolates_and_is_evaluated(model: str, vpfb: Vpfb) -> None:
    assert vpfb("sample", "-m", model, "-n", "2", "--nfe", "2", "-o", "grid.png").code == 0
    assert vpfb("interpolate", "-m", model, "--rows", "1", "-n", "2", "--nfe", "2", "-o", "way.png").code == 0
    assert Image.open("grid.png").size == Image.open("way.png").size
    ran = vpfb("eval", "--data", "digits", "-m", model, "-n", "6", "--nfe", "2", "--json")
    assert {"frechet", "residual"} <= set(ran.json["metrics"])
    assert "bpd" not in ran.err, "nothing to calibrate is recommended"


def test_info_shows_the_method_and_that_there_is_no_energy(model: str, vpfb: Vpfb) -> None:
    shown = vpfb("info", model, "--json").json
    assert (shown["method"], shown["calibrated"]) == ("flow-matching", False)
    assert "the method flow-matching has no energy" in vpfb("info", model).out


@pytest.mark.parametrize(
    "line",
    [
        "score digits -m MODEL",
        "ood --in digits --out noise -m MODEL",
        "compose 3 -m MODEL",
        "sample -n 1 --langevin 3 -m MODEL",
        "sample -n 1 --known a.png --mask a.png -m MODEL",
        "info --calibrate MODEL",
    ],
)
def test_what_needs_an_energy_is_refused_in_a_sentence_that_names_the_methods(
    line: str, model: str, vpfb: Vpfb
) -> None:
    ran = vpfb(*line.replace("MODEL", model).split())
    assert (ran.code, ran.out) == (2, "")
    assert "needs an energy, which a model of the method flow-matching does not have" in ran.err
    assert "methods that have one: vpfb" in ran.err
    assert not list(Path().iterdir())
