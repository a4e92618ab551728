"""Numbers that belong to one sample each, beside tensors of samples."""

from __future__ import annotations

from torch import Tensor


def expand_to(per_sample: Tensor, like: Tensor) -> Tensor:
    """(N,) or () → (N, 1, …, 1), so that it multiplies `like` (N, …) sample by sample."""
    if per_sample.ndim == 0:
        return per_sample
    return per_sample.reshape(-1, *[1] * (like.ndim - 1))


def squared_norm(x: Tensor) -> Tensor:
    """‖x‖² of each sample, (N, …) → (N,)."""
    return x.flatten(1).square().sum(1)
