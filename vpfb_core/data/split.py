"""The held-out split, decided by what the pictures show and not by where they stand; on disk, by their names."""

from __future__ import annotations

import hashlib
from collections import defaultdict

import torch
from torch import Tensor

from vpfb_core.data.images import ImageSet
from vpfb_core.data.streaming import ImageSource, StreamedSet
from vpfb_core.errors import ConfigError

LARGEST = 0.9


def split(images: ImageSource, val_fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Indices for training and for validation.

    Different pictures are ranked by a hash of (seed, pixels), and the first are held out until the fraction is
    reached; exact copies go together, so none is on both sides, and the order of the files plays no part. At least one
    picture is held out (fraction > 0) and at least one is not. If all pictures are the same one, both sides are all.

    The pixels of a streamed set are not known yet: its files are ranked by their names (`StreamedSet.hold_out`), and
    copies of held-out pictures are met and left out in training (`training.streamed_batches`).

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
    wanted = min(max(1, round(val_fraction * len(images))), len(images) - 1)
    held_out = torch.zeros(len(images), dtype=torch.bool)
    if isinstance(images, StreamedSet):
        held_out[images.hold_out(wanted, seed)] = True
        return everything[~held_out], everything[held_out]
    copies = _copies(images, seed)
    if len(copies) <= 1:
        return everything, everything

    ranked = [copies[key] for key in sorted(copies)]
    val: list[int] = []
    for group in ranked:
        if len(val) + len(group) <= wanted:
            val += group
    held_out[val or min(ranked, key=len)] = True
    return everything[~held_out], everything[held_out]


def _copies(images: ImageSet, seed: int) -> dict[bytes, list[int]]:
    """Hash of (seed, pixels) → the pictures that have it."""
    copies: dict[bytes, list[int]] = defaultdict(list)
    for i, pixels in enumerate(images.images.numpy()):
        digest = hashlib.blake2b(f"{seed}:".encode(), digest_size=16)
        digest.update(pixels.tobytes())
        copies[digest.digest()].append(i)
    return copies
