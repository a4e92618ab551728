"""The choice of a device, and its memory."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from vpfb_core.errors import ConfigError
from vpfb_core.machine.launch import process_rank
from vpfb_core.machine.limits import cores
from vpfb_core.machine.precision import exact_device


def available_devices() -> list[str]:
    """The names of the devices of this machine, the fastest first."""
    devices = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    if torch.backends.mps.is_available():
        devices.append("mps")
    return [*devices, "cpu"]


def resolve_device(name: str | torch.device = "auto") -> torch.device:
    """The device of a name, which must exist on this machine.

    If several processes of a job run on this machine, each takes the GPU of its local rank.

    Args:
        name: a device, or "cpu", "cuda", "cuda:N", "mps" or "auto", which prefers CUDA, then MPS, then the CPU.
    Raises:
        ConfigError: there is no such device on this machine; the hint lists those that exist.
    """
    name, devices, here = str(name), available_devices(), process_rank()
    if here.count > 1 and "mps" in devices:  # torch.distributed cannot exchange gradients of MPS
        devices.remove("mps")
    if name == "auto":
        name = devices[0]
    elif name == "cuda":
        name = "cuda:0"
    if name.startswith("cuda") and here.count > 1:
        name = f"cuda:{here.local_rank}"
    if name not in devices:
        raise ConfigError(f"no device {name!r} on this machine", hint=f"devices here: {', '.join(devices)}")
    return torch.device(name)


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device. A copy to a GPU is asynchronous."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def placed(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device, or on the CPU if the device cannot hold its type."""
    return tensor.to(exact_device(device) if tensor.dtype == torch.float64 else device)


def place_network(network: nn.Module, device: torch.device) -> None:
    """Move a network to a device, in place.

    On the CPU its convolutions get the memory format "channels last", which their outputs then have as well. That makes
    a training step and a gradient about 10 % faster there and changes results only by rounding. On other devices the
    memory format stays as it is.
    """
    network.to(device)
    if device.type == "cpu":
        network.to(memory_format=torch.channels_last)


def default_threads() -> int:
    """The default number of CPU threads: the number that torch chose, but at most `cores()`.

    torch does not consider the limit of CPU time of a container.
    """
    return min(torch.get_num_threads(), cores())


def memory_in_use(device: torch.device) -> int:
    """The peak memory use in bytes: allocated by torch on a GPU, resident on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@contextlib.contextmanager
def keeping_freed_memory(device: torch.device) -> Iterator[None]:
    """Inside this context, glibc keeps freed memory of the CPU for the next tensor.

    By default glibc returns large blocks to the system, and a training step requests them again, which takes nearly as
    long as computing in them. At the end the free memory is returned, and the limits become those that glibc sets by
    itself once a program has freed a large block. With another C library or on another device nothing changes. The
    context changes the whole process.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None or device.type != "cpu":
        yield
        return
    mmap_threshold, trim_threshold = -3, -1  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD in malloc.h
    largest = 2**25  # the largest value that glibc accepts for the first
    mallopt(mmap_threshold, largest)
    mallopt(trim_threshold, 2**31 - 1)
    try:
        yield
    finally:
        mallopt(trim_threshold, 2 * largest)
        if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
            trim(0)


@contextlib.contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Inside this context, torch uses algorithms that return the same bits in every call, if that is wanted.

    On CUDA this needs a setting of cuBLAS in the environment, which has an effect only before its first call. An
    operation without a deterministic algorithm raises RuntimeError. On a CPU, training is deterministic in any case.
    """
    if not wanted:
        yield
        return
    cudnn: Any = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = cudnn.benchmark
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        cudnn.benchmark = benchmark
