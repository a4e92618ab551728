"""The processes of a distributed job: how they divide work, exchange results and fail together.

`torchrun` starts the processes. Each computes a share of the work; only the first prints and writes files. Python
objects and tensors on the CPU are exchanged through gloo, which waits for no GPU. Tensors on a GPU are exchanged
through NCCL. In a job of one process every function is an ordinary call.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import pickle
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed
from torch.nn import Parameter

from vpfb_core.errors import LostProcessError, VPFBError, is_out_of_memory
from vpfb_core.machine.launch import ProcessRank, process_rank

T = TypeVar("T")

# The other processes wait while the first one calibrates, samples and saves, which may take hours. A process that has
# died is noticed without this time-out, since its connection breaks.
TIMEOUT = timedelta(days=7)


class Group:
    """The processes of a job, as seen from one of them.

    An error that `from_first` or `together` raises on all processes has an attribute `reported_here`: whether this
    process is the one that prints it.

    Attributes:
        rank: the number of this process, from 0.
        count: the number of processes.
        first: whether this process prints and writes files for all.
        leads: whether this process is the first on its machine.
    """

    def __init__(self, own: ProcessRank) -> None:
        self.rank, self.count, self.first = own.rank, own.count, own.first
        self.leads = own.local_rank == 0
        if self.count == 1:
            return
        if not distributed.is_initialized():  # the user's program may have done so
            distributed.init_process_group("gloo")
        self._gloo: Any = distributed.new_group(backend="gloo", timeout=TIMEOUT)
        self._nccl: Any = None  # created when a tensor on a GPU is exchanged

    # --- dividing work ------------------------------------------------------------------------------------------------

    def share(self, total: int) -> range:
        """The part of `range(total)` that this process computes.

        The parts of the processes follow each other in the order of ranks. Their lengths differ by at most one.
        """
        return range(self.rank * total // self.count, (self.rank + 1) * total // self.count)

    def sharded(self, total: int, work: Callable[[range], T]) -> list[T] | None:
        """Run `work(share)` on each process and collect the results on the first.

        Args:
            total: the length of the range that is divided.
            work: a function of this process's share; it returns tensors on the CPU or plain values. It is not called
                for an empty share.
        Returns:
            On the first process the results in the order of ranks, on the others None.
        """
        mine = self.share(total)
        made = self.together(lambda: [work(mine)] if mine else [])
        if self.count == 1:
            return made
        parts: list[Any] | None = [None] * self.count if self.first else None
        with _exchange():
            distributed.gather_object(made, parts, group=self._gloo)
        return None if parts is None else [one for part in parts for one in part]

    # --- common results and errors ------------------------------------------------------------------------------------

    def largest(self, values: Sequence[float]) -> list[float]:
        """The maximum of each value over the processes."""
        if self.count == 1:
            return list(values)
        table = torch.tensor(values, dtype=torch.float64)
        with _exchange():
            distributed.all_reduce(table, distributed.ReduceOp.MAX, group=self._gloo)
        return table.tolist()

    def from_first(self, work: Callable[[], T]) -> T:
        """Run `work()` on the first process only. Every process returns its result or raises its error."""
        if self.count == 1:
            return work()
        box: list[Any] = [_attempt(work) if self.first else None]
        with _exchange():
            distributed.broadcast_object_list(box, 0, group=self._gloo)
        value, error = box[0]
        if error is not None:
            error.reported_here = self.first
            raise error
        return value

    def together(self, work: Callable[[], T]) -> T:
        """Run `work()` on every process. If some fail, all raise the error of the lowest rank among them."""
        if self.count == 1:
            return work()
        value, error = _attempt(work)
        if self.largest([error is not None])[0]:
            errors: list[Any] = [None] * self.count
            with _exchange():
                distributed.all_gather_object(errors, error, group=self._gloo)
            shared = next(error for error in errors if error is not None)
            shared.reported_here = self.first
            raise shared
        return value  # type: ignore[return-value]

    def leaders_first(self, work: Callable[[], T]) -> T:
        """Run `work()` on one process of each machine, then on the others, which find the files that it downloaded."""
        value = self.together(lambda: work() if self.leads else None)
        return self.together(lambda: work() if value is None else value)

    @contextlib.contextmanager
    def naming_lost_processes(self) -> Iterator[None]:
        """Inside this context, a broken connection raises LostProcessError.

        The process that failed reports its own error, and `torchrun` reports its rank.
        """
        try:
            yield
        except Exception as error:
            if self.count > 1 and _is_broken_link(error):
                raise _lost_process() from error
            if isinstance(error, VPFBError) and not self.first and getattr(error, "reported_here", None) is None:
                error.message += f" (process {self.rank} of {self.count})"
                error.reported_here = True  # type: ignore[attr-defined]
            raise

    # --- gradients ----------------------------------------------------------------------------------------------------

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Set the tensors of every process to the values of the first, in place."""
        if self.count == 1:
            return
        with torch.no_grad(), _exchange():
            for tensor in tensors:
                distributed.broadcast(tensor.data, 0, group=self._between(tensor.device))

    def average_gradients(self, parameters: Iterable[Parameter]) -> None:
        """Replace each parameter's gradient by its mean over the processes. A missing gradient counts as zero.

        It is called once per step, when the gradients of all micro-batches are summed, so that each process may divide
        its share into micro-batches of its own size. All gradients of one dtype are exchanged as one tensor.
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
        """Replace the values by their mean over the processes, in place, and return them."""
        if self.count > 1:
            with _exchange():
                distributed.all_reduce(values, group=self._between(values.device))
            values /= self.count
        return values

    def _between(self, device: torch.device) -> Any:
        """The process group that exchanges tensors of a device."""
        if device.type != "cuda":
            return self._gloo
        self._nccl = self._nccl or distributed.new_group(backend="nccl")
        return self._nccl


@functools.cache
def group() -> Group:
    """The processes of this job. The first call waits until all of them have made it."""
    here = process_rank()
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
    """The error, or a RuntimeError with its text if it cannot be pickled for another process."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


@contextlib.contextmanager
def _exchange() -> Iterator[None]:
    """Inside this context, a broken connection raises LostProcessError."""
    try:
        yield
    except RuntimeError as error:
        if _is_broken_link(error):
            raise _lost_process() from error
        raise


def _lost_process() -> LostProcessError:
    return LostProcessError(
        "another process of this job has died", hint="its own message, or torchrun's report, says why"
    )


def _is_broken_link(error: Exception) -> bool:
    """Whether an exchange failed because another process has died.

    gloo raises a plain RuntimeError, whose message begins with the path of its source file.
    """
    if not isinstance(error, RuntimeError) or is_out_of_memory(error):
        return False
    return isinstance(error, distributed.DistError) or re.search(r"\bgloo\b", str(error), re.IGNORECASE) is not None
