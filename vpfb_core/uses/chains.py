"""Langevin chains of a model in image space: long runs from images, and inpainting."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vpfb_core import methods
from vpfb_core.data.statistics import Values, tensor_of
from vpfb_core.dynamics.per_sample import rms_distance
from vpfb_core.errors import ConfigError
from vpfb_core.model.conditions import Condition
from vpfb_core.model.trained import DEFAULT_BATCH, TrainedModel
from vpfb_core.settings import require_index, whole_number
from vpfb_core.uses import inpainting, long_runs
from vpfb_core.uses.draw import batches, conditions_of, conditions_of_data, conditions_on_device, count_of


@dataclass(frozen=True)
class Chains:
    """The result of Langevin chains.

    Attributes:
        images: the samples on the CPU, as `draw.sample` returns them.
        acceptance: the share of accepted Metropolis proposals after the burn-in.
        energy: the mean energy of the images, −log density in nats up to a constant. For a long run it is given before
            the first step and after each step, (steps + 1,). For inpainting it is given after each level, (levels,),
            and the constant differs between levels.
        moved: the RMS distance of each sample from its start, of pixels in [0, 1] or of standardised columns, (N,); for
            the pixels that were filled in.
        apart: the mean RMS distance between consecutive images; NaN for a single image.
        nfe: gradient evaluations per image, (N,) int64.
        solver: the name of the solver of the flow. A long run at the only level of a field has no flow.
    """

    images: Tensor
    acceptance: float
    energy: Tensor
    moved: Tensor
    apart: float
    nfe: Tensor
    solver: str

    def energy_trace(self) -> list[float]:
        """At most 50 evenly spaced energies, which include the first and the last."""
        last = len(self.energy) - 1
        count = min(50, last + 1)
        rows = [round(i * last / max(1, count - 1)) for i in range(count)]
        return self.energy[rows].tolist()


def long_run(
    model: TrainedModel,
    images: Values,
    steps: int,
    seed: int = 0,
    *,
    first: int = 0,
    condition: Condition = None,
    guidance: float | None = None,
    level: float = long_runs.LEVEL,
    batch_size: int = DEFAULT_BATCH,
    on_progress: Callable[[float], None] | None = None,
    **settings: Any,
) -> Chains:
    """Run MALA chains from images at one noise level, and remove the noise with the flow.

    The first fifth of the steps, at most 200, is the burn-in, in which each chain adapts its step size. The random
    numbers of image i depend only on (seed, first + i).

    Args:
        model: a model with an energy; its method needs a flow if it has an energy at several noise levels.
        images: samples or real images, (N, C, H, W), uint8 or in [0, 1].
        steps: the number of steps of MALA.
        condition: one condition of all images, or one per image, as in `draw.sample`.
        guidance: the guidance weight, as in `draw.sample`.
        level: the noise level of the chains.
        on_progress: called with the share of the work that is done, in [0, 1].
        settings: the solver of the flow, as in `draw.sample`.
    Raises:
        ConfigError: there are no images, a setting does not exist, or the method has no energy, or no flow where it
            needs one.
        SolverError: the energy of some image is not finite.
    """
    model.require("energy", "a Langevin chain")
    if not model.at_one_level:
        model.require("flow", "a long run")
    data, steps, first = model.standardise(images), whole_number("steps", steps), require_index("first", first)
    if not len(data):
        raise ConfigError("there are no images to begin chains from", hint="give at least one image")
    solver, _ = methods.choose_sampling(model.method, settings)
    conditions = conditions_of_data(model, condition, len(data), guidance=guidance, use="a long run")
    parts, ends, nfe = [], [], []
    for rows in batches(len(data), batch_size):
        done, share = rows.start / len(data), len(data[rows]) / len(data)
        part = long_runs.long_run(
            model.field, data[rows], conditions_on_device(model, conditions, rows), guidance, steps=steps, seed=seed,
            first=first + rows.start, level=level, solver=solver, on_step=_fraction(on_progress, done, share, steps),
        )  # fmt: skip
        ends.append(part.data.cpu())
        nfe.append(part.nfe.cpu())
        parts.append((share, part.acceptance, part.energy))
    drawn, began = model.statistics.restore(torch.cat(ends)), model.statistics.restore(data.cpu())
    return Chains(
        drawn,
        acceptance=sum(share * acceptance for share, acceptance, _ in parts),
        energy=_mixed([(share, energy) for share, _, energy in parts]),
        moved=rms_distance(*map(model.statistics.features, (drawn, began))),
        apart=_apart(model.statistics.features(drawn)),
        nfe=torch.cat(nfe),
        solver=solver.method,
    )


def inpaint(
    model: TrainedModel,
    image: Values,
    mask: Values,
    n: int,
    seed: int = 0,
    *,
    first: int = 0,
    condition: Condition = None,
    guidance: float | None = None,
    batch_size: int = DEFAULT_BATCH,
    on_progress: Callable[[float], None] | None = None,
    levels: int = inpainting.LEVELS,
) -> Chains:
    """Sample the unknown pixels of an image given its known pixels, n times.

    At each noise level there is one step of the flow and 25 steps of MALA on the unknown pixels. If the model has an
    energy at one level only, there are as many steps of its gradient flow, and then 250 steps of MALA. The random
    numbers of sample i depend only on (seed, first + i).

    Args:
        model: a model with an energy and a flow.
        image: (C, H, W), uint8 or in [0, 1]. Its known pixels are returned unchanged.
        mask: bool (H, W), (1, H, W) or (C, H, W), True where a pixel is known.
        n: the number of samples.
        condition, guidance: as in `draw.sample`.
        on_progress: called with the share of the work that is done, in [0, 1].
        levels: the number of noise levels.
    Raises:
        ConfigError: shapes do not fit, all pixels or none are known, or the method has no energy or no flow.
        SolverError: a sample became non-finite.
    """
    model.require("energy", "inpainting")
    if not model.at_one_level:
        model.require("flow", "inpainting")
    n, first = count_of(n), require_index("first", first)
    image, known = tensor_of(image, model.statistics.noun), tensor_of(mask, "masks")
    conditions = conditions_of(model, condition, n, first, guidance=guidance, use="inpainting")
    if tuple(image.shape) != tuple(model.shape):
        raise ConfigError(
            f"an image of shape {tuple(image.shape)} does not fit a model of {tuple(model.shape)}",
            hint="the shape is (channels, height, width)",
        )
    channels = {(), (1,), tuple(image.shape[:-2])}  # of the mask: none, one for all, or those of the image
    if known.dtype != torch.bool or known.shape[-2:] != image.shape[-2:] or tuple(known.shape[:-2]) not in channels:
        raise ConfigError(
            f"a mask of {known.dtype} {tuple(known.shape)} does not fit an image of {tuple(image.shape)}",
            hint="a mask is bool (1, height, width), True where the image is known",
        )
    known = known.cpu().expand(model.shape)
    if known.all() or not known.any():
        raise ConfigError(f"the mask keeps {'every pixel' if known.all() else 'no pixel'} of the image")
    data = model.standardise(image[None])
    parts, filled = [], []
    for rows in batches(n, batch_size):
        count = rows.stop - rows.start
        part = inpainting.inpaint(
            model.field, data.expand(count, *model.shape), known,
            conditions_on_device(model, conditions, rows), guidance, seed=seed, first=first + rows.start, levels=levels,
            on_level=_fraction(on_progress, rows.start / n, count / n, levels),
        )  # fmt: skip
        filled.append(part.data.cpu())
        parts.append((count / n, part))
    given = model.statistics.public(image.cpu())
    drawn = torch.where(known, given, model.statistics.restore(torch.cat(filled)))
    compared = model.statistics.features(drawn)
    free, original = compared[:, ~known.flatten()], model.statistics.features(given[None])[0, ~known.flatten()]
    return Chains(
        drawn,
        acceptance=float(_mixed([(share, part.acceptance.mean()) for share, part in parts])),
        energy=_mixed([(share, part.energy) for share, part in parts]),
        moved=rms_distance(free, original.expand_as(free)),
        apart=_apart(free),
        nfe=torch.full((n,), part.nfe),
        solver=part.solver,
    )


def _fraction(
    on_progress: Callable[[float], None] | None, done: float, share: float, parts: int
) -> Callable[[int], None] | None:
    """A function that reports the completed parts (steps or levels) of a batch as a share of all work."""
    return None if on_progress is None else lambda part: on_progress(done + share * part / parts)


def _mixed(parts: Sequence[tuple[float, Tensor]]) -> Tensor:
    """The mean over batches, weighted by their shares."""
    return torch.stack([share * values for share, values in parts]).sum(0)


def _apart(images: Tensor) -> float:
    return float(rms_distance(images[1:], images[:-1]).mean()) if len(images) > 1 else math.nan
