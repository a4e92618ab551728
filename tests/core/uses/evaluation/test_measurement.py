"""Figures of models of known order, and the conditions beside them."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ood_models import model_of
from present import present

import vpfb_core as vpfb
from vpfb_core.api import Model
from vpfb_core.data.image_statistics import ImageStatistics, to_bytes
from vpfb_core.dynamics.solver import DEFAULT_METHOD
from vpfb_core.errors import CheckpointError, ConfigError
from vpfb_core.machine import noise
from vpfb_core.methods.vpfb import objectives
from vpfb_core.methods.vpfb.field import PotentialField
from vpfb_core.methods.vpfb.normaliser import Normaliser
from vpfb_core.uses import evaluation
from vpfb_core.uses.evaluation import distances, features, measurement, neighbours, real
from vpfb_core.uses.evaluation.preparation import FLOW_IMAGES

METRICS = ("frechet", "kernel", "precision", "recall", "density", "coverage", "1nn", "residual", "bpd")
N = 100


def perturbed(model: Model, scale: float) -> Model:
    """The model with noise on its weights."""
    other = replace(model, field=copy.deepcopy(model.field))
    generator = torch.Generator().manual_seed(0)
    for parameter in other.field.parameters():
        deviation = parameter.std(correction=0)
        parameter.add_(scale * deviation * torch.randn(parameter.shape, generator=generator))
    return other


def only_classes(model: Model) -> Model:
    """The model as if it had been trained without an unconditional field."""
    other = replace(model, field=copy.deepcopy(model.field))
    other.field.has_null = False
    return other


def measured(model: Model, *, seed: int = 0, metrics: tuple[str, ...] = METRICS, **settings: Any) -> evaluation.Report:
    plan = evaluation.prepare(model, "digits", metrics, n=N, extractor="pixels")
    return evaluation.evaluate(model, plan, seed=seed, **({"nfe": 8} | settings))


@pytest.fixture(scope="module")
def digits() -> Model:
    return vpfb.load("digits", device="cpu")


@pytest.fixture(scope="module")
def good(digits: Model) -> evaluation.Report:
    return measured(digits)


@pytest.fixture(scope="module")
def bad(digits: Model) -> evaluation.Report:
    return measured(perturbed(digits, 0.6))


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_tells_a_model_from_a_damaged_copy(
    name: str, good: evaluation.Report, bad: evaluation.Report
) -> None:
    better, worse = good.metrics[name], bad.metrics[name]
    assert better.better == worse.better
    if better.better == "lower":
        assert worse.value > better.value * 1.2
    elif better.better == "higher":
        assert worse.value < better.value * 0.95
    else:
        assert abs(worse.value - 0.5) > abs(better.value - 0.5) + 0.1


def test_a_model_of_less_variety_is_precise_and_recalls_less(digits: Model, good: evaluation.Report) -> None:
    assert isinstance(digits.statistics, ImageStatistics)
    statistics = replace(digits.statistics, std=0.7 * digits.statistics.std)  # samples drawn towards the mean image
    narrow = measured(replace(digits, statistics=statistics), metrics=("precision", "recall")).metrics
    assert narrow["recall"].value < 0.5 * good.metrics["recall"].value
    assert narrow["precision"].value >= good.metrics["precision"].value


def test_figures_are_those_of_the_samples_that_the_seed_draws(digits: Model, good: evaluation.Report) -> None:
    samples = features.pixels(to_bytes(digits.sample(N, seed=0, nfe=8).images))
    images = features.pixels(real.load(digits, "digits", N, fewest=6).images)
    assert good.metrics["frechet"].value == pytest.approx(distances.frechet(samples, images), rel=1e-3)
    assert good.metrics["1nn"].value == pytest.approx(neighbours.compare(samples, images).accuracy, abs=0.02)
    assert measured(digits, seed=1, metrics=("frechet",)).metrics["frechet"] != good.metrics["frechet"]


def test_the_batch_size_changes_no_figure(digits: Model, good: evaluation.Report) -> None:
    parts = measured(digits, batch_size=33)
    for name, figure in parts.metrics.items():
        assert figure.value == pytest.approx(good.metrics[name].value, rel=0.02), name
    with pytest.raises(ConfigError, match="batch size 0"):
        measured(digits, batch_size=0, metrics=("frechet",))


def test_what_is_measured_on_real_images_is_what_the_model_says_of_them(digits: Model, good: evaluation.Report) -> None:
    found = real.load(digits, "digits", N, fewest=1)
    unseen = found.unseen
    bits = digits.bits_per_dim(unseen)
    figure = good.metrics["bpd"]
    assert figure.value == pytest.approx(float(bits.mean()), rel=1e-5)
    assert figure.details["standard_error"] == pytest.approx(float(bits.std()) / len(unseen) ** 0.5, rel=1e-4)
    assert figure.details["blur_grey_levels"] == pytest.approx(digits.blur())

    data = digits.standardise(unseen)
    epsilon = noise.normal(data.shape[1:], 5, range(len(data)), "another")
    assert isinstance(digits.field, PotentialField)
    angles = digits.field.angles.sample(
        len(data), digits.field.span, like=data, generator=torch.Generator().manual_seed(5)
    )
    with torch.no_grad():
        scaled = digits.field.potential.data_std * data
        anew = objectives.residual(digits.field.potential, scaled, angles, epsilon, found.unseen_labels)
    error = float(anew.std()) / len(data) ** 0.5
    assert good.metrics["residual"].value == pytest.approx(float(anew.mean()), abs=4 * error)


def test_conditions_stand_beside_every_figure(good: evaluation.Report) -> None:
    assert set(good.metrics) == set(METRICS)
    for name, figure in good.metrics.items():
        document = figure.document()
        assert document["seed"] == 0
        assert document["resize"] == "centre square, Lanczos to 8×8, grey"
        if name in ("residual", "bpd"):
            assert (document["split"], document["extractor"], document["solver"]) == ("held out", None, None)
        else:
            conditions = (N, "all", "pixels", None, DEFAULT_METHOD, 8)
            keys = ("n", "split", "extractor", "weights", "solver", "nfe")
            assert tuple(document[key] for key in keys) == conditions
    assert good.nfe == 8
    assert good.seconds > 0


def test_an_adaptive_solver_is_stated_with_its_tolerances(digits: Model) -> None:
    report = evaluation.evaluate(
        digits, evaluation.prepare(digits, "digits", ("frechet",), n=2, extractor="pixels"), rtol=0.1, atol=0.01
    )
    assert report.metrics["frechet"].solver == "dopri5, rtol 0.1, atol 0.01"
    assert present(report.nfe) > 6
    assert report.nfe == report.metrics["frechet"].nfe


def test_features_of_a_network_are_kept_and_stand_beside_pixels(digits: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    extractor = features.Extractor("mean", "abc", "to one pixel", lambda images: images.float().mean((2, 3)))
    plan = replace(
        evaluation.prepare(digits, "digits", ("1nn", "recall"), n=30, extractor="pixels"), extractor=extractor
    )
    heard: list[float] = []
    first, second = (evaluation.evaluate(digits, plan, nfe=4, on_progress=heard.append) for _ in range(2))
    assert heard.count(1) == 2, "the progress of both reaches the end"
    assert (first.reused, second.reused) == (False, True)
    assert first.metrics == second.metrics
    assert set(first.metrics) == {"recall", "1nn", "1nn_pixels"}
    in_features, in_pixels = first.metrics["1nn"], first.metrics["1nn_pixels"]
    assert (in_features.extractor, in_features.weights) == ("mean", "abc")
    assert in_features.resize.endswith("; for the features to one pixel")
    assert (in_pixels.extractor, in_pixels.weights) == ("pixels", None)
    assert in_features.value != in_pixels.value


def test_progress_reaches_the_end(digits: Model) -> None:
    heard: list[float] = []
    measured(digits, metrics=("precision", "residual", "bpd"), on_progress=heard.append, batch_size=40, nfe=4)
    assert heard == sorted(heard)
    assert heard[0] < 0.5
    assert heard[-1] == pytest.approx(1)


def test_figures_of_real_images_alone_draw_no_samples(digits: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurement, "sample", lambda *_arguments, **_settings: pytest.fail("drew samples"))
    plan = evaluation.prepare(digits, "digits", ("residual",), n=5)
    report = evaluation.evaluate(digits, plan)
    assert (plan.extractor, report.nfe) == (None, None)
    assert set(report.metrics) == {"residual"}


def test_a_plan_refuses_before_the_work_begins(digits: Model) -> None:
    uncalibrated = replace(digits, calibration=None)
    with pytest.raises(CheckpointError, match="not calibrated"):
        evaluation.prepare(uncalibrated, "digits", ("bpd",))
    plan = evaluation.prepare(uncalibrated, "digits", n=10, extractor="pixels")
    assert "bpd" not in plan.metrics
    assert "left out: bpd" in "\n".join(plan.notes)
    with pytest.raises(ConfigError, match="compares no features"):
        evaluation.prepare(digits, "digits", ("residual",), extractor="pixels")
    with pytest.raises(ConfigError, match="not 'pixels'"):
        evaluation.prepare(digits, "digits", ("fid",), extractor="pixels")
    with pytest.raises(ConfigError, match="`n=4` is too few"):
        evaluation.prepare(digits, "digits", ("frechet", "recall"), n=4, extractor="pixels")


def test_a_model_that_knows_only_classes_is_measured_by_the_classes_of_the_images(
    digits: Model, good: evaluation.Report
) -> None:
    model = only_classes(digits)
    report = measured(model, metrics=("frechet", "residual", "bpd"))
    found = real.load(digits, "digits", N, fewest=2)
    samples = features.pixels(to_bytes(model.sample(N, seed=0, nfe=8, condition=found.labels).images))
    expected = distances.frechet(samples, features.pixels(found.images))
    assert report.metrics["frechet"].value == pytest.approx(expected, rel=1e-3)
    bits = model.bits_per_dim(found.unseen, condition=found.unseen_labels)
    assert report.metrics["bpd"].value == pytest.approx(float(bits.mean()), rel=1e-5)
    assert report.metrics["residual"].value == pytest.approx(good.metrics["residual"].value, rel=1e-5)
    assert {figure.document()["condition"] for figure in report.metrics.values()} == {"the class of each real image"}


def test_a_model_that_knows_only_classes_needs_images_with_classes_that_are_calibrated(
    digits: Model, tmp_path: Path
) -> None:
    model = only_classes(digits)
    np.save(tmp_path / "images.npy", np.zeros((9, 8, 8), np.uint8))
    with pytest.raises(ConfigError, match="trained only with classes"):
        evaluation.prepare(model, str(tmp_path / "images.npy"), ("residual",), n=9)
    assert isinstance(model.calibration, Normaliser)
    constants = {key: value for key, value in model.calibration.constants.items() if key != (3,)}
    model.calibration = replace(model.calibration, constants=constants)
    assert "bpd" not in evaluation.prepare(model, "digits", n=N, extractor="pixels").metrics
    with pytest.raises(ConfigError, match="bpd is not calibrated for all classes"):
        evaluation.prepare(model, "digits", ("bpd",), n=N)


def test_bits_by_the_flow_are_the_entropy_of_gaussian_data_and_more_for_a_wrong_model() -> None:
    """½ log₂ 2πe σ² bits per pixel in [0, 1], and log₂ 255 for the cells; 300 images, of which 200 are taken."""
    spread = 0.1
    images = to_bytes(0.5 + spread * torch.randn(300, 1, 2, 2, generator=torch.Generator().manual_seed(0)))
    found = real.Real(images, None, "all", images, None, "all", "none", (), ())
    plan = evaluation.Plan(("bpd_flow",), None, found, False, 200, (), ())
    right, wrong = (
        evaluation.evaluate(replace(model_of(), statistics=ImageStatistics((0.5,), std)), plan, batch_size=64).metrics
        for std in (spread, 2 * spread)
    )
    entropy = 0.5 * math.log2(2 * math.pi * math.e * spread**2) + math.log2(255)
    figure = right["bpd_flow"]
    assert figure.n == 200
    assert figure.value == pytest.approx(entropy, abs=4 * figure.details["standard_error"])
    assert 0 < figure.details["standard_error"] < 0.05
    assert wrong["bpd_flow"].value > figure.value + 0.2


def test_the_slow_likelihood_uses_few_images_by_default(digits: Model) -> None:
    assert evaluation.prepare(digits, "digits", ("bpd_flow",)).flow_images == FLOW_IMAGES
    assert evaluation.prepare(digits, "digits", ("bpd_flow",), n=90).flow_images == 90
