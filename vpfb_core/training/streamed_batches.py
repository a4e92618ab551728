"""Batches of images that are read, a few steps ahead, while the steps before are computed; and the choice of them."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vpfb_core.data import ImageSet
from vpfb_core.data.stacking import thread_count
from vpfb_core.data.streaming import StreamedSet
from vpfb_core.errors import DataError
from vpfb_core.machine.devices import moved
from vpfb_core.training.batches import Batches, BatchesInMemory, Epoch, Order, mirror
from vpfb_core.training.plan import Plan

AHEAD = 4  # steps that are read before their turn
_CHUNK = 8  # images a task
_PATIENCE = 1_000  # images passed over in a row before a set is taken to hold no other


@dataclass(frozen=True)
class _Picture:
    """row: among the rows to train on; pixels: uint8 (C, S, S)."""

    row: int
    mirrored: bool
    pixels: np.ndarray


def training_batches(plan: Plan, rows: Tensor, held_out: ImageSet, share: range) -> Batches:
    """Batches of the images at `rows`: in the memory of the device, or read on the way without copies of held_out.

    Args:
        share: which rows of each batch this process takes.
    """
    images, config, device = plan.images, plan.config, plan.device
    batch_size, flip, seed = config.batch_size or 1, config.augment == "flip", config.seed
    if isinstance(images, StreamedSet):
        return StreamedBatches(
            images, rows, held_out.images, batch_size=batch_size, flip=flip, seed=seed, device=device, share=share
        )
    labels = None if images.labels is None else images.labels[rows].to(device)
    return BatchesInMemory(images.images[rows].to(device), labels, batch_size, flip, seed, share)


class StreamedBatches:
    """Batches of a streamed set, equal to those of the same images in memory.

    Where an image cannot be read, or is an exact copy of one that is held out, the next one in the order of its epoch
    takes its place. That depends on the images alone, so a resumed run sees the same; threads only decide when an
    image is read.

    Args:
        images: the set.
        rows: int64 (M,), which of its images are trained on.
        held_out: uint8 (K, C, S, S), images that are never to be trained on.
        batch_size: images a step.
        flip: mirror each image with probability ½.
        seed: of order and flips.
        device: where the batches are wanted.
        share: as of `Order`.
    """

    def __init__(
        self,
        images: StreamedSet,
        rows: Tensor,
        held_out: Tensor,
        *,
        batch_size: int,
        flip: bool,
        seed: int,
        device: torch.device,
        share: range | None = None,
    ) -> None:
        self.images, self.flip, self.device = images, flip, device
        self._rows = rows.tolist()
        self._labels = None if images.labels is None else images.labels[rows]
        self._held_out = {_digest(pixels) for pixels in held_out.numpy()}
        self._order = Order(len(rows), batch_size, seed, share)
        self._begun: dict[int, list[Future[list[_Picture]]]] = {}
        self._closed = threading.Event()
        self._threads = ThreadPoolExecutor(thread_count(images.workers), thread_name_prefix="vpfb-read")

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor | None]:
        """The images and labels of a step, on the device: uint8 (B, C, S, S), int64 (B, G).

        Raises:
            DataError: the folder is gone, too many of its files cannot be read, or no image is left to train on.
        """
        wanted = range(step, step + 1 + AHEAD)
        for other in self._begun.keys() - set(wanted):  # a run that was rolled back goes on elsewhere
            for task in self._begun.pop(other):
                task.cancel()
        for ahead in wanted:
            if ahead not in self._begun:
                self._begun[ahead] = self._begin(ahead)
        pictures = [picture for task in self._begun.pop(step) for picture in task.result()]
        images = moved(torch.from_numpy(np.stack([picture.pixels for picture in pictures])), self.device)
        if self.flip:
            images = mirror(images, torch.tensor([picture.mirrored for picture in pictures]))
        if self._labels is None:
            return images, None
        return images, moved(self._labels[[picture.row for picture in pictures]], self.device)

    def close(self) -> None:
        """Stop reading; what a thread is just decoding is waited for."""
        self._closed.set()
        self._threads.shutdown(cancel_futures=True)

    def _begin(self, step: int) -> list[Future[list[_Picture]]]:
        chunks = [
            (epoch, places[start : start + _CHUNK])
            for epoch, places in self._order.places(step)
            for start in range(0, len(places), _CHUNK)
        ]
        return [self._threads.submit(self._read, epoch, places) for epoch, places in chunks]

    def _read(self, epoch: Epoch, places: range) -> list[_Picture]:
        return [self._picture(epoch, place) for place in places]

    def _picture(self, epoch: Epoch, place: int) -> _Picture:
        """What stands at a place of an epoch: the first image from there on that can be trained on."""
        count = len(self._rows)
        for step in range(min(count, _PATIENCE)):
            if self._closed.is_set():
                raise CancelledError
            row = int(epoch.rows[(place + step) % count])
            pixels = self.images.reader.take(self._rows[row])
            if pixels is not None and _digest(pixels) not in self._held_out:
                return _Picture(row, bool(epoch.mirrored[row]), pixels)
        raise DataError(
            f"no image is left to train on in '{self.images.reader.root}': those that were read are exact copies of "
            "held-out ones, or cannot be read",
            hint="--val-fraction 0 holds nothing out",
        )


def _digest(pixels: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=16).digest()
