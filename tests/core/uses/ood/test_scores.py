"""Values of the scores on potentials that are known exactly, and their direction on real digits."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from models import count_checked
from ood_models import SHAPE, count_evaluations, images_of, model_of, turning, unit
from present import present
from problems import STD, anisotropic, exact_field
from torch import Tensor

import vpfb_core as vpfb
from vpfb_core.api import Model
from vpfb_core.data import ImageSet
from vpfb_core.errors import CheckpointError, ConfigError
from vpfb_core.methods.vpfb.field import PotentialField
from vpfb_core.methods.vpfb.normaliser import Constants, Normaliser, levels
from vpfb_core.networks import UNet
from vpfb_core.uses import ood
from vpfb_core.uses.ood.descriptors import (
    DENOISING_LEVELS,
    LEVELS,
    SCALAR_LEVEL,
    Described,
    describe,
    levels_of,
    scalar_level,
)
from vpfb_core.uses.ood.detection import compare
from vpfb_core.uses.ood.scores import SCORES, assess, find_scores


@pytest.mark.parametrize("level", LEVELS)
def test_energy_and_score_of_a_mixture_are_its_exact_ones(level: float) -> None:
    mixture = anisotropic()
    z = torch.randn(40, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    descriptor = describe(exact_field(mixture), z, level)
    sine, cosine = unit(level), unit(level) * level
    exact = mixture.log_density(sine * z, torch.tensor(sine / STD), torch.tensor(cosine))
    assert torch.allclose(descriptor.energy, -exact - math.log(2 * math.pi), atol=1e-8), "C(φ) is −(d/2) log 2π"
    score = mixture.score(sine * z, torch.tensor(sine / STD), torch.tensor(cosine))
    assert torch.allclose(descriptor.score_norm, score.norm(dim=1), atol=1e-6)


def test_energy_and_gradient_of_gaussian_data_are_those_of_a_gaussian() -> None:
    model, images = model_of(), images_of(7)
    length = ((images - 0.5) / 0.1).flatten(1).norm(dim=1) * unit(SCALAR_LEVEL)
    assert torch.allclose(ood.score(model, images, "energy"), length.square() / 2, rtol=1e-5)
    assert torch.allclose(ood.score(model, images, "gradient"), length, rtol=1e-5)


def test_typicality_is_two_sided() -> None:
    model = model_of(shape=(1, 8, 8))
    model.reference = ood.fit_reference(model, images_of(200, shape=(1, 8, 8)))
    z = torch.ones(1, 1, 8, 8)
    flat, usual, wild = (ood.score(model, 0.5 + 0.1 * scale * z, "typicality") for scale in (0.0, 1.0, 1.5))
    assert flat > 10 * usual
    assert wild > 10 * usual


def test_density_and_likelihood_are_minus_the_models_own() -> None:
    model, images = model_of(turning), images_of(5).clamp(0, 1)
    exact = model.log_density(images, method="ode", seed=3).float()
    assert torch.allclose(ood.score(model, images, "likelihood", seed=3, batch_size=2), -exact, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", ["multiscale", "energy", "gradient", "typicality"])
def test_noise_and_turned_digits_score_above_digits(name: str, digits: tuple[Model, ImageSet]) -> None:
    model, held_out = digits
    random = torch.Generator().manual_seed(0)
    inside = held_out.images[:60]
    outside = {
        "noise": torch.randint(0, 256, inside.shape, dtype=torch.uint8, generator=random),
        "turned": inside.rot90(1, (2, 3)),
        "inverted": 255 - inside,
    }
    scores = ood.score(model, inside, name)
    for kind, images in outside.items():
        assert ood.compare(scores, ood.score(model, images, name)).auroc > 0.97, kind


def test_multiscale_notices_what_an_energy_cannot(digits: tuple[Model, ImageSet]) -> None:
    """A blank image is smoother than any digit; no digit is blank."""
    model, held_out = digits
    blank = torch.full((20, 1, 8, 8), 60, dtype=torch.uint8) + torch.arange(20, dtype=torch.uint8)[:, None, None, None]
    in_scores = ood.score(model, held_out.images[:60])
    assert ood.compare(in_scores, ood.score(model, blank)).auroc == 1


def test_a_score_does_not_depend_on_the_batch(digits: tuple[Model, ImageSet]) -> None:
    model, held_out = digits
    heard: list[int] = []
    for name in ("multiscale", "energy", "gradient"):
        whole = ood.score(model, held_out.images[:10], name)
        parts = ood.score(model, held_out.images[:10], name, batch_size=4, on_batch=heard.append)
        assert torch.allclose(whole, parts, rtol=1e-3, atol=1e-3), name
        assert (whole.shape, whole.dtype, whole.device.type) == ((10,), torch.float32, "cpu")
    assert heard == [4, 8, 10] * 3


@pytest.mark.parametrize("name", SCORES)
def test_the_range_of_each_image_is_checked_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = model_of(), images_of(3).clamp(0, 1)
    model.reference = ood.fit_reference(model, images_of(60).clamp(0, 1))
    assert isinstance(model.field, PotentialField)
    noise = levels(model.field.potential)
    zeros = (0.0,) * len(noise)
    model.calibration = Normaliser(4, noise, {(): Constants(zeros, zeros, 1)})
    checked = count_checked(monkeypatch)
    ood.score(model, images, name, batch_size=2)
    assert sum(checked) == 3
    with pytest.raises(ConfigError, match="batch size 0"):
        ood.score(model, images, name, batch_size=0)


def test_descriptors_hold_every_level_and_the_coarsest_layer(digits: tuple[Model, ImageSet]) -> None:
    model, held_out = digits
    data = model.standardise(held_out.images[:3])
    found = Described(model.field, data).evidence(LEVELS)
    assert found["recording"].shape == (3, 2 * len(LEVELS))
    width = model.network["widths"][-1]
    assert found["content"].shape == (3, 3 * 2 * width), "mean and deviation of each channel, at three levels"
    assert Described(model.field, data, regions=4).evidence(LEVELS)["content"].shape == (3, 3 * width * 4**2)
    assert isinstance(model.field.network, UNet)
    assert not model.field.network.middle._forward_hooks, "nothing is left behind"
    assert "content" not in Described(model_of().field, images_of(3)).evidence(LEVELS)


def test_how_much_gaussian_data_are_denoised_is_their_length_at_each_of_its_levels() -> None:
    """The score of N(0, I) is minus the point."""
    z = images_of(7).sub(0.5).div(0.1)
    found = Described(model_of().field, z).evidence(LEVELS)["denoising"]
    expected = torch.stack([(z.flatten(1).norm(dim=1) * unit(level)).log() for level in DENOISING_LEVELS], 1)
    assert torch.allclose(found, expected, atol=1e-5)
    assert "denoising" not in Described(model_of().field, z).evidence(LEVELS[:3]), "it has none of these levels"
    assert "denoising" not in Described(model_of().field, z.flatten(1)).evidence(LEVELS), "rows of a table"


@pytest.mark.parametrize("name", ["energy", "typicality"])
def test_no_gradient_is_computed_where_the_energy_is_enough(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(turning)
    model.reference = ood.fit_reference(model, images_of(60))
    counts = count_evaluations(monkeypatch)
    ood.score(model, images_of(4), name, batch_size=2)
    assert counts == {"energy": 2}


def test_a_reference_evaluates_each_level_once_and_keeps_the_mean_energy(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = model_of(turning), images_of(60)
    counts = count_evaluations(monkeypatch)
    reference = ood.fit_reference(model, images, batch_size=30)
    assert counts == {"energy_and_score": 2 * len(LEVELS)}
    assert reference.typical_energy == pytest.approx(float(ood.score(model, images, "energy").mean()), rel=1e-6)


def test_levels_are_described_once_and_their_energies_are_those_of_the_field() -> None:
    field, z = model_of(turning).field, images_of(5).sub(0.5).div(0.1)
    described = Described(field, z)
    assert described.at(0.5) is described.at(0.5)
    for level in (0.25, 0.5):
        torch.testing.assert_close(described.energy(level), describe(field, z, level).energy)


def test_a_reference_without_denoising_scores_as_before(digits: tuple[Model, ImageSet]) -> None:
    """As a file of an earlier version has it."""
    model, held_out = digits
    assert model.reference is not None
    kept = {kind: part for kind, part in model.reference.parts.items() if kind not in ("denoising", "altered")}
    earlier = copy.copy(model)
    earlier.reference = replace(model.reference, parts=kept)
    found, now = ood.scores.assess(earlier, held_out.images[:20]), ood.scores.assess(model, held_out.images[:20])
    assert found.evidence.keys() == kept.keys()
    assert all(torch.equal(found.evidence[kind], now.evidence[kind]) for kind in kept)
    assert torch.allclose(torch.stack(list(found.evidence.values())).log().norm(3, dim=0), found.score, rtol=1e-3)


@pytest.mark.parametrize("name", ["multiscale", "typicality", "density"])
def test_a_score_that_needs_calibration_refuses_an_uncalibrated_model(name: str) -> None:
    with pytest.raises(CheckpointError, match="calibrated") as caught:
        ood.score(model_of(), images_of(2), name)
    assert "--calibrate" in str(caught.value.hint)


@pytest.mark.parametrize("settings", [{"name": "entropy"}, {"name": "energy", "batch_size": 0}])
def test_settings_that_do_not_exist_are_errors(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"entropy|0"):
        ood.score(model_of(), images_of(2), **settings)


def test_images_of_another_shape_are_an_error() -> None:
    with pytest.raises(ConfigError, match="do not fit"):
        ood.score(model_of(shape=SHAPE), torch.zeros(2, 3, 4, 4), "energy")


def test_all_means_every_score_but_the_slow_ones() -> None:
    assert set(find_scores(["all"])) == set(ood.SCORES) - {"dimension", "likelihood"}
    assert find_scores([]) == [ood.DEFAULT_SCORE]
    assert find_scores(["energy", "all"])[0] == "energy"
    assert find_scores(["energy", "energy"]) == ["energy"]
    with pytest.raises(ConfigError, match="entropy"):
        find_scores(["entropy"])


def test_no_images_have_no_scores() -> None:
    assert ood.score(model_of(), images_of(0), "energy").shape == (0,)


def test_the_scores_are_finite_for_flat_and_extreme_images(digits: tuple[Model, ImageSet]) -> None:
    model, _ = digits
    images: Tensor = torch.stack([torch.full((1, 8, 8), value, dtype=torch.uint8) for value in (0, 128, 255)])
    for name in ("multiscale", "energy", "gradient", "typicality"):
        assert ood.score(model, images, name).isfinite().all(), name


@pytest.mark.parametrize(("floor", "levels"), [(1e-3, 10), (0.1, 6), (0.25, 4)])
def test_images_are_read_at_no_level_below_the_lowest_of_the_model(floor: float, levels: int) -> None:
    field = model_of(floor=floor).field
    assert field.levels is not None
    lowest = field.levels.lowest
    assert lowest == pytest.approx(floor / 0.5), "of OT paths to data of deviation 0.5"
    assert len(levels_of(field)) == levels
    assert min(levels_of(field)) >= lowest
    assert scalar_level(field) == max(SCALAR_LEVEL, lowest)


def test_images_that_the_training_held_out_and_others_of_its_data_are_judged_alike() -> None:
    """By the score, and by each kind of evidence, of which none may tell what the network has memorised."""
    model, images = vpfb.load("digits", device="cpu"), vpfb.data.load("digits", conditional=True)
    trained_on, held_out = present(model.split_of(images))
    verdicts = [assess(model, images.in_memory().data[rows]) for rows in (trained_on[:540], held_out)]
    assert compare(*(verdict.score for verdict in verdicts)).auroc == pytest.approx(0.5, abs=0.08)
    for kind in verdicts[0].evidence:
        found = compare(*(-verdict.evidence[kind] for verdict in verdicts)).auroc
        assert found == pytest.approx(0.5, abs=0.1), kind
