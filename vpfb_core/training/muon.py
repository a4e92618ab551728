"""Muon, an optimiser of matrices that learns directions with small gradients as fast as the others."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
ITERATIONS = 5
# Of the polynomial a s + b s³ + c s⁵, whose iteration moves singular values s in (0, 1] to between 0.7 and 1.2.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ADAM_RMS = 0.2  # the usual root mean square of an update of Adam, relative to the learning rate


class Muon(torch.optim.Optimizer):
    """Moves each matrix by its momentum, with all singular values set to about 1 (`orthogonalised`).

    This is the method of Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon), scaled to the root mean square
    of updates of Adam (Liu et al. 2025, arXiv 2502.16982). torch.optim.Muon computes in bf16, which takes ten times as
    long as float32 on a CPU without instructions for it. This one computes in float32, and all matrices of one shape at
    once.

    Args:
        matrices: the parameters, each of two dimensions.
    """

    def __init__(self, matrices: Iterable[nn.Parameter]) -> None:
        super().__init__(matrices, {"lr": 1e-3})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move all matrices that have a gradient. There is no `closure`."""
        del closure
        for group in self.param_groups:
            same: dict[torch.Size, list[tuple[Tensor, Tensor, Tensor]]] = {}
            for matrix in group["params"]:
                if matrix.grad is not None:
                    same.setdefault(matrix.shape, []).append((matrix, matrix.grad, self._momentum(matrix)))
            for shape, members in same.items():
                matrices, gradients, momenta = map(list, zip(*members, strict=True))
                torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
                ahead = torch._foreach_lerp(gradients, momenta, MOMENTUM)  # Nesterov's momentum
                directions = orthogonalised(torch.stack(ahead))
                rate = group["lr"] * ADAM_RMS * math.sqrt(max(shape))
                torch._foreach_add_(matrices, list(directions.unbind()), alpha=-rate)

    def _momentum(self, matrix: nn.Parameter) -> Tensor:
        state: dict[str, Tensor] = self.state[matrix]
        if not state:
            state["momentum"] = torch.zeros_like(matrix)
        return state["momentum"]


def orthogonalised(matrices: Tensor) -> Tensor:
    """U V^T for each matrix U S V^T of (N, R, C), with singular values between 0.7 and 1.2 in place of 1.

    Singular values below about a thousandth of the norm of the matrix remain smaller. The Newton-Schulz iteration needs
    products of matrices only.
    """
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonalised(matrices.mT).mT
    a, b, c = COEFFICIENTS
    x = matrices / matrices.flatten(1).norm(dim=1).clamp(min=1e-7)[:, None, None]
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x
