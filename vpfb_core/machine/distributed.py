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
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from vpfb_core.errors import LostProcessError, VPFBError
from vpfb_core.machine.launch import Place, place

T = TypeVar("T")
Module = TypeVar("Module", bound=nn.Module)

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
        store, _, _ = next(iter(distributed.rendezvous("env://")))
        self._notes = distributed.PrefixStore("notes", store)
        store = distributed.PrefixStore("messages", store)
        distributed.init_process_group("gloo", store=store, rank=self.rank, world_size=self.count)
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
    def failing_together(self) -> Iterator[None]:
        """What fails within on one process, while the others are in the middle of something, fails on all.

        It leaves a note; the others notice that it is gone, look for the note, and fail with the same error.
        """
        if self.count == 1:
            yield
            return
        try:
            yield
        except Exception as error:
            if getattr(error, "speaker", None) is not None:  # agreed on already
                raise
            if isinstance(error, LostProcessError) or _is_broken_link(error):
                raise self._noted() or LostProcessError("another process of this job has died") from error
            if isinstance(error, VPFBError) and not self.first:
                error.message += f" (process {self.rank} of {self.count})"
            error.speaker = True  # type: ignore[attr-defined]
            with contextlib.suppress(RuntimeError):
                self._notes.set("error", pickle.dumps(_portable(error)))  # type: ignore[arg-type]
            raise

    def _noted(self) -> Exception | None:
        """The error of the process that failed first, if it had the time to say so."""
        with contextlib.suppress(RuntimeError):
            if self._notes.check(["error"]):
                error: Exception = pickle.loads(self._notes.get("error"))
                error.speaker = False  # type: ignore[attr-defined]
                return error
        return None

    # --- gradients ----------------------------------------------------------------------------------------------------

    def replicated(self, module: Module) -> Module:
        """The module, its gradients averaged over the processes after each backward pass; alone, the module itself.

        All processes begin with the parameters of the first.
        """
        if self.count == 1:
            return module
        device = next(module.parameters()).device
        if device.type == "cuda":
            torch.cuda.set_device(device)
        constants = [name for name, _ in module.named_buffers()]  # not to be sent around at every forward pass
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, constants)
        replica: Any = _Replica(
            module,
            device_ids=[device] if device.type == "cuda" else None,
            process_group=self._between(device),
            gradient_as_bucket_view=True,
        )
        return replica  # which answers for what it wraps

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the processes, in place."""
        if self.count > 1:
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


class _Replica(DistributedDataParallel):
    """Answers for what it wraps: an objective asks a potential for more than its forward pass."""

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)


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
