"""Runs of the latent method: resuming, the rule of the step sizes, and what its models do."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import stopped_runs
import torch
from stopped_runs import assert_equal_bit_for_bit, state_of
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

import vpfb_core as vpfb
from vpfb_core.errors import ConfigError
from vpfb_core.methods.latent import posterior
from vpfb_core.uses import composition

STEPS, BEGINS = 8, 4  # the joint energy is trained in the last four steps


def configuration(out: Path, **settings: Any) -> vpfb.TrainConfig:
    return vpfb.TrainConfig(
        data="digits", method="latent", steps=STEPS, batch_size=16, width=16, threads=1, device="cpu",
        val_fraction=0.02, decoder_share=0.5, pool=32, out=str(out), **settings,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def short_chains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posterior, "BURN_IN", 5)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(posterior, "BURN_IN", 5)
        vpfb.train(configuration(out))
    return out


@pytest.mark.parametrize(
    "stop", [BEGINS + 2, *(pytest.param(stop, marks=pytest.mark.slow) for stop in (BEGINS - 1, BEGINS))]
)
def test_a_run_is_resumed_bit_for_bit_in_either_stage(whole: Path, tmp_path: Path, stop: int) -> None:
    parts = tmp_path / "parts"
    stopped_runs.train(configuration(parts), stop)
    vpfb.train(vpfb.TrainConfig(resume=str(parts)))
    ours, theirs = state_of(parts), state_of(whole)
    assert_equal_bit_for_bit(ours, theirs)
    assert {"method/codes", "network/pool", "network/step_sizes", "network/pool_steps"} <= ours.keys()
    assert int(ours["network/pool_steps"]) == 4 * (STEPS - BEGINS)


def test_every_visited_image_has_a_code_of_its_own(whole: Path) -> None:
    codes = state_of(whole)["method/codes"]
    visited = ~codes.isnan().any(1)
    assert int(visited.sum()) == STEPS * 16
    assert len(codes[visited].unique(dim=0)) == STEPS * 16


def test_the_pool_is_in_the_model_file_and_samples_start_from_it(whole: Path) -> None:
    model = vpfb.load(whole, device="cpu")
    field: Any = model.field
    assert int(field.pool_steps) > 0
    assert len(field.pool.unique(dim=0)) == 32
    pool, fresh = (model.sample(3, seed=1, nfe=3, start=start).images for start in ("pool", "fresh"))
    assert not torch.allclose(pool, fresh)
    assert torch.equal(model.sample(3, seed=1, nfe=3).images, pool)


@pytest.mark.slow
def test_the_density_of_eight_gaussians_on_a_circle_is_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posterior, "BURN_IN", 60)
    config = vpfb.TrainConfig(
        data="eight-gaussians", method="latent", steps=1500, batch_size=512, threads=1, device="cpu",
        out=str(tmp_path / "run"),
    )  # fmt: skip
    model = vpfb.train(config).model
    field: Any = model.field
    turn = 2 * math.pi * torch.arange(8) / 8
    centres = field.signal * model.standardise(4 * torch.stack([turn.cos(), turn.sin()], 1))
    deviation = torch.tensor(model.statistics.to_dict()["std"])
    spread = ((field.signal * 0.5 / deviation).square() + field.noise**2).sqrt()
    parts = Independent(Normal(centres, spread.expand(8, 2)), 1)
    axis = torch.linspace(-2.2, 2.2, 64)
    points = torch.cartesian_prod(axis, axis)
    exact = MixtureSameFamily(Categorical(torch.ones(8)), parts).log_prob(points).softmax(0)
    learned = (-torch.cat([field.energy(part, field.level) for part in points.split(1024)])).softmax(0)
    assert (learned - exact).abs().sum() / 2 < 0.12
    nearest = torch.cdist(field.pool[:, :2], centres.float()).argmin(1)
    shares = nearest.bincount(minlength=8) / len(nearest)
    assert shares.min() > 0.06
    assert shares.max() < 0.2


@pytest.mark.parametrize("start", ["pool", "fresh"])
def test_sample_i_is_fixed_by_the_seed_and_i(whole: Path, start: str) -> None:
    model = vpfb.load(whole, device="cpu")
    four = model.sample(4, seed=1, nfe=6, start=start)
    two = model.sample(2, seed=1, first=2, batch_size=1, nfe=6, start=start)
    torch.testing.assert_close(four.images[2:], two.images, atol=1e-5, rtol=0.0)
    assert four.nfe.tolist() == [6] * 4
    assert not torch.allclose(model.sample(4, seed=2, nfe=6, start=start).images, four.images)


def test_codes_and_scores_of_an_image_do_not_depend_on_the_others(whole: Path) -> None:
    model, images = vpfb.load(whole, device="cpu"), vpfb.data.load("digits").data[:5]
    assert model.encode(images).shape == (5, 8)
    torch.testing.assert_close(model.encode(images, batch_size=2), model.encode(images), atol=1e-4, rtol=0.0)
    energies = model.score(images, "energy")
    torch.testing.assert_close(model.score(images, "energy", batch_size=2), energies, atol=1e-2, rtol=0.0)
    assert model.decode(model.encode(images)).shape == (5, 1, 8, 8)


@pytest.mark.parametrize(
    ("use", "words"),
    [
        ("long_run", "a Langevin chain needs an energy in closed form"),
        ("compose", "composition needs an energy in closed form"),
        ("dimension", "the score dimension needs an energy in closed form"),
        ("likelihood", "a likelihood needs a flow from noise to data"),
        ("path", "come from Markov chains, without a path from noise"),
        ("solver", "come from a Markov chain, which takes no solver"),
        ("encode", "are not found along a flow"),
    ],
)
def test_what_does_not_apply_is_refused_in_a_sentence(whole: Path, use: str, words: str) -> None:
    model = vpfb.load(whole, device="cpu")
    images = torch.zeros(2, 1, 8, 8)
    calls = {
        "long_run": lambda: model.long_run(images, 2),
        "compose": lambda: composition.Composition("3 & 5", model),
        "dimension": lambda: model.score(images, "dimension"),
        "likelihood": lambda: model.log_density(images, method="ode"),
        "path": lambda: model.sample(1, keep_path=True),
        "solver": lambda: model.sample(1, method="heun"),
        "encode": lambda: model.encode(images, method="heun"),
    }
    with pytest.raises(ConfigError, match=words):
        calls[use]()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"method": "latent", "network": "unet"}, "the method latent does not train the network unet"),
        ({"method": "vpfb", "network": "decoder"}, "the method vpfb does not train the network decoder"),
        ({"method": "latent", "conditional": True}, "the method latent trains without classes"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        vpfb.train(vpfb.TrainConfig(data="digits", steps=1, device="cpu", out=str(tmp_path / "run"), **settings))
    assert not (tmp_path / "run").exists()
