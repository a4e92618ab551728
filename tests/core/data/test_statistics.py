from __future__ import annotations

import pytest
import torch

from vpfb_core.data import image_statistics
from vpfb_core.data.image_statistics import ImageStatistics


def test_statistics_are_those_of_the_pixels() -> None:
    images = torch.randint(0, 256, (2500, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[:, 1] //= 2
    found = ImageStatistics.of(images)
    exact = images.double() / 255
    mean = exact.mean((0, 2, 3))
    assert found.mean == pytest.approx(mean.tolist())
    assert found.std == pytest.approx(float((exact - mean[:, None, None]).square().mean().sqrt()))
    z = found.standardise(images)
    assert z.mean((0, 2, 3)).tolist() == pytest.approx([0, 0, 0], abs=1e-5)
    assert float(z.square().mean()) == pytest.approx(1, abs=1e-5)
    assert torch.allclose(found.restore(z), images / 255, atol=1e-6)


def test_images_without_contrast_have_finite_statistics() -> None:
    images = torch.full((3, 1, 4, 4), 77, dtype=torch.uint8)
    found = ImageStatistics.of(images)
    assert found.std == pytest.approx(1 / 255)
    assert torch.equal(found.standardise(images), torch.zeros(3, 1, 4, 4))


def test_few_values_are_counted_at_once_whatever_the_number_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randint(0, 256, (40, 2, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    exact = ImageStatistics.of(images)
    counted: list[int] = []
    bincount = torch.Tensor.bincount

    def counting(values: torch.Tensor, minlength: int) -> torch.Tensor:
        counted.append(values.numel())
        return bincount(values, minlength=minlength)

    monkeypatch.setattr(torch.Tensor, "bincount", counting)
    monkeypatch.setattr(image_statistics, "_PART", 100)
    assert ImageStatistics.of(images) == exact
    assert sum(counted) == images.numel()
    assert max(counted) <= 100
