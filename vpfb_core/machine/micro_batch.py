"""The number of images that are computed at once, which is halved when the memory is full, and the parts it makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from vpfb_core.errors import StepTooLargeError, is_out_of_memory

T = TypeVar("T")


def parts_of(count: int, at_once: int) -> list[slice]:
    """`count` rows in the fewest parts of at most `at_once` rows, whose sizes differ by at most one."""
    parts = -(-count // at_once)
    return [slice(part * count // parts, (part + 1) * count // parts) for part in range(parts)]


class MicroBatch:
    """The number of images that a device computes at once.

    Attributes:
        size: the current number.
        divisible: whether the computation may be divided further; if not, a lack of memory is an error at once.
    """

    def __init__(self, size: int, device: torch.device, *, divisible: bool = True) -> None:
        self.size, self.device, self.divisible = size, device, divisible

    def fit(self, work: Callable[[int], T]) -> T:
        """Return work(size). When the device runs out of memory, halve the size for good and start again.

        Args:
            work: computes at most that many images at once. The result must not depend on the number, and an attempt
                that fails must leave nothing behind that changes the next one.
        Raises:
            StepTooLargeError: the computation does not fit into the memory and cannot be divided further.
        """
        while True:
            try:
                return work(self.size)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if not self.divisible or self.size <= 1:
                    raise self._too_large() from error
            # Only here, after the error is gone, are the tensors of the failed attempt free.
            self.size = (self.size + 1) // 2
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            elif self.device.type == "mps":
                torch.mps.empty_cache()

    def _too_large(self) -> StepTooLargeError:
        if self.divisible:
            return StepTooLargeError(
                f"out of memory on {self.device} with one image at a time", hint="use a smaller `preset` or `size`"
            )
        return StepTooLargeError(
            f"out of memory on {self.device} with {self.size} images at a time, which cannot be divided",
            hint="use a smaller `batch_size`",
        )
