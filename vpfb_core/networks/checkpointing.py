"""Activation checkpointing that a second derivative goes through: a block keeps its inputs and computes itself anew.

A training step differentiates the network's gradient once more. `torch.utils.checkpoint` forgets what the first
derivative needs and brings it back for the second, where it stays. Here the block and its pullback are two functions,
each the derivative of the other's kind, each keeping its inputs only; what lies between them exists for one block at a
time. The price is that a block is evaluated again for each of its three derivatives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Function = Callable[..., Tensor]


class Checkpointed(nn.Module):
    """A module of tensors → a tensor that can do without its activations; subclasses say what it computes."""

    checkpoint = False
    compute: Function

    def forward(self, *inputs: Tensor) -> Tensor:
        if not (self.checkpoint and torch.is_grad_enabled()):
            return self.compute(*inputs)
        output: Tensor = _Block.apply(_Replay(self, inputs), *inputs, *self.parameters())
        return output


def checkpoint_activations(network: nn.Module) -> None:
    """Let every block of a network forget its activations from now on."""
    for module in network.modules():
        if isinstance(module, Checkpointed):
            module.checkpoint = True


class _Compute(nn.Module):
    """`module.compute` as a module, which is what `functional_call` takes."""

    def __init__(self, module: Checkpointed) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.module.compute(*inputs)


class _Replay:
    """A module as a function of (inputs, parameters) that gives the same every time: same dropout, same precision."""

    def __init__(self, module: Checkpointed, inputs: tuple[Tensor, ...]) -> None:
        self.compute, self.inputs, self.device = _Compute(module), len(inputs), inputs[0].device
        self.names = [name for name, _ in self.compute.named_parameters()]
        autocast = torch.is_autocast_enabled(self.device.type)
        self.dtype = torch.get_autocast_dtype(self.device.type) if autocast else None
        self.random = self._generator().get_state() if module.training else None

    def __call__(self, *tensors: Tensor) -> Tensor:
        parameters = dict(zip(self.names, tensors[self.inputs :], strict=True))
        # A cache of casts would outlive the derivative that it was made in.
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None, cache_enabled=False):
            return torch.func.functional_call(self.compute, parameters, tensors[: self.inputs])

    def again(self, *tensors: Tensor) -> Tensor:
        """The same a second time, for its derivatives; the generator is left where it is."""
        if self.random is None:
            return self(*tensors)
        generator = self._generator()
        now = generator.get_state()
        generator.set_state(self.random)
        try:
            return self(*tensors)
        finally:
            generator.set_state(now)

    def _generator(self) -> torch.Generator:
        """The one that dropout draws from."""
        if self.device.type == "cuda":
            return torch.cuda.default_generators[self.device.index or 0]
        return torch.default_generator


class _Block(torch.autograd.Function):
    """function(*tensors)."""

    @staticmethod
    def forward(function: _Replay, *tensors: Tensor) -> Tensor:
        return function(*tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        ctx.function, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, *_Pullback.apply(ctx.function, gradient, *ctx.saved_tensors)


class _Pullback(torch.autograd.Function):
    """The gradients of tensors from that of function(*tensors)."""

    @staticmethod
    def forward(function: _Replay, gradient: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        return _pullback(function.again, gradient, *tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:  # noqa: ARG004
        ctx.function, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        function = ctx.function.again
        derivative: Any = torch.func.vjp(lambda *tensors: _pullback(function, *tensors), *ctx.saved_tensors)[1]
        return None, *derivative(gradients)


def _pullback(function: Function, gradient: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    return torch.func.vjp(function, *tensors)[1](gradient)
