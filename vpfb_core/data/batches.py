"""The batches of training steps. They depend on (seed, epoch, row) alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from vpfb_core.machine import noise
from vpfb_core.machine.devices import moved


class Batch(NamedTuple):
    """The data of a step.

    Attributes:
        data: (B, *shape), images as uint8.
        labels: int64 (B, G); None without conditions.
        keys: a number for each datum by which it is recognised in other steps, int64 (B,), on the CPU. It is its row,
            and a mirrored image has another number. None if the data are not recognised.
    """

    data: Tensor
    labels: Tensor | None
    keys: Tensor | None = None


class Batches(Protocol):
    """The batches of a run."""

    def __getitem__(self, step: int) -> Batch:
        """The data and labels of a step, counted from 0, or this process's share of them, on the device."""
        ...

    def close(self) -> None:
        """Stop the threads. No batch can be drawn afterwards."""
        ...


@dataclass(frozen=True)
class Epoch:
    """One shuffled pass over the data.

    Attributes:
        rows: all rows in the order of the epoch, int64 (N,).
        mirrored: whether each row is mirrored, bool (N,). Its index is the row, not the position in the order.
    """

    rows: Tensor
    mirrored: Tensor


class Order:
    """An endless sequence of shuffled epochs, cut into batches.

    Args:
        count: N, the number of rows.
        batch_size: the number of rows per step, over all processes.
        seed: the seed of the order and of the mirroring.
        flip: whether each image is mirrored with probability ½.
        share: the part of each batch that this process computes; None is the whole batch.
    """

    def __init__(self, count: int, batch_size: int, seed: int, flip: bool, share: range | None = None) -> None:
        self.count, self.batch_size, self.seed, self.flip = count, batch_size, seed, flip
        self.share = range(batch_size) if share is None else share
        self._epochs: dict[int, Epoch] = {}

    def positions(self, step: int) -> Iterator[tuple[Epoch, range]]:
        """The positions of the rows of a step in their epoch.

        There are several pairs of epoch and positions if the batch extends beyond the end of an epoch.
        """
        start = step * self.batch_size + self.share.start
        end = start + len(self.share)
        while start < end:
            first = start % self.count
            positions = range(first, min(first + end - start, self.count))
            yield self._epoch(start // self.count), positions
            start += len(positions)

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
        images: uint8 (N, C, H, W), on the training device.
        labels: int64 (N, G) on the same device, or None.
        order: the order of the N rows.
    """

    def __init__(self, images: Tensor, labels: Tensor | None, order: Order) -> None:
        self.images, self.labels, self.order = images, labels, order

    def __getitem__(self, step: int) -> Batch:
        rows: list[Tensor] = []
        mirrored: list[Tensor] = []
        for epoch, positions in self.order.positions(step):
            rows.append(epoch.rows[positions.start : positions.stop])
            mirrored.append(epoch.mirrored)
        chosen = moved(torch.cat(rows), self.images.device)
        images, keys = self.images[chosen], torch.cat(rows)
        if self.order.flip:
            turned = torch.cat([each[row] for each, row in zip(mirrored, rows, strict=True)])
            images, keys = mirror(images, turned), keys + self.order.count * turned
        return Batch(images, None if self.labels is None else self.labels[chosen], keys)

    def close(self) -> None:
        """Do nothing, since there are no threads."""


def mirror(images: Tensor, which: Tensor) -> Tensor:
    """Images (N, C, H, W), with left and right exchanged in those that `which`, bool (N,), selects."""
    return torch.where(moved(which, images.device)[:, None, None, None], images.flip(-1), images)
