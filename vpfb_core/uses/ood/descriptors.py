"""Descriptors of images: energies, score norms and network features at several noise levels.

Images are scaled as they are at a noise level, but no noise is added. Descriptors of noised images detected fewer
outliers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vpfb_core.dynamics.ladder import Levels
from vpfb_core.methods.fields import Field
from vpfb_core.model.reference import Descriptors

# Geometrically spaced noise levels, from one that leaves only the coarse shape of an image to one that leaves all
# details.
LEVELS = tuple(3.0 * (0.05 / 3.0) ** (i / 9) for i in range(10))
SCALAR_LEVEL = LEVELS[5]  # 0.31, the level of the scores with a single level, the best one in the worst case
REGIONS = 4  # the side of the grid of regions over which features are averaged
FEATURE_EVERY = 3  # features are computed at every third level, from the second on; more levels added no information
# The levels whose score norms are evidence of their own: 0.77, 0.31 and 0.12. The squared norm over the Laplacian of
# the energy costs a product with the Hessian per level, and found no more.
DENOISING_LEVELS = LEVELS[3:8:2]


def levels_of(field: Field) -> tuple[float, ...]:
    """Those of `LEVELS` at which the field has an energy; where it has none of them, its lowest level alone."""
    levels = _levels(field)
    return tuple(level for level in LEVELS if levels.lowest <= level <= levels.highest) or (levels.lowest,)


def scalar_level(field: Field) -> float:
    """`SCALAR_LEVEL`, or the level of the field that is nearest to it."""
    levels = _levels(field)
    return min(max(SCALAR_LEVEL, levels.lowest), levels.highest)


def _levels(field: Field) -> Levels:
    assert field.levels is not None
    return field.levels


class LevelDescriptor(NamedTuple):
    """The descriptors of N images at one level.

    Attributes:
        energy: the energy in nats up to a constant, (N,).
        score_norm: the norm ‖∇ log ρ‖ of the score, (N,).
        features: the means of the network's feature layer in each part of a coarse map, (N, F); F = 0 if it has no such
            layer.
    """

    energy: Tensor
    score_norm: Tensor
    features: Tensor


def describe(field: Field, data: Tensor, level: float, regions: int = 1) -> LevelDescriptor:
    """The descriptors of images at one level.

    Args:
        field: a field with an energy.
        data: images of unit variance, (N, …), on the device of the field.
        level: the noise level.
        regions: the side of the grid of regions over which features are averaged.
    """
    x = field.at_level(data, level)
    with _feature_layer(field.network) as seen:
        energy, score = field.energy_and_score(x, level)
    return LevelDescriptor(
        energy=energy,
        score_norm=score.flatten(1).norm(dim=1),
        features=torch.cat([_pooled(layer, regions) for layer in seen], 1) if seen else x.new_empty(len(x), 0),
    )


class Described:
    """Images and what is known of them at noise levels, each of which is evaluated when it is first needed.

    Arguments are those of `describe`.
    """

    def __init__(self, field: Field, data: Tensor, regions: int = 1) -> None:
        self.field, self.data, self.regions = field, data, regions
        self._levels: dict[float, LevelDescriptor] = {}
        self._energies: dict[float, Tensor] = {}

    def at(self, level: float) -> LevelDescriptor:
        """The descriptors at a level."""
        if level not in self._levels:
            self._levels[level] = describe(self.field, self.data, level, self.regions)
            self._energies[level] = self._levels[level].energy
        return self._levels[level]

    def energy(self, level: float) -> Tensor:
        """The energy at a level in nats up to a constant, (N,), for which no gradient is computed."""
        if level not in self._energies:
            self._energies[level] = self.field.energy(self.field.at_level(self.data, level), level)
        return self._energies[level]

    def evidence(self, levels: Sequence[float]) -> Descriptors:
        """The descriptors at several levels by kind of evidence.

        The norms of a few levels are evidence of their own for images. Rows of a table were not tried.
        """
        found = [self.at(level) for level in levels]
        energies = [each.energy for each in found]
        log_norms = [each.score_norm.clamp(min=1e-12).log() for each in found]
        features = torch.cat([each.features for each in found[1::FEATURE_EVERY] or found], 1).cpu()
        kinds = {"recording": torch.stack([*energies, *log_norms], 1).cpu()}
        chosen = [norm for level, norm in zip(levels, log_norms, strict=True) if level in DENOISING_LEVELS]
        if chosen and self.data.ndim == 4:
            kinds["denoising"] = torch.stack(chosen, 1).cpu()
        return kinds | ({"content": features} if features.shape[1] else {})


@contextmanager
def _feature_layer(network: nn.Module) -> Iterator[list[Tensor]]:
    """A list to which the outputs (N, channels, h, w) of the network's feature layer are appended in this context."""
    seen: list[Tensor] = []
    layer = getattr(network, "feature_layer", None)
    if not isinstance(layer, nn.Module):
        yield seen
        return
    handle = layer.register_forward_hook(lambda _layer, _inputs, output: seen.append(output.detach().float()))
    try:
        yield seen
    finally:
        handle.remove()


def _pooled(layer: Tensor, regions: int) -> Tensor:
    """The means in each part of a grid of `regions`² parts, (N, C, h, w) → (N, C · regions²).

    With one part, or without a map, the means and the standard deviations over all positions, (N, C, …) → (N, 2C).
    """
    if layer.ndim != 4 or regions == 1:
        positions = layer.flatten(2)
        return torch.cat([positions.mean(2), positions.std(2, correction=0)], 1)
    return F.adaptive_avg_pool2d(layer, regions).flatten(1)
