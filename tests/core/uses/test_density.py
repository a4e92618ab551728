"""Densities of images through a model: exact for Gaussian data, in nats and bits, whatever the batch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from models import count_checked, vpfb_model
from torch import Tensor

import vpfb_core as vpfb
from vpfb_core import networks
from vpfb_core.api import Model
from vpfb_core.data.image_statistics import ImageStatistics
from vpfb_core.data.source import ConditionGroup
from vpfb_core.errors import CheckpointError, ConfigError
from vpfb_core.methods.flow_matching import FlowMatching
from vpfb_core.methods.path.homotopy import OT, Homotopy
from vpfb_core.methods.step import DataShape
from vpfb_core.methods.vpfb import estimation
from vpfb_core.methods.vpfb.field import PotentialField
from vpfb_core.methods.vpfb.normaliser import Constants, Normaliser, levels
from vpfb_core.methods.vpfb.potential import Potential
from vpfb_core.uses import density

STATISTICS = ImageStatistics((0.4,), 0.2)
DIGITS = ConditionGroup("class", ("0", "1"))


def untrained(
    side: int = 3, groups: tuple[ConditionGroup, ...] = (), noise: float = 0.0, *,
    schedule: Homotopy = OT(sigma_min=0.01), has_null: bool = True,
) -> Model:  # fmt: skip
    """N = 0, the exact model of independent Gaussian pixels; with noise on its weights, some other."""
    network = {
        "name": "unet", "channels": 1, "size": side, "widths": [8], "classes": [len(g.classes) for g in groups],
    }  # fmt: skip
    built = networks.build(network)
    draws = torch.Generator().manual_seed(1)
    for parameter in built.parameters():
        parameter.data += noise * torch.randn(parameter.shape, generator=draws)
    return vpfb_model(
        Potential(built, schedule, 0.5), network=network, statistics=STATISTICS, shape=(1, side, side), groups=groups,
        has_null=has_null,
    )  # fmt: skip


def calibrate(model: Model, images: Tensor, labels: Tensor | None = None, **counts: int) -> None:
    """Give the model the constants of these images, from as many points as `counts` says."""
    assert isinstance(model.field, PotentialField)
    data = model.standardise(model.statistics.dequantise(images, 0))
    settings: dict[str, Any] = {"anchor_points": 0} | counts
    model.calibration = estimation.calibrate(model.field.potential, data, labels, model.data_shape.classes, **settings)


def flow_matching() -> Model:
    """A model with a flow and without an energy."""
    network = {"name": "unet", "channels": 1, "size": 3, "widths": [8, 8], "classes": []}
    method, shape = FlowMatching(FlowMatching.Settings()), DataShape((1, 3, 3))
    field = method.field(networks.build(network), shape).eval().requires_grad_(False)
    return Model(method=method, field=field, network=network, statistics=STATISTICS, shape=shape.shape)


def gaussian(images: Tensor, blur: float = 0.0) -> Tensor:
    """log density of independent pixels N(mean, std² (1 + blur²)), nats (N,)."""
    deviation = STATISTICS.std * math.sqrt(1 + blur**2)
    pixels = torch.distributions.Normal(STATISTICS.mean[0], deviation).log_prob(images.double())
    return pixels.flatten(1).sum(1)


def lowest_level(model: Model) -> float:
    assert model.field.levels is not None
    return model.field.levels.lowest


def pictures(n: int, side: int = 3) -> Tensor:
    """uint8 (n, 1, side, side)."""
    return torch.randint(0, 256, (n, 1, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_flow_likelihood_of_gaussian_pixels_is_their_density() -> None:
    model, images = untrained(), pictures(4)
    found = model.log_density(images, method="ode", nfe=4)
    drawn = STATISTICS.dequantise(images, seed=0)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, gaussian(drawn, blur=0), rtol=0, atol=1e-3 + 9 * lowest_level(model) ** 2)


def test_explicit_density_of_gaussian_pixels_is_that_of_the_blurred_image() -> None:
    model, images = untrained(), pictures(64)
    calibrate(model, images, points=16)
    for level in (0.1, 1.0):
        found = model.log_density(images, level=level)
        # The noise that was drawn is not known here, but a Gaussian has all its entropy in the mean over noise.
        z = STATISTICS.standardise(images).double()
        mean_square = (z.square() + level**2 + (1 / 255 / STATISTICS.std) ** 2 / 12).flatten(1).sum(1)
        expected = -0.5 * mean_square / (1 + level**2) - 9 * math.log(
            STATISTICS.std * math.sqrt(2 * math.pi * (1 + level**2))
        )
        error = (found - expected) / math.sqrt(len(images))
        assert error.sum().abs() < 4 * error.std() * math.sqrt(len(images)) + 1e-3


def test_both_methods_agree_on_the_same_blurred_image() -> None:
    model, images = untrained(), pictures(4)
    calibrate(model, images, points=4)
    explicit, ode = model.log_density(images, level=0.2), model.log_density(images, method="ode", level=0.2, nfe=4)
    torch.testing.assert_close(explicit, ode, rtol=0, atol=1e-2)
    torch.testing.assert_close(model.blur(0.2), 0.2 * STATISTICS.std * 255)


def test_uniform_noise_takes_eight_bits_from_a_model_that_knows_nothing_better() -> None:
    """Grey levels that are uniform cost log₂ 256 bits under the uniform density, and little more under a Gaussian."""
    images = pictures(64)
    statistics = ImageStatistics.of(images)
    model = untrained()
    model.statistics = statistics
    bits = model.bits_per_dim(images, method="ode", nfe=4).mean()
    # E[−log₂ N(x; 0, σ²)] + log₂ 255 for x of standard deviation σ.
    expected = 0.5 * math.log2(2 * math.pi * math.e * statistics.std**2) + math.log2(255)
    assert bits == pytest.approx(expected, abs=2e-2)
    assert 8 < bits < 8.4


def test_density_of_image_i_depends_on_seed_and_index_alone() -> None:
    model, images = untrained(side=5, noise=0.1), pictures(6, side=5)
    calibrate(model, images, points=4)
    for settings in ({"method": "explicit"}, {"method": "ode", "nfe": 8}):
        together = model.log_density(images, **settings)
        parts = model.log_density(images, **settings, batch_size=4)
        later = model.log_density(images[3:], **settings, first=3)
        torch.testing.assert_close(parts, together, rtol=1e-4, atol=2e-2)
        torch.testing.assert_close(later, together[3:], rtol=1e-4, atol=2e-2)
        assert (model.log_density(images, **settings, seed=1) - together).abs().min() > 1e-3


def test_pictures_in_unit_range_are_read_as_the_file_that_they_would_be_saved_as() -> None:
    model, images = untrained(), pictures(3)
    as_bytes = model.log_density(images, method="ode", nfe=4)
    wobble = images / 255 + 0.4 / 255 * (torch.rand(images.shape) - 0.5)
    assert torch.equal(model.log_density(wobble, method="ode", nfe=4), as_bytes)
    plain = model.log_density(wobble, method="ode", nfe=4, dequantise=False)
    torch.testing.assert_close(plain, gaussian(wobble), rtol=0, atol=1e-2)


def test_the_flow_is_entered_where_its_noise_is_as_wide_as_the_dequantisations() -> None:
    model = untrained()
    entries = [density.flow_level(model, None, dequantise) for dequantise in (False, True)]
    assert entries == [lowest_level(model)] * 2
    model = untrained(schedule=OT(sigma_min=1e-4))
    level = density.flow_level(model, None, dequantise=True)
    assert level > lowest_level(model)
    assert level * STATISTICS.std * 255 == pytest.approx(torch.linspace(-0.5, 0.5, 10001).std().item(), rel=1e-3)


def test_a_class_has_its_own_density_and_two_at_once_have_none() -> None:
    groups = (DIGITS, ConditionGroup("thick", ("~thick", "thick")))
    model, images = untrained(groups=groups), pictures(4)
    assert isinstance(model.field, PotentialField)
    noise = levels(model.field.potential)
    entries: dict[tuple[int, ...], Constants] = {
        key: Constants(tuple(value for _ in noise), (0.0,) * len(noise), 1)
        for key, value in {(-1, -1): -1.0, (0, -1): -2.0, (1, -1): -3.0}.items()
    }
    model.calibration = Normaliser(9, noise, entries)
    none, zero, one = (model.log_density(images, condition=condition) for condition in (None, "0", "1"))
    torch.testing.assert_close(none - zero, torch.ones(4).double())
    torch.testing.assert_close(zero - one, torch.ones(4).double())
    mixed = model.log_density(images, condition=torch.tensor([[0, -1], [1, -1], [-1, -1], [0, -1]]))
    torch.testing.assert_close(mixed, torch.stack([zero[0], one[1], none[2], zero[3]]))
    with pytest.raises(ConfigError, match="no normaliser for the class indices"):
        model.log_density(images, condition="0,thick")
    assert model.log_density(images, condition="0,thick", method="ode", nfe=4).isfinite().all()


@pytest.fixture(scope="module")
def calibrated() -> Model:
    model = untrained()
    calibrate(model, pictures(4), points=4)
    return model


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"method": "exact"}, "exact"),
        ({"level": 1e-4}, "0.0001"),
        ({"level": float("inf")}, "inf"),
        ({"method": "ode", "level": 1e-4}, "0.0001"),
        ({"batch_size": 0}, "batch size 0"),
        ({"method": "ode", "probes": 0}, "probes = 0"),
        ({"method": "ode", "probes": 1.5}, "probes = 1.5"),
        ({"level": "low"}, "level = 'low'"),
        ({"level": torch.ones(2)}, "level = tensor"),
        ({"method": "ode", "rtol": "1e-3"}, "rtol = '1e-3'"),
        ({"nfe": 5}, "nfe"),
    ],
)
def test_settings_that_do_not_exist_are_refused(settings: dict[str, Any], words: str, calibrated: Model) -> None:
    with pytest.raises(ConfigError, match=words):
        calibrated.log_density(pictures(1), **settings)


@pytest.mark.parametrize("settings", [{}, {"method": "ode", "nfe": 4}], ids=["explicit", "ode"])
def test_the_range_of_each_image_is_checked_once(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = untrained(), pictures(5).float() / 255
    calibrate(model, pictures(4), points=4)
    checked = count_checked(monkeypatch)
    model.log_density(images, batch_size=2, **settings)
    assert sum(checked) == 5


def test_an_uncalibrated_model_names_the_command_that_helps() -> None:
    with pytest.raises(CheckpointError) as refusal:
        untrained().bits_per_dim(pictures(1))
    assert "--calibrate" in str(refusal.value.hint)


def test_the_normaliser_is_in_the_file_and_is_that_of_the_averaged_weights(tmp_path: Path) -> None:
    model, images = untrained(groups=(DIGITS,)), pictures(12)
    labels = torch.arange(12)[:, None] % 2
    calibrate(model, images, labels, points=4, class_points=2)
    assert isinstance(model.calibration, Normaliser)
    assert set(model.calibration.constants) == {(-1,), (0,), (1,)}
    model.save(tmp_path / "model.safetensors")
    loaded = vpfb.load(tmp_path / "model.safetensors", device="cpu")
    assert loaded.calibration == model.calibration
    assert torch.equal(loaded.log_density(images), model.log_density(images))


# --- what a model cannot do -------------------------------------------------------------------------------------------


def test_the_hint_for_a_model_without_an_energy_is_not_to_calibrate() -> None:
    model, images = flow_matching(), pictures(1)
    for ask in (
        lambda: model.log_density(images),
        lambda: model.bits_per_dim(images),
        lambda: model.log_density(images, level=0.2),
        lambda: model.blur(),
    ):
        with pytest.raises(ConfigError, match=r"density needs energies of known .* flow-matching does not") as caught:
            ask()
        assert caught.value.hint == "methods that have them: vpfb, latent"


def test_a_model_that_was_never_trained_without_a_class_has_densities_of_classes_alone() -> None:
    model, images = untrained(groups=(DIGITS,), has_null=False), pictures(4)
    calibrate(model, images, torch.arange(4)[:, None] % 2, points=4, class_points=2)
    for settings in ({"method": "explicit"}, {"method": "ode", "nfe": 4}):
        assert model.log_density(images, condition="1", **settings).isfinite().all()
        for nothing in (None, torch.tensor([[0], [1], [-1], [0]])):
            with pytest.raises(ConfigError, match=r"a density without a class .*condition_dropout = 0") as caught:
                model.log_density(images, condition=nothing, **settings)
            assert "name a class" in str(caught.value.hint)


def test_no_images_have_no_densities() -> None:
    assert untrained().log_density(pictures(0), method="ode").shape == (0,)
