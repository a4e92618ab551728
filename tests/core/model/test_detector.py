"""Detectors of alterations: what they find, whom they assess, and what is in a file."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from vpfb_core.data.image_statistics import to_bytes
from vpfb_core.errors import CheckpointError
from vpfb_core.model.detector import SIZE, Alterations, Detector, halves_of, pictures_of
from vpfb_core.uses.ood import detectors
from vpfb_core.uses.ood.detectors import train


def stripes(n: int, seed: int = 0, side: int = 8) -> Tensor:
    """Pictures of stripes across, of random positions, widths and shades."""
    random = torch.Generator().manual_seed(seed)
    phase, width, shade = (torch.rand(n, 1, 1, 1, generator=random) for _ in range(3))
    rows = torch.arange(side).view(1, 1, side, 1)
    waves = 0.5 + (0.2 + 0.3 * shade) * torch.sin(rows * (0.8 + width) + 6 * phase)
    return to_bytes(waves).expand(n, 1, side, side).clone()


def nobody(n: int) -> Tensor:
    return torch.full((n,), -1)


@pytest.fixture(scope="module")
def known() -> Alterations:
    pictures = stripes(400)
    return Alterations.of(train(pictures, torch.device("cpu"), steps=100), pictures)


def test_something_pasted_is_found_wherever_it_is(known: Alterations) -> None:
    usual = known.neighbours(stripes(100, seed=1), nobody(100)).statistic
    for row, column in ((0, 0), (0, 5), (5, 0), (3, 3)):
        altered = stripes(100, seed=2)
        altered[:, :, row : row + 3, column : column + 3] = 255 * (torch.arange(100) % 2)[:, None, None, None]
        found = known.neighbours(altered, nobody(100)).statistic
        assert roc_auc_score([0] * 100 + [1] * 100, torch.cat([usual, found])) > 0.9


def test_pictures_that_were_trained_on_are_assessed_like_new_ones() -> None:
    """Of noise, nothing can be learned but the pictures themselves."""
    random = torch.Generator().manual_seed(0)
    seen, new = torch.randint(0, 256, (460, 1, 4, 4), generator=random).to(torch.uint8).split([60, 400])
    found = Alterations.of(train(seen, torch.device("cpu"), steps=100), seen)
    statistic = found.neighbours(new, nobody(400)).statistic
    by_own_half = torch.stack([one(seen).flatten(1).logsumexp(1) for one in found.detectors])
    learned = by_own_half.gather(0, halves_of(seen)[None])[0]
    answers = [0] * 60 + [1] * 400
    assert roc_auc_score(answers, torch.cat([learned, statistic])) > 0.9, "they are known by heart"
    assert roc_auc_score(answers, torch.cat([found.values, statistic])) == pytest.approx(0.5, abs=0.1)
    again = found.neighbours(seen, torch.arange(60))
    torch.testing.assert_close(again.statistic, found.values)
    assert again.nearest.shape == (60, 0)
    assert len(found) == 60


def test_a_picture_is_assessed_by_the_detector_of_the_other_half_only(known: Alterations) -> None:
    pictures = stripes(40, seed=5)
    halves = halves_of(pictures)
    odds = torch.stack([one(pictures).flatten(1).logsumexp(1) for one in known.detectors])
    found = known.neighbours(pictures, nobody(40)).statistic
    torch.testing.assert_close(found, odds.gather(0, 1 - halves[None])[0])
    assert torch.equal(halves_of(pictures.flip(0)), halves.flip(0)), "it does not depend on the others"
    assert 8 < halves.sum() < 32


def test_black_and_white_pictures_belong_to_both_halves() -> None:
    pictures = 255 * torch.randint(0, 2, (400, 1, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    assert halves_of(pictures).double().mean() == pytest.approx(0.5, abs=0.1)


def test_the_same_pictures_give_the_same_detectors_and_a_file_gives_them_back(known: Alterations) -> None:
    pictures, new = stripes(40), stripes(20, seed=3)
    first, again = (Alterations.of(train(pictures, torch.device("cpu"), steps=5), pictures) for _ in range(2))
    stored = Alterations.from_tensors({name: tensor.clone() for name, tensor in known.tensors().items()})
    for one, other in ((first, again), (known, stored)):
        assert torch.equal(one.values, other.values)
        found, same = (each.neighbours(new, nobody(20)).statistic for each in (one, other))
        assert torch.equal(found, same)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [("shape", torch.tensor([1, 8])), ("shape", torch.tensor([3, 8, 8])), ("shape", torch.tensor([1, 8, 10**6])),
     ("shape", torch.tensor(8)), ("shape", torch.tensor([True, True, True])), ("values", torch.zeros(3, 2)),
     ("0.fine_head.bias", torch.zeros(2)), ("0.fine.1.running_var", -torch.ones(16))],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_an_error(known: Alterations, name: str, tensor: Tensor) -> None:
    with pytest.raises(ValueError, match="detector"):
        Alterations.from_tensors({**known.tensors(), name: tensor})
    with pytest.raises(KeyError):
        Alterations.from_tensors({each: one for each, one in known.tensors().items() if each != "1.fine_head.bias"})


def test_pictures_of_another_shape_are_an_error(known: Alterations) -> None:
    with pytest.raises(CheckpointError, match="pictures have the shape"):
        known.neighbours(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), nobody(2))


@pytest.mark.parametrize(("shape", "cells"), [((1, 2, 2), (2, 2)), ((3, 8, 8), (8, 8)), ((1, 28, 28), (7, 7)),
                                               ((3, 32, 32), (8, 8)), ((1, 5, 9), (5, 9))])  # fmt: skip
def test_there_are_about_eight_cells_a_side(shape: tuple[int, int, int], cells: tuple[int, int]) -> None:
    detector = Detector(shape[0], min(shape[1:])).eval()
    assert detector(torch.zeros(3, *shape, dtype=torch.uint8)).shape == (3, *cells)


def test_larger_images_are_reduced() -> None:
    assert pictures_of(torch.full((2, 3, 64, 64), 255, dtype=torch.uint8)).shape == (2, 3, SIZE, SIZE)
    small = torch.full((2, 1, 8, 8), 255, dtype=torch.uint8)
    assert torch.equal(pictures_of(small), small)
    assert torch.equal(pictures_of(torch.ones(2, 1, 8, 8)), small)


def test_cells_that_were_altered_are_labelled() -> None:
    before = torch.zeros(2, 1, 8, 8)
    after = before.clone()
    after[0, :, :2, :2], after[1, :, 7, 7] = 1.0, detectors._CHANGE / 2
    labels = detectors._altered(torch.cat([before, after]), torch.Size((8, 8)))
    assert not labels[:2].any()
    assert labels[2, :2, :2].eq(1).all()
    assert labels[2].sum() == 4
    assert labels[3, 7, 7] == pytest.approx(0.5)
