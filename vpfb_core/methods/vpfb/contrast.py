"""The contrast loss, which trains the energies of classes relative to each other and to the unconditional energy."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vpfb_core.machine.precision import full_float32
from vpfb_core.methods.path import arc
from vpfb_core.methods.path.angles import DEFAULT_ANGLES, AngleDistribution
from vpfb_core.methods.path.draws import Part, normal_like
from vpfb_core.methods.vpfb.potential import Potential

# Every fourth row of the batch is a point of the contrast, which needs an energy for each of up to ten classes and one
# without a class. In a group with more classes, these are the own class and nine others at random.
POINT_EVERY, MOST_CLASSES = 4, 10


def contrast(
    potential: Potential,
    data: Tensor,
    labels: Tensor,
    *,
    group: int,
    shares: Tensor,
    mixture: bool = True,
    generator: torch.Generator,
    angles: AngleDistribution = DEFAULT_ANGLES,
    part: Part | None = None,
) -> Tensor:
    """How badly energies classify points by Bayes' rule, and how far the energy of all data is from their mixture.

    Let u be drawn under class c, and p_k be the share of class k of its group. With s_k = log p_k + tan φ N(u|k) and
    s = tan φ N(u), the loss of u in nats is

        −log(exp s_c / Σ_k exp s_k) + h(log Σ_k exp s_k − s),        h(x) = ½x² for |x| ≤ 1, and |x| − ½ beyond.

    The first term is minimal only if the energies of the classes differ as their normalised log-densities do, which
    makes them a classifier (Grathwohl et al. 2020). The second one is 0 only if the unconditional density is the
    mixture of those of the classes. The exact N minimises both terms and `stein`. The contrast is needed because
    gradients at the data of one class determine neither the energy of that class at the distant data of another, nor
    the constant between the energies of two classes. The ratios of a composition and its Metropolis tests depend on
    both.

    With more than ten classes, the first term chooses among those that were drawn, which leaves its minimiser as it is.
    In the second one, each of them stands for several, so that it is an approximation.

    A step compares the classes of one condition group and leaves the others open. Otherwise the group that is easiest
    to recognise, such as the colour, would determine the loss, and the others would not be learned.

    Args:
        labels: class indices, int64 (N, G), −1 where unknown. Points without a label have only the second term.
        group: the condition group that is compared.
        shares: the share of each class of the group among the labelled data, which are the p_k, (K,).
        mixture: whether the second term is part of the loss, which needs a trained unconditional energy.
        potential, data, generator, angles, part: as in `objectives.stein`.
    Returns:
        The loss of this part, (), such that the losses of all parts, weighted by their numbers of rows, add up to the
        mean over the points of the batch; 0 without points. The loss of a point is divided by max(1, tan φ), without
        which the largest angles would dominate.
    """
    part = part or Part(0, len(data))
    count = min(len(shares), MOST_CLASSES)
    points = Part(_points_before(part.first), _points_before(part.total))
    rows = torch.arange(len(data), device=data.device)[POINT_EVERY * points.first - part.first :: POINT_EVERY]
    if not len(rows):
        return data.new_zeros(())

    z = data[rows] / potential.data_std
    angle = angles.sample(points.total, potential.angle_range, like=data, generator=generator)
    angle, noise = points.of(angle, len(rows)), normal_like(z, generator, points)
    order = points.of(torch.rand((points.total, len(shares)), generator=generator, device=data.device), len(rows))
    u, _ = arc.point(z, angle, noise)

    # The own class comes first, and classes without data come last.
    own = labels[rows, group]
    known = own >= 0
    order = order.masked_fill(shares == 0, -1)
    order = order.scatter(1, own.clamp(min=0)[:, None], torch.where(known, 2.0, order[:, 0])[:, None])
    classes = order.topk(count, dim=1).indices
    log_share = shares.to(data.dtype).log()[classes]

    asked = labels.new_full((count + 1, len(rows), labels.shape[1]), -1)
    asked[:-1, :, group] = classes.T
    # Differences of large energies would be lost in bf16.
    with full_float32(potential, u.device):
        value = potential.potential(
            u.repeat(count + 1, *[1] * (u.ndim - 1)), angle.repeat(count + 1), asked.flatten(0, 1)
        )
    scaled = torch.tan(angle) * value.unflatten(0, asked.shape[:2])
    of_classes, of_all = scaled[:-1].T + log_share, scaled[-1]
    loss = torch.where(known, of_classes.logsumexp(1) - of_classes[:, 0], 0)
    if mixture:
        # Each of the other classes stands for several if not all of them were drawn.
        several = (((shares > 0).sum() - 1) / max(count - 1, 1)).clamp(min=1).log()
        others = torch.arange(count, device=data.device) > 0
        loss = loss + F.smooth_l1_loss((of_classes + several * others).logsumexp(1), of_all, reduction="none")
    weight = torch.tan(angle).clamp(min=1).reciprocal()
    return (weight * loss).sum() * (part.total / (len(data) * points.total))


def _points_before(row: int) -> int:
    """The number of points among the rows of a batch before a row."""
    return -(-row // POINT_EVERY)
