"""A computation that runs out of memory is done again with half as many images at a time."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import pytest
import torch

from vpfb_core.errors import StepTooLargeError
from vpfb_core.machine.micro_batch import MicroBatch, parts_of

CPU = torch.device("cpu")
OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
]


def fitting(most: int, error: Exception, tried: list[int]) -> Callable[[int], int]:
    """Work that fails with more than this many images at once; it notes with how many it was tried."""

    def work(at_once: int) -> int:
        tried.append(at_once)
        if at_once > most:
            raise error
        return 7

    return work


def test_parts_cover_all_rows_in_order_and_differ_by_one_row_at_most() -> None:
    for count, at_once in ((7, 3), (6, 3), (2, 5), (0, 4)):
        parts = parts_of(count, at_once)
        sizes = [part.stop - part.start for part in parts]
        assert [row for part in parts for row in range(count)[part]] == list(range(count))
        assert len(parts) == -(-count // at_once)
        assert max(sizes, default=0) - min(sizes, default=0) <= 1


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_out_of_memory_halves_the_number_for_good(error: Exception) -> None:
    at_once = MicroBatch(12, CPU)
    tried: list[int] = []
    assert at_once.fit(fitting(3, error, tried)) == 7
    assert at_once.fit(fitting(3, error, tried)) == 7
    assert tried == [12, 6, 3, 3]


def test_one_image_that_does_not_fit_is_an_error_with_advice() -> None:
    at_once = MicroBatch(3, CPU)
    tried: list[int] = []
    with pytest.raises(StepTooLargeError, match="out of memory on cpu with one image at a time") as failure:
        at_once.fit(fitting(0, OUT_OF_MEMORY[0], tried))
    assert tried == [3, 2, 1]
    assert "`preset`" in (failure.value.hint or "")


def test_what_cannot_be_divided_is_tried_once() -> None:
    at_once = MicroBatch(8, CPU, divisible=False)
    tried: list[int] = []
    with pytest.raises(StepTooLargeError, match="with 8 images at a time, which cannot be divided") as failure:
        at_once.fit(fitting(4, OUT_OF_MEMORY[0], tried))
    assert tried == [8]
    assert "`batch_size`" in (failure.value.hint or "")


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    at_once = MicroBatch(8, CPU)
    tried: list[int] = []
    with pytest.raises(RuntimeError, match="shapes"):
        at_once.fit(fitting(4, RuntimeError("shapes do not fit"), tried))
    assert (tried, at_once.size) == ([8], 8)


def test_a_failed_attempt_leaves_no_tensor_alive_when_the_next_one_begins() -> None:
    first: list[weakref.ref[torch.Tensor]] = []

    def work(at_once: int) -> bool:
        if at_once > 4:
            large = torch.zeros(9)
            first.append(weakref.ref(large))
            raise torch.OutOfMemoryError("out of memory")
        return first[0]() is None

    assert MicroBatch(8, CPU).fit(work)
