"""`vpfb compose` as people type it and scripts read it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_runner import Vpfb
from models import vpfb_model
from PIL import Image

from vpfb_core import networks
from vpfb_core.data.image_statistics import ImageStatistics
from vpfb_core.data.source import ConditionGroup
from vpfb_core.methods.path.homotopy import OT
from vpfb_core.methods.vpfb.normaliser import Constants, Normaliser, levels
from vpfb_core.methods.vpfb.potential import Potential

pytestmark = pytest.mark.usefixtures("on_the_cpu")

GROUPS = (ConditionGroup("colour", ("red", "green", "light blue")), ConditionGroup("large", ("~large", "large")))
QUICK = ["--levels", "2", "-n", "2"]


def save(path: Path, groups: tuple[ConditionGroup, ...] = GROUPS, mean: float = 0.5, calibrated: bool = True) -> None:
    """A small model with random weights everywhere."""
    network = {"name": "unet", "channels": 1, "size": 6, "widths": [8], "classes": [len(g.classes) for g in groups]}
    built = networks.build(network)
    draws = torch.Generator().manual_seed(1)
    for parameter in built.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=draws)
    potential = Potential(built, OT(sigma_min=0.01), 0.5)
    model = vpfb_model(
        potential, network=network, statistics=ImageStatistics((mean,), 0.2), shape=(1, 6, 6), groups=groups
    )
    if calibrated:  # with constants that are as good as others
        noise = levels(potential)
        constants = Constants((-10.0,) * len(noise), (0.1,) * len(noise), 9)
        known = [(-1, -1), *((colour, -1) for colour in range(3)), (-1, 0), (-1, 1)]
        model.calibration = Normaliser(36, noise, dict.fromkeys(known, constants))
    model.save(path)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models."""
    folder = tmp_path_factory.mktemp("models")
    save(folder / "colours.safetensors")
    shutil.copy(folder / "colours.safetensors", folder / "my faces.safetensors")
    save(folder / "all.safetensors", groups=(), calibrated=False)
    save(folder / "rough.safetensors", calibrated=False)
    save(folder / "bright.safetensors", mean=0.7, calibrated=False)
    return folder


@pytest.fixture
def vpfb(vpfb: Vpfb, models: Path, tmp_path: Path) -> Vpfb:
    """Runs a command line in a folder with models."""
    for model in models.iterdir():
        (tmp_path / model.name).symlink_to(model)
    return lambda *argv: vpfb("compose", *argv)


def test_an_expression_becomes_a_grid(vpfb: Vpfb) -> None:
    ran = vpfb("red & large", "-m", "colours.safetensors", "-n", "4", "--levels", "3", "-o", "a/out.png")
    assert (ran.code, ran.out) == (0, "a/out.png\n")
    assert Image.open("a/out.png").size == (2 * (60 + 2) + 2, 2 * (60 + 2) + 2)
    assert "4 images" in ran.err
    assert "accepted" in ran.err


def test_compose_reports_its_work_as_json(vpfb: Vpfb) -> None:
    report = vpfb("red & ~large", "-m", "colours.safetensors", *QUICK, "-o", "o.npz", "--json").json
    assert set(report) == {"model", "output", "expression", "n", "nfe", "acceptance", "seconds", "seed"}
    assert (report["model"], report["output"], report["n"]) == ("colours.safetensors", "o.npz", 2)
    assert report["expression"] == "red & ~large"
    assert report["nfe"] == 2 * (2 + 5) * 3, "red, small, and none"
    assert len(report["acceptance"]) == 2
    assert np.load("o.npz")["images"].shape == (2, 6, 6, 1)
    flow = vpfb("red", "-m", "colours.safetensors", *QUICK, "--mcmc", "none", "--json").json
    assert flow["acceptance"] is None
    weighted = vpfb("red & large", "-m", "colours.safetensors", *QUICK, "--mcmc", "smc", "--json").json
    assert set(weighted) == set(report) | {"resampled", "log_normaliser"}
    assert len(weighted["acceptance"]) == 2


def test_a_folder_gets_one_png_each_and_quiet_prints_only_its_path(vpfb: Vpfb) -> None:
    ran = vpfb("red | 2*'light blue'", "-m", "colours.safetensors", *QUICK, "-o", "out/", "-q")
    assert (ran.code, ran.out, ran.err) == (0, "out/\n", "")
    assert sorted(path.name for path in Path("out").iterdir()) == ["000000.png", "000001.png"]


def test_image_i_is_the_same_whatever_the_batch(vpfb: Vpfb) -> None:
    argv = ["red & large", "-m", "colours.safetensors", "--levels", "2", "-n", "3", "--seed", "9"]
    vpfb(*argv, "-o", "one.npz")
    vpfb(*argv, "-o", "two.npz", "--batch-size", "2")
    one, two = np.load("one.npz")["images"].astype(int), np.load("two.npz")["images"].astype(int)
    assert np.abs(one - two).max() <= 1
    assert np.ptp(one) > 50


def test_models_are_named_in_the_expression(vpfb: Vpfb) -> None:
    ran = vpfb("colours.safetensors:red & 'my faces.safetensors':large & ~all.safetensors:", *QUICK, "--json")
    assert ran.json["model"] == "colours.safetensors, my faces.safetensors, all.safetensors"
    assert ran.json["nfe"] == 2 * (2 + 5) * 5, "a class and none of either, and all"
    ran = vpfb("all.safetensors: & all.safetensors:", *QUICK, "--mcmc", "none")
    assert (ran.code, ran.err.count("\n")) == (2, 2)
    assert vpfb("all.safetensors:", "-m", "colours.safetensors", *QUICK).code == 2


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["red & & large"], 2, ["expected a name, not '&'", "red & ^& large"]),
        (["rad & large"], 2, ["unknown class 'rad'", "^rad & large", "did you mean 'red'?", "red, green, light blue"]),
        (["red", "--mcmc", "nuts"], 2, ["unknown mcmc 'nuts'"]),
        (["red", "--mcmc", "none", "--mcmc-steps", "3"], 2, ["without mcmc"]),
        (["red", "--mcmc-steps", "0"], 2, ["0 is not at least 1"]),
        (["red", "--levels", "1"], 2, ["'--levels': 1 is not at least 2"]),
        (["red", "-o", "way.gif"], 2, ["way.gif"]),
        (["red", "-o", "way.jpg"], 2, [".jpg"]),
        (["red & bright.safetensors:red"], 2, ["mean 0.500 (std 0.200) and 0.700 (std 0.200)"]),
        (["all.safetensors:red"], 2, ["unconditional"]),
        (["red & nowhere:red"], 4, ["no model 'nowhere'"]),
        (["rough.safetensors:red | rough.safetensors:green"], 4, ["vpfb info --calibrate rough.safetensors"]),
        ([], 2, ["EXPRESSION"]),
    ],
)
def test_an_error_in_an_expression_has_at_most_two_lines_and_writes_nothing(
    vpfb: Vpfb, argv: list[str], code: int, words: list[str]
) -> None:
    named = (
        [] if any(".safetensors:" in word and "red &" not in word for word in argv) else ["-m", "colours.safetensors"]
    )
    before = sorted(Path().iterdir())
    ran = vpfb(*argv, *named)
    assert (ran.code, ran.out) == (code, "")
    assert ran.err.count("\n") <= 2
    for word in words:
        assert word in ran.err
    assert sorted(Path().iterdir()) == before
    failure = vpfb(*argv, *named, "--json").json["error"]
    assert failure["exit_code"] == code


def test_a_closed_expression_needs_no_model_to_be_refused(vpfb: Vpfb) -> None:
    ran = vpfb("red &", "-m", "nowhere.safetensors")
    assert ran.code == 2
    assert "the end" in ran.err
