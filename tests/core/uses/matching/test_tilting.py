"""Fits of tilts to models whose tilted densities are known, and what a tilted model is used for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import vpfb_model
from problems import ExactNetwork, Mixture, draw_at, isotropic_gaussian, scattered
from torch import Tensor

import vpfb_core as vpfb
from vpfb_core.api import Model
from vpfb_core.data import InMemory
from vpfb_core.data.image_statistics import ImageStatistics
from vpfb_core.errors import CheckpointError, ConfigError
from vpfb_core.machine import container
from vpfb_core.methods.path.homotopy import OT
from vpfb_core.methods.vpfb.normaliser import Constants, Normaliser
from vpfb_core.methods.vpfb.potential import Potential
from vpfb_core.model.tilt import Tilt, TiltedStatistic
from vpfb_core.uses import density
from vpfb_core.uses.matching.tilting import Targets, fit, matched
from vpfb_core.uses.measuring.measures import Measures

COUNT = 1024
LEVELS = (2.0, 1.0, 0.5, 0.2, 0.1)


def of_mixture(mixture: Mixture) -> Model:
    """A model of images of 2×2 around 0.5 whose data are the mixture, with its exact potential and constants."""
    constant = -0.5 * mixture.dimension * math.log(2 * math.pi)
    constants = Constants((constant,) * len(LEVELS), (0.0,) * len(LEVELS), 9)
    return vpfb_model(
        Potential(WithDevice(mixture), OT()), statistics=ImageStatistics((0.5,), 0.05), shape=(1, 2, 2),
        normaliser=Normaliser(mixture.dimension, LEVELS, {(): constants}),
    )  # fmt: skip


def constants_of(log_partition: Tensor) -> dict[tuple[int, ...], float]:
    return {(): float(log_partition)}


class WithDevice(ExactNetwork):
    """The exact network of a mixture, with a parameter, whose device is that of the model."""

    def __init__(self, mixture: Mixture) -> None:
        super().__init__(mixture)
        self.unused = torch.nn.Parameter(torch.zeros(1))


@pytest.fixture(scope="module")
def gaussian() -> Model:
    return of_mixture(isotropic_gaussian(4))


def mean_of(model: Model, name: str, n: int = 2000, seed: int = 1) -> tuple[float, float]:
    """The mean of a statistic over fresh samples, and its standard error."""
    found = Measures.of(model, [name]).measure(model.sample(n, seed, batch_size=n, nfe=8).images)
    return float(found.mean()), float(found.std()) / math.sqrt(n)


# --- fits -------------------------------------------------------------------------------------------------------------


def test_a_linear_statistic_of_gaussian_data_has_the_weight_of_its_closed_form(gaussian: Model) -> None:
    deviation = 0.05 / math.sqrt(4)
    tilt = fit(gaussian, {"brightness": 0.5 + 1.5 * deviation}, count=COUNT, nfe=8)
    (found,) = tilt.statistics
    assert (found.name, found.shifted, tilt.rounds) == ("brightness", True, 0)
    assert found.weight == pytest.approx(1.5 / deviation, rel=0.1)
    assert tilt.nats == pytest.approx(1.5**2 / 2, rel=0.15)
    assert tilt.log_partitions[()] == pytest.approx(1.5**2 / 2, rel=0.2)
    # Kish's share for weights exp(λx) of a Gaussian is exp(-λ²), up to its own error.
    assert 0.05 < tilt.ess < 0.25


@pytest.mark.parametrize(
    "targets",
    [
        {"brightness": 0.54},
        {"top": 0.52, "left": 0.47},
        {"brightness": 0.48, "edges": 0.006},
        pytest.param({"contrast": 0.05}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_fresh_samples_of_a_matched_model_have_the_means(gaussian: Model, targets: Mapping[str, float]) -> None:
    model = matched(gaussian, targets, count=COUNT, nfe=8)
    for name, target in targets.items():
        mean, error = mean_of(model, name)
        assert mean == pytest.approx(target, abs=5 * error)
    untouched, error = mean_of(gaussian, "right")
    assert untouched == pytest.approx(0.5, abs=4 * error), "the model that was fitted is as it was"


def test_targets_of_data_are_their_means(digits: tuple[Model, InMemory]) -> None:
    model, held_out = digits
    targets = Targets.of_data(model, held_out, ["brightness", "histogram"])
    assert targets.count == len(held_out)
    assert targets.means["brightness"] == pytest.approx(float(held_out.images.double().mean()) / 255)
    assert len(targets.means) == 6


def test_the_tilt_does_not_depend_on_the_batch_size(gaussian: Model) -> None:
    both = [fit(gaussian, {"brightness": 0.52}, count=64, nfe=4, batch_size=size) for size in (64, 7)]
    assert both[0].statistics[0].weight == pytest.approx(both[1].statistics[0].weight, rel=1e-5)


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        ({"brightness": 0.9}, "no samples have brightness = 0.9"),
        ({"contrast": 0.4}, "no samples have contrast = 0.4"),
        ({"contrast": 0.08}, "proposals per sample"),
        ({"brightness": 1.5}, "brightness lies between 0 and 1"),
        ({"brightness": math.nan}, "not a finite number"),
        ({"brightness": math.inf}, "not a finite number"),
        ({"histogram": 0.3}, "histogram:0=VALUE"),
        ({"brightnes": 0.3}, "did you mean 'brightness'"),
        ({"brightness": "0.4"}, "brightness = '0.4': expected a number"),
        ({}, "no statistic is given"),
    ],
)
def test_what_no_sample_reaches_is_refused(gaussian: Model, targets: Mapping[str, float], words: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        fit(gaussian, targets, count=256, nfe=4)
    assert words in f"{refusal.value.message} {refusal.value.hint}"


def test_a_target_beyond_the_samples_names_their_extremes(gaussian: Model) -> None:
    with pytest.raises(ConfigError) as refusal:
        fit(gaussian, {"contrast": 0.4}, count=256, nfe=4)
    found = Measures.of(gaussian, ["contrast"]).measure(gaussian.sample(256, nfe=4).images)
    assert f"from {found.min():.4g} to {found.max():.4g}" in str(refusal.value.hint)


# --- densities and chains ---------------------------------------------------------------------------------------------


def test_densities_of_a_tilted_model_are_normalised() -> None:
    mixture = scattered(4)
    direction = torch.tensor([0.8, -0.5, 0.3, 0.6])
    exact, log_partition = mixture.tilted(direction)
    tilt = Tilt((), direction.reshape(1, 2, 2), constants_of(log_partition))
    model = of_mixture(mixture).with_tilt(tilt)
    for level in LEVELS:
        u = draw_at(exact, level, 32)
        sine, cosine = 1 / math.hypot(1, level), level / math.hypot(1, level)
        found = density.explicit(model, u.reshape(-1, 1, 2, 2), level, None)
        scales = torch.tensor(sine / mixture.std).double(), torch.tensor(cosine).double()
        expected = exact.log_density(u, *scales) + 4 * math.log(sine)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)  # the direction is float32


def test_the_likelihood_of_the_tilted_flow_is_that_of_the_tilted_density() -> None:
    mixture = scattered(4)
    direction = torch.tensor([0.4, -0.3, 0.2, 0.1])
    exact, log_partition = mixture.tilted(direction)
    model = of_mixture(mixture).with_tilt(Tilt((), direction.reshape(1, 2, 2), constants_of(log_partition)))
    u = draw_at(exact, 0.5, 8).reshape(-1, 1, 2, 2)
    energies = density.explicit(model, u, 0.5, None)
    flow = density.by_flow(model, u, 0.5, None, None, density.Solver.choose("dopri5", rtol=1e-6, atol=1e-6))
    torch.testing.assert_close(flow, energies, rtol=0, atol=0.04)  # the flow is shortened near the noise


def test_scores_that_compare_with_training_images_ignore_the_tilt(digits: tuple[Model, InMemory]) -> None:
    model, held_out = digits
    tilted = model.with_tilt(Tilt.along(torch.full((1, 8, 8), 0.2)))
    images = held_out.images[:4]
    for name in ("multiscale", "typicality"):
        assert torch.equal(tilted.score(images, name), model.score(images, name))
    assert not torch.allclose(tilted.score(images, "energy"), model.score(images, "energy"))


# --- files ------------------------------------------------------------------------------------------------------------


def example() -> Tilt:
    statistics = (TiltedStatistic("brightness", 0.4, 12.5, True), TiltedStatistic("edges", 0.1, -3.0, False))
    constants: dict[tuple[int, ...], float] = {(-1,): 1.5, **{(index,): 1.0 + index / 10 for index in range(10)}}
    return Tilt(statistics, torch.linspace(-0.1, 0.2, 64).reshape(1, 8, 8), constants, 3, 0.5, 0.7)


def test_a_saved_tilt_is_loaded_and_can_be_removed(digits: tuple[Model, InMemory], tmp_path: Path) -> None:
    model, held_out = digits
    tilted = model.with_tilt(example())
    tilted.save(tmp_path / "tilted.safetensors")
    loaded = vpfb.load(tmp_path / "tilted.safetensors", device="cpu")
    assert loaded.tilt is not None
    assert loaded.tilt.to_dict() == example().to_dict()
    assert torch.equal(loaded.tilt.direction, example().direction)
    drawn: dict[str, Any] = {"seed": 3, "nfe": 4}
    assert torch.equal(loaded.sample(3, **drawn).images, tilted.sample(3, **drawn).images)
    images = held_out.images[:3]
    assert torch.equal(loaded.log_density(images, condition="3"), tilted.log_density(images, condition="3"))
    plain = loaded.with_tilt(None)
    assert torch.equal(plain.sample(3, **drawn).images, model.sample(3, **drawn).images)
    plain.save(tmp_path / "plain.safetensors")
    model.save(tmp_path / "model.safetensors")
    kept, expected = (container.read(tmp_path / f"{name}.safetensors", "model") for name in ("plain", "model"))
    assert kept.digest == expected.digest


def test_the_constants_of_a_tilted_model_are_less_by_log_z(digits: tuple[Model, InMemory]) -> None:
    model, _ = digits
    tilted = model.with_tilt(example())
    assert tilted.calibration is not None
    assert model.calibration is not None
    for condition, log_partition in example().log_partitions.items():
        difference = tilted.calibration.constant(0.2, condition) - model.calibration.constant(0.2, condition)
        assert difference == pytest.approx(-log_partition)


@pytest.mark.parametrize("place", [("rounds",), ("nats",), ("statistics", 0, "weight"), ("statistics", 1, "shifted"),
                                   ("log_partitions", 0, "condition")], ids=str)  # fmt: skip
@pytest.mark.parametrize("value", ["x", -1e301, None, [0.5, 1], 10**9])
def test_a_damaged_tilt_is_an_error_of_the_file(
    digits: tuple[Model, InMemory], tmp_path: Path, place: tuple[Any, ...], value: Any
) -> None:
    path = tmp_path / "tilted.safetensors"
    digits[0].with_tilt(example()).save(path)
    stored = container.read(path, "model")
    holder: Any = stored.document["tilt"]
    for name in place[:-1]:
        holder = holder[name]
    holder[place[-1]] = value
    document = {name: each for name, each in stored.document.items() if name not in ("format", "kind")}
    container.write(path, "model", stored.tensors, document)
    if (place[-1], value) in (("nats", 10**9), ("weight", 10**9)):
        return  # numbers that a tilt could have
    with pytest.raises(CheckpointError):
        vpfb.load(path, device="cpu")


def test_a_tilt_without_its_direction_is_an_error_of_the_file(digits: tuple[Model, InMemory], tmp_path: Path) -> None:
    path = tmp_path / "tilted.safetensors"
    digits[0].with_tilt(example()).save(path)
    stored = container.read(path, "model")
    del stored.tensors["tilt/direction"]
    document = {name: each for name, each in stored.document.items() if name not in ("format", "kind")}
    container.write(path, "model", stored.tensors, document)
    with pytest.raises(CheckpointError, match="no direction"):
        vpfb.load(path, device="cpu")


# --- a trained model --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_digits_have_the_statistics_that_are_asked_for(digits: tuple[Model, InMemory]) -> None:
    model, _ = digits
    data = vpfb.data.load("digits")
    for names in (["brightness"], ["edges", "contrast"], ["classes"]):
        targets = Targets.of_data(model, data, names)
        tilted = matched(model, targets, count=1024)
        measures = Measures.of(model, names)
        found = measures.measure(tilted.sample(512, seed=9).images)
        error = found.std(0) * math.sqrt(1 / 512 + 1 / 1024)
        apart = (found.mean(0) - torch.tensor(list(targets.means.values()))) / error
        assert float(np.abs(apart).max()) < 3.5
