"""What a field says of a clean image at several noise levels: energies, scores, and what its network sees.

Images are brought to the scale that they have at a level and not noised: noised copies say less.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vpfb_core.methods.base import Field
from vpfb_core.model.reference import Readings

# Ratios of noise to data, geometric: from where only the coarse shape is left down to the finest detail.
LEVELS = tuple(3.0 * (0.05 / 3.0) ** (i / 9) for i in range(10))
SCALAR_LEVEL = LEVELS[5]  # 0.31, where the scores that read a single level read it: the best in the worst case
FEATURE_EVERY = 3  # features are read at every third level, from the second on; more of them say the same


def levels_of(field: Field) -> tuple[float, ...]:
    """Those of `LEVELS` that the field has; it has learned nothing below its lowest level."""
    return tuple(level for level in LEVELS if level >= _lowest(field))


def scalar_level(field: Field) -> float:
    """`SCALAR_LEVEL`, or the lowest level of the field if that is higher."""
    return max(SCALAR_LEVEL, _lowest(field))


def _lowest(field: Field) -> float:
    assert field.levels is not None
    return field.levels.lowest


class Reading(NamedTuple):
    """At one level."""

    energy: Tensor  # in nats up to a constant, (N,)
    score_norm: Tensor  # ‖∇ log ρ‖, (N,)
    features: Tensor  # mean and deviation over positions of the network's feature layer, (N, F); F = 0 without one


def read(field: Field, data: Tensor, level: float) -> Reading:
    """The reading of images at one level.

    Args:
        data: images standardised to unit variance, (N, …), on the field's device.
        level: the ratio of noise to data.
    """
    x = field.at_level(data, level)
    with _feature_layer(field.network) as seen:
        energy, score = field.energy_and_score(x, level)
    return Reading(
        energy=energy,
        score_norm=score.flatten(1).norm(dim=1),
        features=torch.cat([_pooled(layer) for layer in seen], 1) if seen else x.new_empty(len(x), 0),
    )


def read_all(field: Field, data: Tensor, levels: Sequence[float]) -> Readings:
    """The readings at several levels as one table. Arguments as in `read`."""
    readings = [read(field, data, level) for level in levels]
    energies = [reading.energy for reading in readings]
    log_norms = [reading.score_norm.clamp(min=1e-12).log() for reading in readings]
    features = [reading.features for reading in readings[1::FEATURE_EVERY]]
    return Readings(torch.stack([*energies, *log_norms], 1).cpu(), torch.cat(features, 1).cpu())


@contextmanager
def _feature_layer(network: nn.Module) -> Iterator[list[Tensor]]:
    """Listen to the network's feature layer while it is evaluated: its outputs, (N, channels, h, w)."""
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


def _pooled(layer: Tensor) -> Tensor:
    positions = layer.flatten(2)
    return torch.cat([positions.mean(2), positions.std(2, correction=0)], 1)
