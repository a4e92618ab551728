"""Which data a training step sees: decided by (seed, epoch, row) alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from vpfb_core.machine import noise
from vpfb_core.machine.devices import moved

Batch = tuple[Tensor, Tensor | None]  # data, (B, *shape), images as uint8; and labels, int64 (B, G)


class Batches(Protocol):
    """What training draws its steps from."""

    def __getitem__(self, step: int) -> Batch:
        """The data and labels of a step, counted from 0, or this process's share of them, on the device."""
        ...

    def close(self) -> None:
        """Release threads; no batch can be drawn afterwards."""
        ...


@dataclass(frozen=True)
class Epoch:
    """One shuffled pass over the data.

    Attributes:
        rows: int64 (N,), all rows in their order.
        mirrored: bool (N,), whether a row is mirrored; indexed by row and not by place.
    """

    rows: Tensor
    mirrored: Tensor


class Order:
    """An endless sequence of shuffled epochs, cut into batches.

    Args:
        count: N, the number of rows.
        batch_size: rows per step, over all processes.
        seed: seed of order and mirroring.
        flip: mirror each image with probability ½.
        share: the part of each batch that this process takes; None takes all of it.
    """

    def __init__(self, count: int, batch_size: int, seed: int, flip: bool, share: range | None = None) -> None:
        self.count, self.batch_size, self.seed, self.flip = count, batch_size, seed, flip
        self.share = range(batch_size) if share is None else share
        self._epochs: dict[int, Epoch] = {}

    def places(self, step: int) -> Iterator[tuple[Epoch, range]]:
        """The places of a step's rows in their epoch; several pairs where the batch runs over the end of an epoch."""
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
    """Batches of images that are all in the memory of the training device.

    Args:
        images: uint8 (N, C, H, W), on the device that trains.
        labels: int64 (N, G) on the same device, or None.
        order: of the N rows.
    """

    def __init__(self, images: Tensor, labels: Tensor | None, order: Order) -> None:
        self.images, self.labels, self.order = images, labels, order

    def __getitem__(self, step: int) -> Batch:
        rows: list[Tensor] = []
        mirrored: list[Tensor] = []
        for epoch, places in self.order.places(step):
            rows.append(epoch.rows[places.start : places.stop])
            mirrored.append(epoch.mirrored[rows[-1]])
        chosen = moved(torch.cat(rows), self.images.device)
        images = self.images[chosen]
        if self.order.flip:
            images = mirror(images, torch.cat(mirrored))
        return images, None if self.labels is None else self.labels[chosen]

    def close(self) -> None:
        """Do nothing: there are no threads."""


def mirror(images: Tensor, which: Tensor) -> Tensor:
    """Exchange left and right in those of the images (N, C, H, W) that `which`, bool (N,), selects."""
    return torch.where(moved(which, images.device)[:, None, None, None], images.flip(-1), images)
