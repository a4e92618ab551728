"""The held-out split, decided by what the pictures show and not by where they stand."""

from __future__ import annotations

import hashlib
from collections import defaultdict

import torch
from torch import Tensor

from vpfb_core.data.images import ImageSet
from vpfb_core.errors import ConfigError

LARGEST = 0.9


def split(images: ImageSet, val_fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Indices for training and for validation.

    Different pictures are ranked by a hash of (seed, pixels), and the first are held out until the fraction is
    reached; exact copies go together, so none is on both sides, and the order of the files plays no part. At least one
    picture is held out (fraction > 0) and at least one is not. If all pictures are the same one, both sides are all.

    Args:
        images: N pictures.
        val_fraction: share to hold out, in [0, 0.9]; 0 holds out nothing.
        seed: another one holds out others.
    Returns:
        (train, val): int64, sorted.
    Raises:
        ConfigError: the fraction is out of range.
    """
    if not 0 <= val_fraction <= LARGEST:
        raise ConfigError(f"validation fraction {val_fraction} is not between 0 and {LARGEST}", hint="try 0.1")
    everything = torch.arange(len(images))
    if val_fraction == 0:
        return everything, everything[:0]

    copies: dict[bytes, list[int]] = defaultdict(list)
    for i, pixels in enumerate(images.images.numpy()):
        digest = hashlib.blake2b(f"{seed}:".encode(), digest_size=16)
        digest.update(pixels.tobytes())
        copies[digest.digest()].append(i)
    if len(copies) <= 1:
        return everything, everything

    wanted = min(max(1, round(val_fraction * len(images))), len(images) - 1)
    ranked = [copies[key] for key in sorted(copies)]
    val: list[int] = []
    for group in ranked:
        if len(val) + len(group) <= wanted:
            val += group
    val = val or min(ranked, key=len)
    held_out = torch.zeros(len(images), dtype=torch.bool)
    held_out[val] = True
    return everything[~held_out], everything[held_out]
