"""Numbers per sample and tensors of samples: broadcasting, norms and distances."""

from __future__ import annotations

from torch import Tensor

from vpfb_core.machine.precision import sum_dtype


def expand_to(per_sample: Tensor, like: Tensor) -> Tensor:
    """Reshape (N,) to (N, 1, …, 1), so that it multiplies `like` (N, …) sample by sample; () stays as it is."""
    if per_sample.ndim == 0:
        return per_sample
    return per_sample.reshape(-1, *[1] * (like.ndim - 1))


def squared_norm(x: Tensor) -> Tensor:
    """The squared norm ‖x‖² of each sample, (N, …) → (N,)."""
    return sum_per_sample(x.square())


def sum_per_sample(x: Tensor) -> Tensor:
    """The sum over the dimensions of each sample, (N, …) → (N,), in float64 where the device has it, like x at last."""
    return x.flatten(1).sum(1, dtype=sum_dtype(x)).to(x.dtype)


def mean_squared_error(first: Tensor, second: Tensor) -> Tensor:
    """The mean over the dimensions of the squared difference of each pair of samples, (N, …) twice → (N,)."""
    return (first - second).flatten(1).square().mean(1)


def rms_distance(first: Tensor, second: Tensor) -> Tensor:
    """Root mean square difference of each pair of samples, in their units; (N, …) twice → (N,)."""
    return mean_squared_error(first, second).sqrt()
