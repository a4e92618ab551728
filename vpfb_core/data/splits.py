"""The split into training and validation data, which depends on the data and not on their order."""

from __future__ import annotations

import torch
from torch import Tensor

from vpfb_core.data.source import Source
from vpfb_core.errors import ConfigError

LARGEST = 0.9


def split(source: Source, val_fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """The rows to train on and the rows to validate on.

    If the source determines its held-out data (`Source.held_out`), those are used. Otherwise `Source.hold_out` chooses
    them. Both sides have at least one datum if the fraction is positive and no class would lose its last datum. If all
    data are copies of one, both sides contain all of them.

    Args:
        source: N data.
        val_fraction: the fraction to hold out, in [0, 0.9]; 0 holds out none.
        seed: the seed of the choice.
    Returns:
        (train, val): int64, increasing.
    Raises:
        ConfigError: the fraction is out of range.
    """
    if not 0 <= val_fraction <= LARGEST:
        raise ConfigError(f"validation fraction {val_fraction} is not between 0 and {LARGEST}", hint="try 0.1")
    everything = torch.arange(len(source))
    if source.held_out is not None:
        return everything[~source.held_out], source.hold_out(int(source.held_out.sum()), seed)
    if val_fraction == 0:
        return everything, everything[:0]
    wanted = min(max(1, round(val_fraction * len(source))), len(source) - 1)
    held_out = torch.zeros(len(source), dtype=torch.bool)
    held_out[source.hold_out(wanted, seed)] = True
    if held_out.all():
        return everything, everything
    return everything[~held_out], everything[held_out]
