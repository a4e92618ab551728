"""Commands with a model of the method energy-matching: an energy of clean data without a flow or a constant."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cli_runner import Vpfb
from PIL import Image

from vpfb_core import networks
from vpfb_core.api import Model
from vpfb_core.data.image_statistics import ImageStatistics
from vpfb_core.methods.energy_matching.static_energy import StaticEnergy
from vpfb_core.methods.energy_matching.two_phases import EnergyMatching, EnergyMatchingSettings


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A grey 8×8 model with small random weights, whose chains take steps of 0.25."""
    network = {"name": "unet", "channels": 1, "size": 8, "widths": [8]}
    built = networks.build(network)
    draws = torch.Generator().manual_seed(1)
    for parameter in built.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=draws)
    path = tmp_path_factory.mktemp("model") / "static.safetensors"
    Model(
        method=EnergyMatching(EnergyMatchingSettings(temperature=0.1, contrast_share=0.5, chain_step=0.25)),
        field=StaticEnergy(built, 0.1).eval().requires_grad_(False), network=network,
        statistics=ImageStatistics((0.5,), 0.15), shape=(1, 8, 8),
    ).save(path)  # fmt: skip
    return str(path)


def test_samples_end_at_the_time_that_is_asked_for(model: str, vpfb: Vpfb) -> None:
    spent = {}
    for tau in ("1", "2", "3"):
        ran = vpfb("sample", "-m", model, "-n", "2", "--tau", tau, "-o", "a.png", "--json")
        assert ran.code == 0, ran.err
        spent[tau] = ran.json["nfe"]
    assert spent == {"1": 40, "2": 45, "3": 49}
    assert vpfb("sample", "-m", model, "-n", "2", "--tau", "3", "--nfe", "8", "-o", "b.png").code == 2
    assert vpfb("sample", "-m", model, "-n", "2", "--tau", "2", "-o", "c.gif").code == 0


def test_a_method_without_such_a_time_refuses_it_in_a_sentence(vpfb: Vpfb) -> None:
    ran = vpfb("sample", "-m", "digits", "-n", "1", "--tau", "2")
    assert (ran.code, ran.out) == (2, "")
    assert "a model of the method vpfb is sampled without tau" in ran.err
    assert "methods that take it: energy-matching" in ran.err
    assert not list(Path().iterdir())


def test_chains_and_known_pixels_need_no_flow(model: str, vpfb: Vpfb) -> None:
    ran = vpfb("sample", "-m", model, "-n", "2", "--langevin", "5", "-o", "a.png", "--json")
    assert ran.code == 0, ran.err
    assert 0 <= ran.json["acceptance"] <= 1
    Image.new("L", (8, 8), 90).save("known.png")
    Image.linear_gradient("L").resize((8, 8)).point(lambda value: 255 * (value > 127)).save("mask.png")
    known = ["sample", "-m", model, "-n", "2", "--known", "known.png", "--mask", "mask.png", "-o", "b.png"]
    ran = vpfb(*known, "--json")
    assert ran.code == 0, ran.err
    assert (ran.json["solver"], ran.json["nfe"]) == ("euler", 50 + 51 + 201)
    refused = vpfb(*known, "--tau", "2")
    assert "--known chooses its own solver steps, so it takes no --tau" in refused.err


def test_scores_and_evaluation_work_and_say_that_there_is_no_density(model: str, vpfb: Vpfb) -> None:
    ran = vpfb("score", "digits", "-m", model, "--score", "energy", "-o", "scores.csv", "--json")
    assert ran.code == 0, ran.err
    assert "has no density" in ran.err
    assert "calibrate" not in ran.err
    ran = vpfb("eval", "--data", "digits", "-m", model, "-n", "20", "--nfe", "4", "--features", "pixels", "--json")
    assert ran.code == 0, ran.err
    assert "residual" in ran.json["metrics"]
    assert "bpd" not in ran.err
    ran = vpfb("ood", "--in", "digits", "--out", "noise", "-m", model, "--score", "density", "--limit", "5")
    assert (ran.code, "needs energies of known normalisation" in ran.err) == (2, True)
    assert vpfb("interpolate", "-m", model, "-n", "2").code == 2
