"""A GPU that is only pretended: tensors that say they are on a GPU, and compute on the CPU.

`pretend` gives torch a device of type "cuda" or "mps" for the time of a test. What would be an error on a GPU is one
here: tensors of two devices in one operation, a generator of another device, reading a tensor as an array, and float64
where the device is MPS. Where a GPU would let the host wait, the wait is recorded with its place in the code. Values
are real, so that results can be compared with those of the CPU.

Only functions that are called from Python are replaced; a device of this type that torch itself came to see would be an
error at once, since there is none.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo  # torch imports it when an optimiser is made, which must not happen while torch is changed
from torch import Tensor
from torch.utils._mode_utils import no_dispatch

CODE = "vpfb_core"  # waits are attributed to the innermost function of this package
FACTORIES = (
    "arange", "as_tensor", "empty", "empty_like", "eye", "full", "full_like", "linspace", "ones", "ones_like", "rand",
    "randint", "randn", "randperm", "tensor", "zeros", "zeros_like",
)  # fmt: skip
COPYING = ("as_tensor", "tensor")  # of them, those that copy from the host
WAITING = (  # operations whose result the host must know: a number, or the size of another tensor
    "_local_scalar_dense", "bincount", "equal", "masked_select", "nonzero", "_unique2", "unique_dim",
    "unique_consecutive", "_linalg_eigh",
)  # fmt: skip
INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")
ALLOWED_ON_HOST = ("copy_", *INDEXING)  # these copy what is on the host


class PretendedGPU:
    """The pretended device, and what the host has waited for.

    Attributes:
        type: "cuda" or "mps".
        name: of the device, as people type it.
        waited: the places where the host waited, since `waits` was entered.
    """

    def __init__(self, type: str) -> None:
        self.type, self.name = type, "cuda:0" if type == "cuda" else type
        self.device = torch.device(self.name)
        self.waited: list[str] = []

    @contextmanager
    def waits(self) -> Iterator[list[str]]:
        """A list of the places where the host waits in this context, such as "langevin._draws: copy to the device"."""
        self.waited, waited = [], self.waited
        try:
            yield self.waited
        finally:
            self.waited = waited

    def wait(self, reason: str) -> None:
        """Record that the host waits for the device."""
        frame, place = sys._getframe(1), "a test"
        while frame is not None:
            path = Path(frame.f_code.co_filename)
            if CODE in path.parts:
                place = f"{path.stem}.{frame.f_code.co_name}"
                break
            frame = frame.f_back  # type: ignore[assignment]
        self.waited.append(f"{place}: {reason}")

    def is_here(self, device: Any) -> bool:
        """Whether a device, or its name, is the pretended one."""
        return device is not None and torch.device(device).type == self.type

    def holds(self, value: Any) -> bool:
        """Whether a value is a tensor on the pretended device."""
        return isinstance(value, OnGPU)

    def put(self, value: Tensor) -> OnGPU:
        """A tensor of the CPU as one of this device."""
        if self.type == "mps" and value.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")
        return OnGPU(value, self)


class OnGPU(torch.Tensor):
    """A tensor that says it is on the pretended device. To torch itself it is a tensor of the CPU."""

    held: Tensor
    gpu: PretendedGPU

    @staticmethod
    def __new__(cls, inner: Tensor, gpu: PretendedGPU) -> OnGPU:
        made = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            layout=inner.layout, device=inner.device,
        )  # fmt: skip
        made.held, made.gpu = inner, gpu
        return made

    def __init__(self, inner: Tensor, gpu: PretendedGPU) -> None: ...

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, _types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        outer: dict[int, OnGPU] = {}  # by the identity of what is inside
        on_cpu: list[Tensor] = []

        def inside(value: Any) -> Any:
            if isinstance(value, OnGPU):
                outer[id(value.held)] = value
                return value.held
            if isinstance(value, list | tuple):
                return type(value)(map(inside, value))
            if isinstance(value, Tensor):
                on_cpu.append(value)
            return value

        inner_args, kwargs = inside(args), {} if kwargs is None else kwargs
        inner_kwargs = {key: inside(value) for key, value in kwargs.items()}
        gpu = next(iter(outer.values())).gpu
        _check(gpu, func, args, kwargs, on_cpu)
        result = func(*inner_args, **inner_kwargs)
        if torch.Tag.inplace_view in func.tags:  # such as `unsqueeze_`: what is outside takes the same shape
            with no_dispatch():
                func(*args, **kwargs)

        def back(value: Any) -> Any:  # what an operation changes in place is returned as it came
            if isinstance(value, Tensor):
                if id(value) in outer:
                    return outer[id(value)]
                return value if any(value is each for each in on_cpu) else gpu.put(value)
            return type(value)(map(back, value)) if isinstance(value, list | tuple) else value

        return back(result)

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnGPU({self.held!r})"

    # What would read the memory of the tensor, or leave the device.

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.gpu.device

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        args, kwargs, device = _without_device(args, kwargs)
        if device is None or self.gpu.is_here(device):
            return super().to(*args, **kwargs) if args or kwargs.keys() - {"non_blocking"} else self
        if self.requires_grad:
            raise NotImplementedError("a tensor with a gradient is not copied to the host")
        self.gpu.wait("copy to the host")
        return self.held.clone().to(device, *args, **kwargs)

    def cpu(self) -> Tensor:  # type: ignore[override]
        return self.to("cpu")

    def tolist(self) -> Any:
        self.gpu.wait("tolist")
        return self.held.tolist()

    def numpy(self, *_args: Any, **_kwargs: Any) -> Any:
        raise TypeError(f"can't convert {self.gpu.name} device type tensor to numpy")

    __array__ = numpy

    def new_tensor(self, data: Any, **kwargs: Any) -> Tensor:  # type: ignore[override]
        self.gpu.wait("copy to the device")
        return self.gpu.put(self.held.new_tensor(data, **kwargs))


class GPUGenerator(torch.Generator):
    """A generator of the pretended device."""

    @staticmethod
    def of(gpu: PretendedGPU) -> type[torch.Generator]:
        """What stands for `torch.Generator`: a class that makes generators of either device."""
        real = torch.Generator

        class EitherGenerator(real):  # type: ignore[misc,valid-type]
            def __new__(cls, device: Any = "cpu") -> torch.Generator:  # type: ignore[misc]
                return GPUGenerator() if gpu.is_here(device) else real(device)

        return EitherGenerator


@contextmanager
def pretend(type: str, patch: pytest.MonkeyPatch) -> Iterator[PretendedGPU]:
    """Inside this context, torch has one GPU of type "cuda" or "mps"."""
    gpu = PretendedGPU(type)
    replaces_parameters = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # parameters of the CPU cannot become others
    for name in FACTORIES:
        patch.setattr(torch, name, _factory(gpu, name))
    to_cpu, autocast = torch.Tensor.to, torch.autocast

    def to(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if isinstance(self, OnGPU):
            return to_cpu(self, *args, **kwargs)
        args, kwargs, device = _without_device(args, kwargs)
        if not gpu.is_here(device):
            return to_cpu(self, *args, **kwargs) if device is None else to_cpu(self, device, *args, **kwargs)
        if self.requires_grad and torch.is_grad_enabled():
            raise NotImplementedError("a tensor with a gradient is not copied to the device")
        if not (kwargs.pop("non_blocking", False) and getattr(self, "is_page_locked", False)):
            gpu.wait("copy to the device")
        return gpu.put(to_cpu(self.detach(), *args, **kwargs).clone())

    def pin_memory(self: Tensor) -> Tensor:
        copy = self.clone()
        copy.is_page_locked = True  # type: ignore[attr-defined]
        return copy

    def here_or_cpu(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda device, *args, **kwargs: function("cpu" if gpu.is_here(device) else device, *args, **kwargs)

    patch.setattr(torch.Tensor, "to", to)
    patch.setattr(torch.Tensor, "pin_memory", pin_memory)
    patch.setattr(torch, "Generator", GPUGenerator.of(gpu))
    for name in ("is_autocast_enabled", "get_autocast_dtype"):
        patch.setattr(torch, name, here_or_cpu(getattr(torch, name)))
    patch.setattr(torch, "autocast", lambda device_type, **settings: here_or_cpu(autocast)(device_type, **settings))
    grouped: Any = torch._C._group_tensors_by_device_and_dtype  # asks torch itself for the device

    def grouped_here(tensors: Any, with_indices: bool = False) -> Any:
        return {
            (part[0][0].device, dtype): (part, indices)
            for (_, dtype), (part, indices) in grouped(tensors, with_indices).items()
        }

    patch.setattr(torch._C, "_group_tensors_by_device_and_dtype", grouped_here)
    default = torch.Generator(gpu.device)
    if type == "cuda":
        answers: Mapping[str, Any] = {
            "is_available": True, "device_count": 1, "get_device_capability": (8, 0), "max_memory_allocated": 2**20,
            "empty_cache": None, "synchronize": None, "is_current_stream_capturing": False,
        }  # fmt: skip
        patch.setattr(torch.cuda, "default_generators", (default,))
    else:
        answers = {"driver_allocated_memory": 2**20, "empty_cache": None, "get_rng_state": default.get_state()}
        answers |= {"set_rng_state": None, "manual_seed": None}
        patch.setattr(torch.backends.mps, "is_available", lambda: True)
    patch.setattr(torch.accelerator, "current_accelerator", lambda *_args, **_kwargs: None)
    for name, answer in answers.items():
        patch.setattr(getattr(torch, type), name, lambda *_args, answer=answer, **_kwargs: answer)
    try:
        yield gpu
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(replaces_parameters)


def _factory(gpu: PretendedGPU, name: str) -> Callable[..., Any]:
    real = getattr(torch, name)

    def make(*args: Any, **kwargs: Any) -> Any:
        device = kwargs.get("device")
        like = args[0] if args and isinstance(args[0], OnGPU) else None
        if device is None and like is not None and name != "tensor":
            device = gpu.device
        generator = kwargs.get("generator")
        if not gpu.is_here(device):
            if isinstance(generator, GPUGenerator):
                raise RuntimeError(f"Expected a 'cpu' device type for generator but found '{gpu.type}'")
            return real(*args, **kwargs)
        _check_generator(gpu, generator)
        kwargs = {key: value for key, value in kwargs.items() if key != "device"}
        if like is not None:
            return like.to(**kwargs) if name == "as_tensor" else real(*args, **kwargs)
        if name in COPYING:
            gpu.wait("copy to the device")
        made = real(*args, **kwargs)
        return gpu.put(made.detach().clone()).requires_grad_(made.requires_grad)

    return make


def _check(gpu: PretendedGPU, func: Any, args: Any, kwargs: Any, on_cpu: list[Tensor]) -> None:
    """Refuse what a GPU would refuse, and record where the host would wait for it.

    Args:
        func: an operation of torch.
        args, kwargs: its arguments.
        on_cpu: the tensors among them that are on the CPU.
    """
    name = func.overloadpacket.__name__
    if on_cpu and name in ALLOWED_ON_HOST:
        if name == "copy_" or any(each.ndim for each in on_cpu):
            to_host = name == "copy_" and not isinstance(args[0], OnGPU)
            gpu.wait("copy to the host" if to_host else "copy to the device")
    elif any((each.ndim or name in ("cat", "stack")) and not _is_missing_gradient(each) for each in on_cpu):
        raise RuntimeError(  # numbers may be on the CPU, except in a list
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"{gpu.name} and cpu! (in {func})"
        )
    if "generator" in kwargs:
        _check_generator(gpu, kwargs["generator"])
    if name in WAITING or (name == "repeat_interleave" and kwargs.get("output_size") is None):
        gpu.wait("item" if name == "_local_scalar_dense" else name)
    if name in INDEXING and any(each is not None and each.dtype == torch.bool for each in args[1]):
        if name != "index" and args[2].numel() == 1:  # one number is written with masked_fill
            return
        gpu.wait("indexing by a mask")


def _check_generator(gpu: PretendedGPU, generator: Any) -> None:
    if generator is not None and not isinstance(generator, GPUGenerator):
        raise RuntimeError(f"Expected a '{gpu.type}' device type for generator but found 'cpu'")


def _is_missing_gradient(value: Tensor) -> bool:
    """Whether a tensor may be the zeros that a backward pass fills in for a gradient that nothing depends on.

    torch itself makes them where it takes the other tensors to be, on the CPU.
    """
    return torch._C._current_graph_task_id() >= 0 and not value.any()


def _without_device(args: Any, kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
    """The arguments of `Tensor.to` without the device, and the device."""
    device, kept = kwargs.get("device"), []
    kwargs = {key: value for key, value in kwargs.items() if key != "device"}
    for arg in args:
        if isinstance(arg, Tensor):
            device = arg.device
            kwargs["dtype"] = arg.dtype
        elif isinstance(arg, str | torch.device | int) and not isinstance(arg, bool):
            device = arg
        elif isinstance(arg, torch.dtype):
            kwargs["dtype"] = arg
        elif arg is not None:
            kept.append(arg)
    if kept:  # non_blocking and copy, by position
        kwargs |= dict(zip(("non_blocking", "copy"), kept, strict=False))
    return (), kwargs, device
