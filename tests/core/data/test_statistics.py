from __future__ import annotations

import pytest
import torch

from vpfb_core.data.statistics import Statistics


def test_statistics_are_those_of_the_pixels() -> None:
    images = torch.randint(0, 256, (2500, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[:, 1] //= 2
    statistics = Statistics.of(images)
    exact = images.double() / 255
    mean = exact.mean((0, 2, 3))
    assert statistics.mean == pytest.approx(mean.tolist())
    assert statistics.std == pytest.approx(float((exact - mean[:, None, None]).square().mean().sqrt()))
    z = statistics.standardise(images)
    assert z.mean((0, 2, 3)).tolist() == pytest.approx([0, 0, 0], abs=1e-5)
    assert float(z.square().mean()) == pytest.approx(1, abs=1e-5)
    assert torch.allclose(statistics.to_images(z), images / 255, atol=1e-6)


def test_images_without_contrast_have_finite_statistics() -> None:
    images = torch.full((3, 1, 4, 4), 77, dtype=torch.uint8)
    statistics = Statistics.of(images)
    assert statistics.std == pytest.approx(1 / 255)
    assert torch.equal(statistics.standardise(images), torch.zeros(3, 1, 4, 4))
