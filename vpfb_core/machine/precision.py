"""The precision of computations: bf16 in training where it pays, true float32 for energies, float64 for sums.

By default cuDNN computes convolutions of float32 tensors in TF32, which keeps 10 bits of the mantissa. That is accurate
enough for training and sampling, but not for energies, since near the data an error of the network is multiplied by up
to 500.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

Function = TypeVar("Function", bound=Callable[..., Any])

TF32_DEVICES = ("cuda",)  # the types of devices that compute in TF32

# The settings belong to the process and not to a thread. The first context that is entered saves and changes them, and
# the last one that is left restores them.
_lock = threading.Lock()
_open_contexts = 0
_saved: list[str] = []


@contextlib.contextmanager
def true_float32(device: torch.device) -> Iterator[None]:
    """Inside this context, convolutions and matrix products of float32 tensors on a device do not use TF32."""
    if device.type not in TF32_DEVICES:
        yield
        return
    _enter()
    try:
        yield
    finally:
        _leave()


def in_true_float32(function: Function) -> Function:
    """Run a method (self, x, ...) in `true_float32` on the device of x."""

    @functools.wraps(function)
    def wrapper(self: Any, x: Tensor, *args: Any, **settings: Any) -> Any:
        with true_float32(x.device):
            return function(self, x, *args, **settings)

    return wrapper  # type: ignore[return-value]


@contextlib.contextmanager
def float32_by_default() -> Iterator[None]:
    """Inside this context, new tensors are float32, if the program has set another default dtype for the process."""
    before = torch.get_default_dtype()
    if before == torch.float32:
        yield
        return
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def full_float32(field: Any, device: torch.device) -> Iterator[None]:
    """Inside this context, a field or a potential computes without autocast and, on a device, without TF32.

    Its attribute `autocast_dtype` is the dtype in which its network runs (`run_in`).
    """
    dtype, field.autocast_dtype = field.autocast_dtype, None
    try:
        with true_float32(device):
            yield
    finally:
        field.autocast_dtype = dtype


def run_in(dtype: torch.dtype | None, network: Callable[..., Tensor], x: Tensor, *inputs: Tensor | None) -> Tensor:
    """The output of a network at x under autocast to a dtype, as float32; None runs the network as it is."""
    if dtype is None:
        return network(x, *inputs)
    with torch.autocast(x.device.type, dtype=dtype):
        return network(x, *inputs).float()


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the device multiplies matrices of bf16 with units of its own, several times as fast as those of float32.

    These are recent GPUs, and CPUs with AMX (Intel, from 2023 on).
    """
    if device.type == "cuda":
        return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and bool(torch.cpu.get_capabilities().get("amx_bf16"))


def exact_device(device: torch.device) -> torch.device:
    """The device, or the CPU in place of one that cannot compute in float64. Only this function knows which cannot."""
    return torch.device("cpu") if device.type == "mps" else device


def exact(x: Tensor) -> Tensor:
    """The values in float64, on the CPU if their device does not have float64."""
    return x.to(exact_device(x.device)).double()  # in this order, since such a device does not convert them either


def sum_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which values of x are summed: float64, or that of x where the device does not have it."""
    return torch.float64 if exact_device(x.device) == x.device else x.dtype


def _enter() -> None:
    global _open_contexts
    with _lock:
        if not _open_contexts:
            _saved[:] = [switch.fp32_precision for switch in _switches()]
            _set(["ieee"] * len(_saved))
        _open_contexts += 1


def _leave() -> None:
    global _open_contexts
    with _lock:
        _open_contexts -= 1
        if not _open_contexts:
            _set(_saved)


def _switches() -> tuple[Any, ...]:
    """The objects of torch whose `fp32_precision` allows TF32."""
    cudnn: Any = torch.backends.cudnn
    return cudnn.conv, torch.backends.cuda.matmul


def _set(values: list[str]) -> None:
    for switch, value in zip(_switches(), values, strict=True):
        if switch.fp32_precision != value:
            switch.fp32_precision = value
