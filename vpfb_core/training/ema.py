"""The moving average of the weights."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def power_exponent(width: float) -> float:
    """The exponent γ of the power-function average whose profile t^γ has the relative standard deviation `width`.

    Karras et al. 2024 (arXiv 2312.02696), equation 127: width² = (γ + 1)/((γ + 2)² (γ + 3)).
    """
    roots = np.roots([1, 7, 16 - width**-2, 12 - width**-2])
    return float(roots.real.max())


def update(average: list[Tensor], weights: list[Tensor], step: int, exponent: float) -> None:
    """Move the average towards the weights after `step` ≥ 1 steps, in place.

    The average spans a fixed share of the run so far, so that short and long runs need no different settings. Its decay
    is (1 − 1/step)^(γ + 1), and the first step copies the weights.
    """
    torch._foreach_lerp_(average, weights, 1 - (1 - 1 / step) ** (exponent + 1))
