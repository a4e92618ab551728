"""Batches of images that are read from disk a few steps ahead, while earlier steps are computed."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vpfb_core.data.batches import Batch, Epoch, Order, mirror
from vpfb_core.data.copies import digest
from vpfb_core.data.reader import Reader
from vpfb_core.data.stacking import thread_count
from vpfb_core.errors import DataError
from vpfb_core.machine.devices import moved

AHEAD = 4  # the number of steps that are read ahead
_CHUNK = 8  # the number of images per task of a thread
_PATIENCE = 1_000  # after this many unusable images in a row, the set has none


@dataclass(frozen=True)
class _Image:
    """An image of a batch.

    Attributes:
        row: its row among the rows to train on.
        mirrored: whether it is mirrored.
        pixels: uint8 (C, S, S).
    """

    row: int
    mirrored: bool
    pixels: np.ndarray


class StreamedBatches:
    """Batches read from disk, equal to those of the same images in memory.

    If an image cannot be read, or is an exact copy of a held-out one, the next one in the order of its epoch replaces
    it. The choice depends on the images alone, so that a resumed run gets the same batches. The threads only decide
    when an image is read.

    Args:
        reader: the reader of the N images.
        labels: int64 (N, G), or None.
        rows: the rows of the images to train on, int64 (M,).
        order: the order of the M rows.
        device: the device of the batches.
        held_out: images that no batch may contain, uint8 (K, C, S, S).
        workers: the number of threads that decode; 0 is one per processor.
    """

    def __init__(
        self,
        reader: Reader,
        labels: Tensor | None,
        *,
        rows: Tensor,
        order: Order,
        device: torch.device,
        held_out: Tensor,
        workers: int,
    ) -> None:
        self._reader, self._order, self._device = reader, order, device
        self._rows = rows.tolist()
        self._labels = None if labels is None else labels[rows]
        self._held_out = {digest(pixels) for pixels in held_out.numpy()}
        self._begun: dict[int, list[Future[list[_Image]]]] = {}
        self._closed = threading.Event()
        self._threads = ThreadPoolExecutor(thread_count(workers), thread_name_prefix="vpfb-read")

    def __getitem__(self, step: int) -> Batch:
        """The images and labels of a step, on the device: uint8 (B, C, S, S), int64 (B, G).

        Raises:
            DataError: the folder has disappeared, too many files cannot be read, or no image is left to train on.
        """
        wanted = range(step, step + 1 + AHEAD)
        for other in self._begun.keys() - set(wanted):  # after a roll-back the run continues at another step
            for task in self._begun.pop(other):
                task.cancel()
        for ahead in wanted:
            if ahead not in self._begun:
                self._begun[ahead] = self._begin(ahead)
        taken = [image for task in self._begun.pop(step) for image in task.result()]
        images = moved(torch.from_numpy(np.stack([image.pixels for image in taken])), self._device)
        keys = torch.tensor([image.row for image in taken])
        labels = None if self._labels is None else moved(self._labels[keys], self._device)
        if self._order.flip:
            turned = torch.tensor([image.mirrored for image in taken])
            images, keys = mirror(images, turned), keys + len(self._rows) * turned
        return Batch(images, labels, keys)

    def close(self) -> None:
        """Stop reading, after the images that are being decoded."""
        self._closed.set()
        self._threads.shutdown(cancel_futures=True)

    def _begin(self, step: int) -> list[Future[list[_Image]]]:
        chunks = [
            (epoch, positions[start : start + _CHUNK])
            for epoch, positions in self._order.positions(step)
            for start in range(0, len(positions), _CHUNK)
        ]
        return [self._threads.submit(self._read, epoch, positions) for epoch, positions in chunks]

    def _read(self, epoch: Epoch, positions: range) -> list[_Image]:
        return [self._image(epoch, position) for position in positions]

    def _image(self, epoch: Epoch, position: int) -> _Image:
        """The first image that can be trained on, from a position in an epoch on."""
        count = len(self._rows)
        for step in range(min(count, _PATIENCE)):
            if self._closed.is_set():
                raise CancelledError
            row = int(epoch.rows[(position + step) % count])
            pixels = self._reader.take(self._rows[row])
            if pixels is not None and digest(pixels) not in self._held_out:
                return _Image(row, bool(epoch.mirrored[row]), pixels)
        raise DataError(
            f"no image is left to train on in '{self._reader.root}': those that were read are exact copies of "
            "held-out images, or cannot be read",
            hint="`val_fraction=0` holds no images out",
        )
