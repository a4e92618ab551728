"""The moving average of the weights."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from vpfb_core.training import ema


@pytest.mark.parametrize("width", [0.05, 0.1, 0.2])
def test_the_average_has_the_profile_of_the_paper(width: float) -> None:
    """Karras et al. 2024: weights t^γ over the run, whose standard deviation relative to its length is `width`."""
    exponent, steps = ema.power_exponent(width), 2000
    average = [torch.zeros(steps, dtype=torch.float64)]
    for step in range(1, steps + 1):
        one_hot = torch.zeros(steps, dtype=torch.float64)
        one_hot[step - 1] = 1
        ema.update(average, [one_hot], step, exponent)
    weights, times = average[0].numpy(), np.arange(1, steps + 1) / steps
    assert weights.sum() == pytest.approx(1)
    mean = (weights * times).sum()
    assert math.sqrt((weights * (times - mean) ** 2).sum()) == pytest.approx(width, rel=0.02)
