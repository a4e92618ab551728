"""Several processes on one job: who does what, and how they agree.

`torchrun` starts them. Each computes a share; the first alone speaks and writes. What they say to each other goes from
processor to processor (gloo) and waits for no GPU; only gradients and losses go from GPU to GPU (NCCL). For a process
that is alone all of this is an ordinary call.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed
from torch.nn import Parameter

from vpfb_core.errors import LostProcessError, VPFBError
from vpfb_core.machine.launch import Place, place

T = TypeVar("T")

# The others wait while the first process calibrates, draws and saves; one that has died is noticed at once.
PATIENCE = timedelta(days=7)


class Group:
    """The processes of a job, or one alone.

    Attributes:
        rank, count: which of how many this one is.
        first: whether it speaks and writes for all.
        leads: whether it is the first on its machine.
    """

    def __init__(self, place: Place) -> None:
        self.rank, self.count, self.first = place.rank, place.count, place.first
        self.leads = place.local_rank == 0
        if self.count == 1:
            return
        if not distributed.is_initialized():  # or the user's program has done so
            distributed.init_process_group("gloo")
        self._words: Any = distributed.new_group(backend="gloo", timeout=PATIENCE)
        self._nccl: Any = None  # made when a GPU needs it

    # --- shares -------------------------------------------------------------------------------------------------------

    def share(self, total: int) -> range:
        """The part of `range(total)` that is this process's: parts follow each other and differ by at most one."""
        return range(self.rank * total // self.count, (self.rank + 1) * total // self.count)

    def sharded(self, total: int, work: Callable[[range], T]) -> list[T] | None:
        """`work(share)` on each process; the first gets what all of them made, in order, the others None.

        What is made is tensors on the CPU or plain values. An empty share is not worked on.
        """
        mine = self.share(total)
        made = self.together(lambda: [work(mine)] if mine else [])
        if self.count == 1:
            return made
        parts: list[Any] | None = [None] * self.count if self.first else None
        with _exchange():
            distributed.gather_object(made, parts, group=self._words)
        return None if parts is None else [one for part in parts for one in part]

    # --- agreement ----------------------------------------------------------------------------------------------------

    def largest(self, values: Sequence[float]) -> list[float]:
        """The largest of each value over the processes."""
        if self.count == 1:
            return list(values)
        table = torch.tensor(values, dtype=torch.float64)
        with _exchange():
            distributed.all_reduce(table, distributed.ReduceOp.MAX, group=self._words)
        return table.tolist()

    def from_first(self, work: Callable[[], T]) -> T:
        """`work()` on the first process alone: what it returns or raises, every process does."""
        if self.count == 1:
            return work()
        box: list[Any] = [_attempt(work) if self.first else None]
        with _exchange():
            distributed.broadcast_object_list(box, 0, group=self._words)
        value, error = box[0]
        if error is not None:
            error.speaker = self.first
            raise error
        return value

    def together(self, work: Callable[[], T]) -> T:
        """`work()` on each process: where it fails on some, it fails on all, with the error of the lowest rank."""
        if self.count == 1:
            return work()
        value, error = _attempt(work)
        if self.largest([error is not None])[0]:
            errors: list[Any] = [None] * self.count
            with _exchange():
                distributed.all_gather_object(errors, error, group=self._words)
            shared = next(error for error in errors if error is not None)
            shared.speaker = self.first
            raise shared
        return value  # type: ignore[return-value]

    def leaders_first(self, work: Callable[[], T]) -> T:
        """`together`, but for one process of each machine first: what it downloads, the others find there."""
        value = self.together(lambda: work() if self.leads else None)
        return self.together(lambda: work() if value is None else value)

    @contextlib.contextmanager
    def naming_lost_processes(self) -> Iterator[None]:
        """Within, a connection that broke is the error that another process has died.

        Which process failed, and of what, it says itself; `torchrun` reports its rank.
        """
        try:
            yield
        except Exception as error:
            if self.count > 1 and _is_broken_link(error):
                raise LostProcessError(
                    "another process of this job has died", hint="its own message, or torchrun's report, says why"
                ) from error
            if isinstance(error, VPFBError) and not self.first and getattr(error, "speaker", None) is None:
                error.message += f" (process {self.rank} of {self.count})"
                error.speaker = True  # type: ignore[attr-defined]
            raise

    # --- gradients ----------------------------------------------------------------------------------------------------

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Give all processes the values of the first, in place."""
        if self.count == 1:
            return
        with torch.no_grad(), _exchange():
            for tensor in tensors:
                distributed.broadcast(tensor.data, 0, group=self._between(tensor.device))

    def average_gradients(self, parameters: Iterable[Parameter]) -> None:
        """Replace each parameter's gradient by its mean over the processes; where one has none, it counts as zero.

        It is done once per step, when all micro-batches have added up, so that processes may divide their shares
        differently. All gradients of a type travel as one tensor.
        """
        if self.count == 1:
            return
        by_kind: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            by_kind.setdefault((parameter.grad.dtype, parameter.grad.device), []).append(parameter.grad)
        for gradients in by_kind.values():
            flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
            self.mean(flat)
            for gradient, part in zip(gradients, flat.split([each.numel() for each in gradients]), strict=True):
                gradient.copy_(part.view_as(gradient))

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the processes, in place."""
        if self.count > 1:
            with _exchange():
                distributed.all_reduce(values, group=self._between(values.device))
            values /= self.count
        return values

    def _between(self, device: torch.device) -> Any:
        """What carries tensors of a device from process to process."""
        if device.type != "cuda":
            return self._words
        self._nccl = self._nccl or distributed.new_group(backend="nccl")
        return self._nccl


@functools.cache
def group() -> Group:
    """The processes that this one belongs to; the first call meets the others."""
    here = place()
    if here.count > 1:
        atexit.register(_leave)
    return Group(here)


def _leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _attempt(work: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return work(), None
    except Exception as error:
        return None, _portable(error)


def _portable(error: Exception) -> Exception:
    """The error, or where it cannot travel to another process, its words."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


@contextlib.contextmanager
def _exchange() -> Iterator[None]:
    """Around a message: that the other side is gone has a name."""
    try:
        yield
    except RuntimeError as error:
        raise LostProcessError("another process of this job has died") from error


def _is_broken_link(error: Exception) -> bool:
    """Whether a backward pass failed because a process that it exchanges gradients with is gone."""
    return isinstance(error, distributed.DistError) or "gloo" in str(error).lower()
