"""Calibration of a model: what it measures, on which images, and at what price."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from present import present

import vpfb_core as vpfb
from vpfb_core.api import Model
from vpfb_core.data import InMemory, Source
from vpfb_core.errors import ConfigError, DataError
from vpfb_core.methods.vpfb import estimation
from vpfb_core.methods.vpfb.normaliser import Normaliser
from vpfb_core.model.identities import identities_of
from vpfb_core.model.lock import locked
from vpfb_core.model.reference import ALTERED, Reference
from vpfb_core.model.runs import Run, builtin_models
from vpfb_core.training import ending
from vpfb_core.uses import calibration
from vpfb_core.uses.calibration import affordable, calibrate, calibrate_file, full_cost, reference_cost
from vpfb_core.uses.ood import detectors, fit

STEPS, SHARE = 6, 1.0  # the calibration takes as much work as these steps, and not a share of the work of more


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("calibration") / "run"
    config = vpfb.TrainConfig(
        data="digits", widths=(4,), steps=STEPS, sample_every=STEPS, batch_size=64, threads=1, out=str(out)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "IMAGES", 60)
        patch.setattr(calibration, "SHARE", SHARE)
        vpfb.train(config)
    return out


@pytest.fixture
def model(run_folder: Path) -> Model:
    return vpfb.load(run_folder, device="cpu")


def count_points(model: Model) -> list[int]:
    """Grows by the points of every evaluation of the network."""
    points: list[int] = []
    model.field.network.register_forward_hook(lambda _network, inputs, _output: points.append(len(inputs[0])))
    return points


def test_a_run_of_some_length_ends_calibrated_and_with_a_reference(model: Model) -> None:
    assert model.calibration is not None
    assert model.reference is not None
    images = vpfb.data.load("digits").images[:4]
    assert model.log_density(images).isfinite().all()
    assert isinstance(model.calibration, Normaliser)
    assert present(model.field.levels).lowest_for_chains == model.calibration.lowest_for_chains
    assert present(model.calibration.lowest_for_chains) < 0.02


def test_a_file_is_calibrated_on_the_images_that_it_was_trained_on(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "IMAGES", 24)
    monkeypatch.setattr(fit, "IMAGES", 24)
    monkeypatch.setattr(detectors, "STEPS", 0)
    monkeypatch.setattr(estimation, "ANCHOR_POINTS", 4)
    path, used, trained_on = tmp_path / "model.safetensors", list[Source](), list[torch.Tensor]()
    honest = calibration._shuffled

    def noted(source: Source, rows: torch.Tensor, seed: int) -> InMemory:
        trained_on.append(rows)
        return honest(source, rows, seed)

    monkeypatch.setattr(calibration, "_shuffled", noted)
    model.calibration = model.reference = None
    model.save(path)
    shares: list[float] = []
    calibrate_file(path, device="cpu", on_images=used.append, on_progress=shares.append)
    assert shares == sorted(shares)
    assert len(set(shares)) > 10
    assert 0.05 < shares[-2] <= shares[-1] == 1, "less is left to do here than it knows"
    loaded = vpfb.load(path, device="cpu")
    assert loaded.calibration is not None
    digits = vpfb.data.load("digits")
    rows, _ = present(model.split_of(digits))
    assert torch.equal(trained_on[0], rows)
    assert len(used[0]) == len(digits)


def test_the_reference_contains_the_held_out_images_of_the_data_and_knows_their_rows(
    model: Model,
) -> None:
    digits = vpfb.data.load("digits")
    rows, held_out = present(model.split_of(digits))
    calibrate(model, digits, gradients=1_000, trained_on=rows)
    reference = present(model.reference)
    assert set(reference.rows.tolist()) & set(held_out.tolist())
    assert set(reference.rows.tolist()) & set(rows.tolist())
    assert torch.equal(reference.identities, identities_of(digits.images[reference.rows]))


def test_a_built_in_model_and_that_of_a_run_in_progress_are_not_calibrated(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(run_folder)
    before = run.model.read_bytes()
    monkeypatch.setattr(calibration.model_file, "load", lambda *_, **__: pytest.fail("read before it was locked"))
    with locked(run), pytest.raises(ConfigError, match="another process"):
        calibrate_file(run.model, device="cpu")
    with pytest.raises(ConfigError, match="digits is a built-in model"):
        calibrate_file(builtin_models()["digits"], device="cpu")
    assert run.model.read_bytes() == before


def test_a_short_run_is_not_followed_by_a_long_calibration(tmp_path: Path) -> None:
    config = vpfb.TrainConfig(data="digits", widths=(8,), steps=2, batch_size=8, threads=1, out=str(tmp_path / "run"))
    model = vpfb.train(config).model
    assert model.calibration is None
    assert model.reference is None


@pytest.mark.parametrize("gradients", [3_000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_calibration_spends_about_what_it_may(model: Model, gradients: int) -> None:
    points = count_points(model)
    calibrate(model, vpfb.data.load("digits"), gradients=gradients)
    # A point of the anchor takes as many evaluations as its path needs; its estimate is a generous one.
    assert 0.3 * gradients < sum(points) < 1.1 * gradients


def test_the_smallest_reference_comes_before_the_constants(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    digits, least = vpfb.data.load("digits"), 50 * reference_cost(model)
    model.reference = None
    monkeypatch.setattr(type(model.method), "calibrate", lambda *_: None)
    calibrate(model, digits, gradients=least - 1)
    assert model.reference is None
    calibrate(model, digits, gradients=least)
    assert len(present(model.reference).rows) == 50


def test_a_third_of_a_calibration_trains_detectors_and_the_reference_comes_first(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    digits, counted = vpfb.data.load("digits"), list[int]()
    monkeypatch.setattr(type(model.method), "calibrate", lambda *_: None)
    monkeypatch.setattr(detectors, "STEP_COST", 4)  # as if a step took as long as four gradients
    monkeypatch.setattr(fit, "IMAGES", 60)
    calibrate(model, digits, gradients=3 * 4 * 100 - 1, on_step=lambda: counted.append(0))
    assert not counted, "too few for a step of those that are needed at least"
    model.reference = None

    def stopped() -> None:
        counted.append(len(present(model.reference).rows))
        if len(counted) == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(model, digits, gradients=3 * 4 * 100, on_step=stopped)
    assert counted == [53] * 20, "two thirds of what the detectors leave"
    assert ALTERED not in present(model.reference).parts
    monkeypatch.setattr(detectors, "BATCH", 2)
    calibrate(model, digits, gradients=3 * 4 * 100, on_step=lambda: counted.append(1))
    assert counted.count(1) == 1 + 2 * 100, "once for the images and for each step of both detectors"
    assert ALTERED in present(model.reference).parts


def test_a_run_whose_time_is_over_keeps_the_smallest_reference(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    honest, fitted = fit.fit_reference, list[int]()

    def once(*given: Any, **settings: Any) -> Reference:
        if fitted:
            raise KeyboardInterrupt
        fitted.append(settings["count"])
        return honest(*given, **settings)

    monkeypatch.setattr(type(model.method), "calibrate", lambda *_: None)
    monkeypatch.setattr(fit, "fit_reference", once)
    model.reference = None
    with pytest.raises(KeyboardInterrupt):
        calibrate(model, vpfb.data.load("digits"), gradients=3_000)
    assert fitted == [50]
    assert len(present(model.reference).rows) == 50


def test_an_error_in_calibration_does_not_lose_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object, **_settings: object) -> None:
        raise DataError("no more room")

    config = vpfb.TrainConfig(
        data="digits", widths=(8,), steps=3, batch_size=8, threads=1, save_every=1000, out=str(tmp_path / "run"),
        resume="auto",
    )  # fmt: skip
    monkeypatch.setattr(ending, "calibrate", fail)
    with pytest.raises(DataError, match="no more room"):
        vpfb.train(config)
    monkeypatch.undo()
    assert vpfb.load(tmp_path / "run", device="cpu").about["step"] == 3
    result = vpfb.train(config)
    assert (result.status, result.step) == ("finished", 3)


def test_calibration_takes_fifteen_percent_of_the_work_of_a_run() -> None:
    assert affordable(1000 * 64) == pytest.approx(0.15 * 7 * 1000 * 64)


def test_a_model_knows_which_of_its_images_it_was_trained_on(model: Model) -> None:
    images = vpfb.data.load("digits")
    parts = model.split_of(images)
    assert parts is not None
    trained_on, held_out = parts
    assert sorted([*trained_on.tolist(), *held_out.tolist()]) == list(range(len(images)))
    assert len(held_out) == pytest.approx(0.1 * len(images), abs=3)
    assert model.split_of(images.subset(torch.arange(100))) is None


def test_images_of_another_shape_or_other_classes_are_refused(model: Model) -> None:
    with pytest.raises(DataError, match="shape"):
        calibrate(model, vpfb.data.load("digits", size=16))
    conditional = replace(model, groups=vpfb.data.load("digits", conditional=True).groups)
    with pytest.raises(DataError, match="classes"):
        calibrate(conditional, vpfb.data.load("digits"))


def test_a_model_that_was_never_trained_without_a_class_gets_constants_and_no_reference(tmp_path: Path) -> None:
    digits = vpfb.data.load("digits", conditional=True)
    labels = present(digits.labels)[:, 0].numpy()
    chosen, data = np.flatnonzero((labels == 3) | (labels == 7))[:80], str(tmp_path / "two.npz")
    np.savez(data, images=digits.images[chosen, 0].numpy(), labels=labels[chosen])
    config = vpfb.TrainConfig(
        data=data, conditional=True, condition_dropout=0.0, widths=(8,), steps=2, batch_size=8, threads=1,
        out=str(tmp_path / "run"),
    )  # fmt: skip
    model = vpfb.train(config).model
    calibrate(model, vpfb.data.load(data, conditional=True), gradients=4_000)
    assert model.calibration is not None
    assert model.reference is None
    images = digits.images[:2]
    assert model.log_density(images, condition=["3", "7"]).isfinite().all()
    assert model.sample(2, condition=["3", "7"]).images.shape == images.shape
    with pytest.raises(ConfigError, match="out-of-distribution detection needs the unconditional model"):
        model.score(images, "energy")
    with pytest.raises(ConfigError, match="reference needs the unconditional model"):
        fit.fit_reference(model, images)
    costs = []
    for model.field.has_null in (False, True):
        costs.append(full_cost(model) - model.method.calibration_cost(model.field, model.data_shape.classes))
    assert costs == [0, fit.IMAGES * reference_cost(model) + detectors.STEPS * detectors.STEP_COST]
