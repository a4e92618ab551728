"""Which device to compute on."""

from __future__ import annotations

import os
import resource
import sys

import torch
from torch import Tensor

from vpfb_core.errors import ConfigError


def available_devices() -> list[str]:
    """The devices of this machine, best first, as `resolve_device` takes them."""
    devices = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    if torch.backends.mps.is_available():
        devices.append("mps")
    return [*devices, "cpu"]


def resolve_device(name: str = "auto") -> torch.device:
    """auto (CUDA, else MPS, else the CPU), cpu, cuda, cuda:N or mps → a device that is there.

    Raises:
        ConfigError: no such device here; it lists those that are.
    """
    devices = available_devices()
    if name == "auto":
        name = devices[0]
    elif name == "cuda":
        name = "cuda:0"
    if name not in devices:
        raise ConfigError(f"no device {name!r} on this machine", hint=f"devices here: {', '.join(devices)}")
    return torch.device(name)


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; to a GPU without waiting for it."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def memory_of(device: torch.device) -> int:
    """Bytes that the device has, in use or not; on the CPU half of the machine's, which others use too."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if device.type == "mps":
        return torch.mps.recommended_max_memory()
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def memory_in_use(device: torch.device) -> int:
    """Peak bytes: allocated on a GPU, resident on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
