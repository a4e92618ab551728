"""The two losses of Energy Matching: the regression of the descent, and the contrast of data with negatives."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vpfb_core.dynamics.per_sample import expand_to, mean_squared_error
from vpfb_core.machine.micro_batch import parts_of
from vpfb_core.machine.precision import exact
from vpfb_core.methods.energy_matching.static_energy import DATA_STD, StaticEnergy
from vpfb_core.methods.step import Batch, Moment


def squared_error(
    field: StaticEnergy, z: Tensor, t: Tensor, noise: Tensor, condition: Tensor | None, arrival: float = 0.0
) -> Tensor:
    """‖−∇V(x) − s (a z − x₀)‖²/d at x = (1 − t) x₀ + t a z for each sample, (N,).

    The speed s is 1 until the time 1 − `arrival`, and then falls linearly to 0 at the data.

    Args:
        field: the field.
        z: data of unit variance, (N, …).
        t: positions on the straight paths, (N,).
        noise: x₀, like z.
        condition: class indices, int64 (N, G), or None.
        arrival: the time before the data at which the descent begins to slow down.
    """
    x, t = DATA_STD * z, expand_to(t, z)
    point = ((1 - t) * noise + t * x) / DATA_STD
    speed = ((1 - t) / arrival).clamp(max=1) if arrival else 1.0
    return mean_squared_error(field(point, condition), speed * (x - noise))


def flow_loss(
    field: StaticEnergy, batch: Batch, at: Moment, *, coupled: bool, arrival: float = 0.0
) -> Callable[[slice], Tensor]:
    """The mean of `squared_error` over some rows, where each datum occurs with x₀ and with −x₀.

    Args:
        field, batch, at: those of `Method.losses`.
        arrival: that of `squared_error`.
        coupled: whether noise is assigned to data by minibatch optimal transport; otherwise it is paired at random.
    """
    draws, device = at.generator("flow"), batch.data.device
    t = torch.rand(batch.total, generator=draws, device=device)
    noise = torch.randn((batch.total, *batch.data.shape[1:]), generator=draws, device=device)
    noises = [noise, -noise]
    if coupled:
        noises = [each[nearest(batch.data, each)] for each in noises]

    def mean(rows: slice) -> Tensor:
        z, condition = batch.rows(rows)
        whole = batch.in_whole(rows)
        twice = None if condition is None else torch.cat([condition, condition])
        x0 = torch.cat([each[whole] for each in noises])
        return squared_error(field, torch.cat([z, z]), t[whole].repeat(2), x0, twice, arrival).mean()

    return mean


def nearest(data: Tensor, noise: Tensor) -> Tensor:
    """The noise of each datum, int64 (N,), such that the sum of the squared distances is least."""
    from scipy.optimize import linear_sum_assignment

    cost = torch.cdist(exact(data.flatten(1)), exact(noise.flatten(1))).square()
    _, chosen = linear_sum_assignment(cost.cpu().numpy())
    return torch.as_tensor(chosen, device=data.device)


def contrastive_loss(
    field: StaticEnergy, positives: Batch, negatives: Batch, *, trim: float, margin: float, at_once: int
) -> Callable[[slice], Tensor]:
    """The mean over some rows of V(data) − V(negatives), whose gradient is zero once it is below −margin.

    Args:
        field: the field.
        positives, negatives: data, and as many negatives.
        trim: the share of the negatives that is left out, those with the highest V.
        margin: the difference, in units of V, at which the energy is steep enough.
        at_once: the largest number of data whose values are computed at once.
    """
    parts = parts_of(len(positives.data), at_once)
    with field.measuring(), torch.no_grad():
        real, drawn = (torch.cat([field.value(*each.rows(rows)) for rows in parts]) for each in (positives, negatives))
    kept = torch.zeros_like(drawn)
    kept[drawn.argsort()[: max(1, round((1 - trim) * len(drawn)))]] = 1.0
    weight = kept / kept.mean()
    gap = real.mean() - (weight * drawn).mean()

    def mean(rows: slice) -> Tensor:
        (z, condition), (x, other) = positives.rows(rows), negatives.rows(rows)
        both = None if condition is None or other is None else torch.cat([condition, other])
        with field.measuring():
            of_data, of_negatives = field.value(torch.cat([z, x]), both).chunk(2)
        value = (of_data - weight[rows] * of_negatives).mean()
        # A gradient of zero, not none: the optimiser counts its steps, and a resumed run counts all of them.
        return 0 * value - margin if gap <= -margin else value

    return mean
