"""The images of a folder in the order of their scores."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace

import pytest
import torch
from ood_models import count_evaluations, images_of, model_of, turning

from vpfb_core.api import Model
from vpfb_core.data import ImageSet
from vpfb_core.errors import DataError
from vpfb_core.uses.ood import fit_reference, score
from vpfb_core.uses.ood.descriptors import LEVELS
from vpfb_core.uses.ood.ranking import rank


def test_outliers_among_digits_come_first(digits: tuple[Model, ImageSet]) -> None:
    model, held_out = digits
    outliers = torch.randint(0, 256, (5, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = torch.cat([held_out.images[:25], outliers, held_out.images[25:40]])
    files = tuple(f"{index:02}.png" for index in range(len(images)))
    ranking = rank(model, ImageSet("folder", images, files=files), "multiscale").ranked
    assert {one.name for one in ranking[:5]} == {f"{index}.png" for index in range(25, 30)}
    assert [one.score for one in ranking] == sorted((one.score for one in ranking), reverse=True)
    assert [int(one.name[:2]) for one in ranking] == [one.index for one in ranking]


def test_an_uncalibrated_model_leaves_bits_empty_and_a_calibrated_one_fills_them(
    digits: tuple[Model, ImageSet],
) -> None:
    model, held_out = digits
    images = held_out.subset(torch.arange(3))
    assert model.calibration is not None
    for ranked, is_calibrated in ((model, True), (replace(model, calibration=None), False)):
        rows = list(csv.reader(io.StringIO(rank(ranked, images, "energy").table().decode())))
        assert rows[0] == ["file", "score", "energy", "bits_per_dim", "p_value", "flagged", "nearest"]
        assert all((row[3] != "") == is_calibrated for row in rows[1:])
        assert all(row[1] == row[2] for row in rows[1:]), "the energy is the requested score"


def test_the_energies_of_a_ranking_are_those_that_its_score_has_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = model_of(turning), ImageSet("x", (255 * images_of(5)).byte())
    model.reference = fit_reference(model, images_of(60).clamp(0, 1))
    energies = score(model, images.data, "energy")
    counts = count_evaluations(monkeypatch)
    ranked = rank(model, images).ranked
    assert counts == {"energy_and_score": len(LEVELS)}
    assert [one.figures["energy"] for one in ranked] == pytest.approx([float(energies[one.index]) for one in ranked])


def test_a_score_that_is_not_a_number_names_the_file() -> None:
    model = model_of(lambda u, angle: u.sum(1) * math.nan)
    images = ImageSet("x", torch.zeros(2, 1, 2, 2, dtype=torch.uint8), files=("a.png", "b.png"))
    with pytest.raises(DataError, match=r"a\.png is NaN"):
        rank(model, images, "energy")
