"""Which images a step sees: decided by (seed, epoch, index) alone."""

from __future__ import annotations

import torch
from torch import Tensor

from vpfb_core import noise


class Batches:
    """An endless row of shuffled epochs, cut into batches.

    Args:
        images: uint8 (N, C, H, W), on the device that trains.
        labels: int64 (N, G), or None.
        batch_size: images a step.
        flip: mirror each image with probability ½.
        seed: of order and flips.
    """

    def __init__(self, images: Tensor, labels: Tensor | None, batch_size: int, flip: bool, seed: int) -> None:
        self.images, self.labels = images, labels
        self.batch_size, self.flip, self.seed = batch_size, flip, seed
        self._epochs: dict[int, tuple[Tensor, Tensor]] = {}

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor | None]:
        """The images and labels of a step, counted from 0: uint8 (batch_size, C, H, W), int64 (batch_size, G)."""
        first, count = step * self.batch_size, len(self.images)
        index: list[Tensor] = []
        mirrored: list[Tensor] = []
        position, end = first, first + self.batch_size
        while position < end:
            order, flips = self._epoch(position // count)
            rows = order[position % count :][: end - position]
            index.append(rows)
            mirrored.append(flips[rows])
            position += len(rows)
        chosen = torch.cat(index).to(self.images.device)
        images = self.images[chosen]
        if self.flip:
            mirror = torch.cat(mirrored).to(images.device)[:, None, None, None]
            images = torch.where(mirror, images.flip(-1), images)
        return images, None if self.labels is None else self.labels[chosen]

    def _epoch(self, epoch: int) -> tuple[Tensor, Tensor]:
        """The order of an epoch, and which images are mirrored in it."""
        if epoch not in self._epochs:
            self._epochs = {old: drawn for old, drawn in self._epochs.items() if old == epoch - 1}
            order = torch.randperm(len(self.images), generator=noise.generator(self.seed, "order", epoch))
            flips = torch.rand(len(self.images), generator=noise.generator(self.seed, "flip", epoch)) < 0.5
            self._epochs[epoch] = order, flips
        return self._epochs[epoch]
