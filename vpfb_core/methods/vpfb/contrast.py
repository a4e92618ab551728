"""The contrast loss, which trains the energies of different classes relative to each other."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vpfb_core.machine.precision import full_float32
from vpfb_core.methods.path import arc
from vpfb_core.methods.path.angles import DEFAULT_ANGLES, AngleDistribution
from vpfb_core.methods.path.draws import Part
from vpfb_core.methods.vpfb.potential import Potential

# The first two of every four rows of a batch are a pair. That uses half of the images and a fifth of the cost of a
# step.
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
    """The cross-entropy of classifying two points by their conditions, in nats, summed over the two.

    u is drawn under c, and u' at the same angle under c'. The energies give the log-odds that u was drawn under c, and
    that u' was drawn under c', as

        tan φ [N(u|c) − N(u|c')]    and    tan φ [N(u'|c') − N(u'|c)].

    The loss is minimal only if these are the log-ratios of the true, normalised densities (noise-contrastive
    estimation, Gutmann & Hyvärinen 2010; energies as a classifier, Grathwohl et al. 2020), so that it has the same
    minimiser as `stein`. It is needed because gradients at the data of one class determine neither the energy of that
    class at the distant data of another, nor the constant between the energies of two classes. The quotients of a
    composition and its Metropolis tests depend on both. In half of the pairs c' is unconditional.

    With several condition groups, a pair compares one group, drawn at random, and leaves the others open. Otherwise the
    group that is easiest to recognise, such as the colour, would determine the loss, and the others would not be
    learned.

    Args:
        condition: class indices, int64 (N, G), −1 for none. The other arguments are those of `objectives.stein`.
    Returns:
        The loss, (); 0 if there is no pair or no condition. Pairs are rows 4k and 4k + 1 of the batch. A pair whose
        rows are in different parts of the batch is left out.
    """
    part = part or Part(0, len(data))
    total = _pairs_before(part.total)
    pairs = slice(-(-part.first // PAIR_EVERY), _pairs_before(part.first + len(data)))
    if condition is None or pairs.start >= pairs.stop:
        return data.new_zeros(())

    # Everything is drawn for the whole batch, and the pairs of this part are cut from it.
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

    # Each point is evaluated under its own condition, and then under that of the other point. The log-odds are small
    # differences of large energies, which are lost in bf16.
    conditions = torch.cat([one, other, other, one])
    with full_float32(potential, u.device):
        value = potential.potential(u.repeat(2, *[1] * (u.ndim - 1)), angle.repeat(4), conditions)
    own, exchanged = (torch.tan(angle).repeat(4) * value).chunk(2)
    of_first, of_second = (own - exchanged).chunk(2)
    weight = torch.tan(angle).clamp(min=1).reciprocal()  # without it the largest angles would dominate
    loss = (weight * cross_entropy(of_first, of_second)).sum()
    return loss * (part.total / (len(data) * total))


def cross_entropy(of_first: Tensor, of_second: Tensor) -> Tensor:
    """The cross-entropy of both points of a pair, (pairs,), by the log-odds of their own condition, (pairs,) each."""
    return F.softplus(-of_first) + F.softplus(-of_second)


def _pairs_before(row: int) -> int:
    """The number of pairs that are complete before a row of the batch."""
    return (row + PAIR_EVERY - 2) // PAIR_EVERY


def _all_groups_but_one(known: Tensor, order: Tensor) -> Tensor:
    """A mask that is False only for one known group per pair, the one with the largest `order`; all are (pairs, G)."""
    groups = torch.arange(known.shape[1], device=known.device)
    return groups != order.masked_fill(~known, -1).argmax(1, keepdim=True)
