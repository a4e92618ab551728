"""The contrast of conditions: a loss for what gradients leave open, the energy of one class at another's data."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vpfb_core.methods.vpfb import arc
from vpfb_core.methods.vpfb.objectives import DEFAULT_ANGLES, AngleDistribution, Part
from vpfb_core.methods.vpfb.potential import Potential

# The first two of this many rows of a batch are a pair: half of the images, for a fifth of the cost of a step.
PAIR_EVERY = 4


def contrast(
    potential: Potential,
    data: Tensor,
    condition: Tensor | None = None,
    *,
    generator: torch.Generator,
    angles: AngleDistribution = DEFAULT_ANGLES,
    part: Part | None = None,
) -> Tensor:
    """Which of two data has which condition? The cross-entropy of what the energies answer, in nats.

    u was drawn under c, and u' at the same angle under c'. The log-odds of that, against the other way round, are

        tan φ [N(u|c) + N(u'|c') − N(u|c') − N(u'|c)],

    where everything that depends on one of the four alone cancels, the normalisers too. Only ratios of the true
    densities minimise it (noise-contrastive estimation, Gutmann & Hyvärinen 2010; energies as a classifier, Grathwohl
    et al. 2020), so that its minimiser is that of `stein` as well. But gradients at the data of one class leave the
    energy open that it has at those of another, far from them; the quotients of a composition, and every Metropolis
    test between them, depend on it. In half of the pairs c' is no condition at all.

    Of several condition groups a pair is asked about one, drawn at random, and the others are none: otherwise the one
    that is easiest to see, such as the colour, answers for all, and the rest is not learned.

    Args:
        condition: class indices, int64 (N, G), −1 for none; otherwise arguments as in `objectives.stein`.
    Returns:
        the loss, (); 0 where there is no pair, or no condition. Pairs are rows 4k and 4k + 1 of the batch, and a pair
        that is cut in two by the parts of the batch is left out.
    """
    part = part or Part(0, len(data))
    total = _pairs_before(part.total)
    pairs = slice(-(-part.first // PAIR_EVERY), _pairs_before(part.first + len(data)))
    if condition is None or pairs.start >= pairs.stop:
        return data.new_zeros(())

    # Everything is drawn for the whole batch, and cut to the pairs at hand.
    angle = angles.sample(total, potential.angle_range, like=data, generator=generator)[pairs]
    noise = torch.randn((2, total, *data.shape[1:]), generator=generator, dtype=data.dtype, device=data.device)
    hides_second = (torch.rand(total, generator=generator, device=data.device) < 0.5)[pairs, None]
    order = torch.rand((total, condition.shape[1]), generator=generator, device=data.device)[pairs]

    first = PAIR_EVERY * torch.arange(pairs.start, pairs.stop, device=data.device) - part.first
    both = torch.cat([first, first + 1])
    u, _ = arc.point(data[both] / potential.data_std, angle.repeat(2), noise[:, pairs].flatten(0, 1))
    one, other = condition[first], condition[first + 1]
    left_out = _all_groups_but_one((one >= 0) & (other >= 0), order)
    one, other = one.masked_fill(left_out, -1), other.masked_fill(left_out | hides_second, -1)

    # Each point under its own condition, and then under that of the other.
    value = potential.potential(u.repeat(2, *[1] * (u.ndim - 1)), angle.repeat(4), torch.cat([one, other, other, one]))
    own, exchanged = (torch.tan(angle).repeat(4) * value).chunk(2)
    of_first, of_second = (own - exchanged).chunk(2)
    weight = torch.tan(angle).clamp(min=1).reciprocal()  # the same for all angles would be that of the largest
    loss = (weight * F.softplus(-of_first - of_second)).sum()
    return loss * (part.total / (len(data) * total))


def _pairs_before(row: int) -> int:
    """How many whole pairs end before a row of the batch."""
    return (row + PAIR_EVERY - 2) // PAIR_EVERY


def _all_groups_but_one(known: Tensor, order: Tensor) -> Tensor:
    """True for all groups but the known one that comes last in the order; both (pairs, G)."""
    groups = torch.arange(known.shape[1], device=known.device)
    return groups != order.masked_fill(~known, -1).argmax(1, keepdim=True)
