"""Which images a step sees: decided by (seed, epoch, index) alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from vpfb_core.machine import noise
from vpfb_core.machine.devices import moved

Batch = tuple[Tensor, Tensor | None]  # images, uint8 (B, C, H, W), and labels, int64 (B, G)


class Batches(Protocol):
    """What training draws its steps from."""

    def __getitem__(self, step: int) -> Batch:
        """The images and labels of a step, counted from 0, or this process's share of them."""
        ...

    def close(self) -> None:
        """Let go of threads; nothing can be drawn afterwards."""
        ...


@dataclass(frozen=True)
class Epoch:
    """rows: int64 (N,), the images in their order; mirrored: bool (N,), by image and not by place."""

    rows: Tensor
    mirrored: Tensor


class Order:
    """An endless row of shuffled epochs, cut into batches.

    Args:
        count: N, how many images there are.
        batch_size: images a step.
        seed: of order and mirroring.
        share: which rows of each batch are wanted, where several processes share it; None is all.
    """

    def __init__(self, count: int, batch_size: int, seed: int, share: range | None = None) -> None:
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.share = range(batch_size) if share is None else share
        self._epochs: dict[int, Epoch] = {}

    def places(self, step: int) -> Iterator[tuple[Epoch, range]]:
        """Where the images of a step stand: places in one epoch, or in several where the batch goes over its end."""
        position = step * self.batch_size + self.share.start
        end = position + len(self.share)
        while position < end:
            first = position % self.count
            places = range(first, min(first + end - position, self.count))
            yield self._epoch(position // self.count), places
            position += len(places)

    def _epoch(self, epoch: int) -> Epoch:
        if epoch not in self._epochs:
            self._epochs = {old: drawn for old, drawn in self._epochs.items() if old == epoch - 1}
            order = torch.randperm(self.count, generator=noise.generator(self.seed, "order", epoch))
            draws = torch.rand(self.count, generator=noise.generator(self.seed, "flip", epoch))
            self._epochs[epoch] = Epoch(order, draws < 0.5)
        return self._epochs[epoch]


class BatchesInMemory:
    """Batches of images that are all there.

    Args:
        images: uint8 (N, C, H, W), on the device that trains.
        labels: int64 (N, G) beside them, or None.
        batch_size: images a step.
        flip: mirror each image with probability ½.
        seed: of order and flips.
        share: as of `Order`.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor | None,
        batch_size: int,
        flip: bool,
        seed: int,
        share: range | None = None,
    ) -> None:
        self.images, self.labels, self.flip = images, labels, flip
        self._order = Order(len(images), batch_size, seed, share)

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor | None]:
        rows: list[Tensor] = []
        mirrored: list[Tensor] = []
        for epoch, places in self._order.places(step):
            rows.append(epoch.rows[places.start : places.stop])
            mirrored.append(epoch.mirrored[rows[-1]])
        chosen = moved(torch.cat(rows), self.images.device)
        images = self.images[chosen]
        if self.flip:
            images = mirror(images, torch.cat(mirrored))
        return images, None if self.labels is None else self.labels[chosen]

    def close(self) -> None:
        """Nothing is held."""


def mirror(images: Tensor, which: Tensor) -> Tensor:
    """Images (N, C, H, W), left and right exchanged in those of `which`, bool (N,)."""
    return torch.where(moved(which, images.device)[:, None, None, None], images.flip(-1), images)
