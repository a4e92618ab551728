"""Weighted populations: the effective sample size and systematic resampling of sequential Monte Carlo.

Sources: Kong, Liu & Wong 1994 (effective sample size); Kitagawa 1996 (systematic resampling); Del Moral, Doucet & Jasra
2006, "Sequential Monte Carlo samplers".
"""

from __future__ import annotations

import torch
from torch import Tensor


def effective_sample_size(log_weights: Tensor) -> Tensor:
    """(Σ w)²/Σ w², the number of equally weighted samples that are worth as much, (); 1 to N for (N,)."""
    log_weights = log_weights.cpu().double()
    return torch.exp(2 * torch.logsumexp(log_weights, 0) - torch.logsumexp(2 * log_weights, 0))


def systematic(log_weights: Tensor, offset: float) -> Tensor:
    """The ancestor of each member of the resampled population, int64 (N,), in rising order.

    The member w N expects to be copied is copied that often, rounded up or down.

    Args:
        log_weights: the logarithms of the weights up to a constant, (N,).
        offset: one random number, uniform in (0, 1), which places the grid of N equal steps.
    """
    n = len(log_weights)
    ends = torch.softmax(log_weights.cpu().double(), 0).cumsum(0)
    grid = (torch.arange(n, dtype=torch.float64) + offset) / n
    return torch.searchsorted(ends, grid, right=True).clamp(max=n - 1).to(log_weights.device)
