"""The gauge: a learned function of the level and the condition that is added to N.

It leaves ∇N and therefore the flow unchanged. The time score trains it (`time_score.py`), so that
−½‖u‖² − (d/2) log 2π + tan φ · N is a normalised log-density. Without it, the network could shift the energies of all
points at a level only by changing its output everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

# ℓ = log tan φ at which the smooth steps of the gauge are centred: from where data of thousands of dimensions first
# show, to beyond the floor of the default schedule.
CENTRES = tuple(range(-5, 7))


class Gauge(nn.Module):
    """(φ (N,), condition (N, G) or None) → d · β(φ, condition), (N,), which is zero at initialisation.

    β is a weighted sum of the sigmoid functions 1/(1 + exp(c − ℓ)) of ℓ = log tan φ with the centres c of `CENTRES`.
    The weights of a condition are the sum of one row per condition group, as in the embedding of a network.

    Args:
        dimension: the number of values per datum, d, by which β is multiplied because energies grow with d.
        classes: the number of classes in each condition group.
    """

    def __init__(self, dimension: int, classes: Sequence[int] = ()) -> None:
        super().__init__()
        self.dimension = dimension
        self.weights = nn.Parameter(torch.zeros(len(CENTRES)))
        self.groups = nn.ParameterList(torch.zeros(count + 1, len(CENTRES)) for count in classes)
        self.register_buffer("shrink", torch.exp(torch.tensor(CENTRES, dtype=torch.float32)), persistent=False)
        self.shrink: Tensor

    def forward(self, angle: Tensor, condition: Tensor | None = None) -> Tensor:
        tangent = torch.tan(angle)[:, None]
        steps = tangent / (tangent + self.shrink)
        weights = self.weights.expand(len(angle), -1)
        for column, group in enumerate(self.groups):
            rows = torch.zeros_like(angle, dtype=torch.int64) if condition is None else condition[:, column] + 1
            weights = weights + group[rows]
        return self.dimension * (weights * steps).sum(1)
