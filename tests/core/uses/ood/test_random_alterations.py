"""Random alterations: of every image something is changed, and only as far as they say."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vpfb_core.uses.ood import random_alterations
from vpfb_core.uses.ood.random_alterations import WHOLE_OPACITY, alter


def images(n: int, channels: int = 3, side: int = 16) -> Tensor:
    return torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(0))


def altered(before: Tensor, seed: int = 0) -> Tensor:
    return alter(before, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("channels", "side"), [(1, 8), (3, 32), (3, 5), (1, 2)])
def test_nearly_every_image_is_altered_and_stays_in_range(channels: int, side: int) -> None:
    before = images(200, channels, side)
    after = altered(before)
    assert after.shape == before.shape
    assert after.min() >= -1e-6
    assert after.max() <= 1 + 1e-6
    assert (after != before).flatten(1).any(1).double().mean() > 0.95
    assert torch.equal(after, altered(before)), "the same generator makes the same choices"
    assert not torch.equal(after, altered(before, seed=1))


def test_some_are_altered_in_a_part_and_some_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random_alterations, "RECOLOURED", 0.0)
    before = images(1000)
    share = ((altered(before) - before).abs() > 0.01).any(1).double().mean((1, 2))
    assert 0.1 < (share > 0.99).double().mean() < 0.4
    assert 0.3 < (share < 0.5).double().mean() < 0.8


def test_an_image_under_another_one_is_still_to_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random_alterations, "RECOLOURED", 0.0)
    monkeypatch.setattr(random_alterations, "WHOLE", 1.0)
    monkeypatch.setattr(random_alterations, "FLAT", 0.0)
    before = torch.zeros(300, 1, 8, 8)
    before[::2] = 1.0
    after = altered(before)
    opacity = torch.where(before == 0, after, 1 - after).amax((1, 2, 3))
    covered = opacity[opacity > 1e-3]
    assert len(covered) > 100
    assert ((covered > WHOLE_OPACITY[0] - 1e-4) & (covered < WHOLE_OPACITY[1] + 1e-4)).all()


def test_an_image_with_one_channel_becomes_brighter_or_darker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random_alterations, "RECOLOURED", 1.0)
    before = 0.1 + 0.01 * images(50, 1)
    gain = altered(before) / before
    torch.testing.assert_close(gain, gain[:, :, :1, :1].expand_as(gain).contiguous())
    assert gain.min() < 0.7
    assert gain.max() > 1.5


def test_a_flat_colour_is_a_random_one_or_that_of_another_image(monkeypatch: pytest.MonkeyPatch) -> None:
    before = images(400)
    found = random_alterations._flat(before, torch.Generator().manual_seed(0))
    assert torch.equal(found, found[:, :, :1, :1].expand_as(found))
    of_next = (found[:, :, :1, 0] == before.roll(1, 0).flatten(2)).all(1).any(1)
    assert 0.4 < of_next.double().mean() < 0.6
