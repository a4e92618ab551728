"""Which device to compute on, and its memory."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import sys
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from vpfb_core.errors import ConfigError
from vpfb_core.machine.launch import place


def available_devices() -> list[str]:
    """The devices of this machine, best first, as `resolve_device` takes them."""
    devices = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    if torch.backends.mps.is_available():
        devices.append("mps")
    return [*devices, "cpu"]


def resolve_device(name: str = "auto") -> torch.device:
    """auto (CUDA, else MPS, else the CPU), cpu, cuda, cuda:N or mps → a device that is there.

    Where several processes of a job are on this machine, each takes the GPU of its own number.

    Raises:
        ConfigError: no such device here; it lists those that are.
    """
    devices, here = available_devices(), place()
    if here.count > 1 and "mps" in devices:  # it cannot exchange gradients
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
    """The tensor on the device; to a GPU without waiting for it."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def place_network(network: nn.Module, device: torch.device) -> None:
    """Move a network, in place; on the CPU the weights of its convolutions lie channels last, and maps follow them.

    There that takes a tenth off a training step and off a gradient; what is computed is the same but for rounding. On
    other devices the layout stays as it is.
    """
    network.to(device)
    if device.type == "cpu":
        network.to(memory_format=torch.channels_last)


def memory_of(device: torch.device) -> int:
    """Bytes that the device has, in use or not; on the CPU this process's part of half, since others use it too."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if device.type == "mps":
        return torch.mps.recommended_max_memory()
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2 // place().local_count


def memory_in_use(device: torch.device) -> int:
    """Peak bytes: allocated on a GPU, resident on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@contextlib.contextmanager
def keeping_freed_memory(device: torch.device) -> Iterator[None]:
    """Within, memory that the CPU frees is kept for the next tensor, where the C library is glibc.

    By default it gives large blocks back to the system, and a training step asks for them anew: getting the pages again
    takes as long as computing in them. At the end what is free is given back.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None or device.type != "cpu":
        yield
        return
    mmap_threshold, trim_threshold = -3, -1  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD in malloc.h
    mallopt(mmap_threshold, 2**25)  # the largest that it takes
    mallopt(trim_threshold, 2**31 - 1)
    try:
        yield
    finally:
        mallopt(mmap_threshold, 2**17)  # as they were
        mallopt(trim_threshold, 2**17)
        if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
            trim(0)
