"""The classifier whose features take the place of a download."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import vpfb_core as vpfb
from vpfb_core.data import ConditionGroup, InMemory
from vpfb_core.errors import CheckpointError, DataError, MissingError
from vpfb_core.uses.evaluation import classifier, features

CPU = torch.device("cpu")


STEPS = 40  # enough to learn the digits by


@pytest.fixture
def digits(monkeypatch: pytest.MonkeyPatch) -> InMemory:
    """Labelled digits; a classifier of them is trained for a moment, in which it learns next to nothing."""
    monkeypatch.setattr(classifier, "STEPS", 2)
    monkeypatch.setattr(classifier, "BATCH", 64)
    return vpfb.data.load("digits", conditional=True)


def test_it_learns_the_digits_tells_them_apart_better_than_pixels_and_is_found_again(
    digits: InMemory, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier, "STEPS", STEPS)
    assert classifier.find("digits", digits.shape) is None
    heard: list[float] = []
    fitted = classifier.fit(digits, "digits", CPU, on_progress=heard.append)
    assert fitted.accuracy > 0.9
    assert fitted.images + fitted.held_out == len(digits)
    assert heard == pytest.approx([(i + 1) / STEPS for i in range(STEPS)])
    assert classifier.find("digits", digits.shape) == fitted.path
    assert cache in fitted.path.parents
    assert classifier.find("digits", (3, 8, 8)) is None
    assert classifier.find("mnist", digits.shape) is None
    found = features.find("classifier", None, "digits", digits.shape, CPU, download=False)
    assert found.weights == fitted.weights
    assert found.compute(digits.images[:4]).shape == (4, classifier.FEATURES)

    assert digits.labels is not None
    chosen, labels = digits.images[:300], digits.labels[:300, 0]
    same = labels[:, None] == labels

    def separation(points: torch.Tensor) -> float:
        apart = torch.cdist(points, points)
        return float(apart[~same].mean() / apart[same].mean())

    assert separation(fitted.network.features(chosen)) > 1.5 * separation(features.pixels(chosen))


def test_one_call_fits_a_source_without_its_split_in_the_shape_that_is_asked_for(digits: InMemory, cache: Path) -> None:
    used: list[InMemory] = []
    fitted = classifier.fit_source("digits:test", shape=(3, 16, 16), device=CPU, on_images=used.append)
    assert [images.shape for images in used] == [fitted.shape] == [(3, 16, 16)]
    assert fitted.images + fitted.held_out == len(digits), "digits have no split of their own"
    assert classifier.find("digits", (3, 16, 16)) == fitted.path


def test_the_same_seed_fits_the_same_classifier(digits: InMemory) -> None:
    before = torch.random.get_rng_state()
    first, second = (classifier.fit(digits, "digits", CPU, seed=3).weights for _ in range(2))
    assert first == second != classifier.fit(digits, "digits", CPU, seed=4).weights
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_newest_classifier_of_a_set_is_taken(digits: InMemory) -> None:
    old = classifier.fit(digits, "digits", CPU).path
    new = classifier.fit(digits.subset(torch.arange(500)), "digits", CPU).path
    assert old != new, "the images are a part of the name"
    os.utime(old, ns=(1, 1))
    assert classifier.find("digits", digits.shape) == new


def test_several_groups_and_unknown_labels_are_learned(digits: InMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier, "STEPS", STEPS)
    assert digits.labels is not None
    labels = torch.cat([digits.labels, digits.labels % 2], 1)
    labels[::3, 1] = -1
    labels[64:256] = -1  # whole batches without a label, in some order
    groups = (*digits.groups, ConditionGroup("odd", ("~odd", "odd")))
    assert classifier.fit(replace(digits, labels=labels, groups=groups), "digits", CPU).accuracy > 0.8


def test_large_images_cost_what_small_ones_do() -> None:
    network = classifier.Classifier(3, 64, [2]).eval()
    large = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    blocks = large.float().view(2, 3, 32, 2, 32, 2).mean((3, 5))
    assert torch.allclose(network.body(blocks / 127.5 - 1).mean((2, 3)), network.features(large), atol=1e-5)


def test_without_labels_or_images_there_is_nothing_to_fit(digits: InMemory) -> None:
    with pytest.raises(DataError, match="no two classes"):
        classifier.fit(replace(digits, labels=None, groups=()), "digits", CPU)
    one = replace(digits, labels=torch.zeros(len(digits), 1, dtype=torch.int64), groups=(ConditionGroup("a", ("a",)),))
    with pytest.raises(DataError, match="no two classes"):
        classifier.fit(one, "digits", CPU)
    with pytest.raises(DataError, match="too few"):
        classifier.fit(digits.subset(torch.arange(5)), "digits", CPU)


def test_a_classifier_that_is_missing_or_damaged_is_an_error(digits: InMemory) -> None:
    with pytest.raises(MissingError, match="no classifier is fitted") as raised:
        features.find("classifier", None, "digits", digits.shape, CPU, download=False)
    assert "--fit-features" in str(raised.value.hint)
    path = classifier.fit(digits, "digits", CPU).path
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="truncated"):
        features.find("classifier", None, "digits", digits.shape, CPU, download=False)
