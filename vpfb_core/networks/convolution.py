"""A convolution whose second derivative costs as much as its first.

A training step may differentiate the network's gradient once more. torch computes the second derivative of a
convolution with a kernel as large as the image, which can take longer than the rest of the step. But the backward pass
of a convolution is a transposed convolution. Its derivatives are a convolution and the gradient of a kernel, for which
every backend has fast routines. This module uses them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vpfb_core.networks.autograd_functions import keep_signature, keep_whole, traced_unprepared


class Conv2d(nn.Conv2d):
    """`nn.Conv2d` with one group and zero padding, differentiable any number of times at the cost of the first."""

    def forward(self, features: Tensor) -> Tensor:
        if traced_unprepared():
            return super().forward(features)
        weight, bias, padding = self.weight, self.bias, self.padding[0]
        assert isinstance(padding, int)  # "same" is not supported
        device = features.device.type
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
            features, weight, bias = features.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
        return convolution(features, weight, bias, self.stride[0], padding)


@keep_whole
def convolution(features: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    """`F.conv2d` with the derivatives of this module."""
    output: Tensor = _Convolution.apply(features, weight, bias, stride, padding)
    return output


class _Convolution(torch.autograd.Function):
    """features (N, C, H, W), weight (K, C, k, k), bias (K,) or None → (N, K, H', W')."""

    @staticmethod
    @keep_signature
    def forward(features: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
        return F.conv2d(features, weight, bias, stride, padding)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        features, weight, _, ctx.stride, ctx.padding = inputs
        ctx.shape = features.shape
        # Only the weight's gradient needs the features, and it is not computed outside training.
        ctx.save_for_backward(features if ctx.needs_input_grad[1] else None, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        features, weight = ctx.saved_tensors
        to_features = to_weight = to_bias = None
        if leads_to(ctx, 0):
            to_features = _Transposed.apply(gradient, weight, ctx.shape, ctx.stride, ctx.padding)
        if leads_to(ctx, 1):
            to_weight = _weight_gradient(features, gradient, weight, ctx.stride, ctx.padding)
        if leads_to(ctx, 2):
            to_bias = gradient.sum((0, 2, 3))
        return to_features, to_weight, to_bias, None, None


class _Transposed(torch.autograd.Function):
    """The backward pass of a convolution: gradient (N, K, H', W'), weight (K, C, k, k) → (N, C, H, W) = `shape`.

    It is linear in the gradient and in the weight. Its derivative with respect to the gradient is the convolution.
    """

    @staticmethod
    @keep_signature
    def forward(gradient: Tensor, weight: Tensor, shape: torch.Size, stride: int, padding: int) -> Tensor:
        features = gradient.new_empty(shape)  # only its shape is used
        return _backward(gradient, features, weight, stride, padding, (True, False, False))[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        gradient, weight, _, ctx.stride, ctx.padding = inputs
        ctx.save_for_backward(gradient, weight)

    @staticmethod
    def backward(ctx: Any, features: Tensor) -> tuple[Tensor | None, ...]:
        gradient, weight = ctx.saved_tensors
        to_gradient = to_weight = None
        if leads_to(ctx, 0):
            to_gradient = _Convolution.apply(features, weight, None, ctx.stride, ctx.padding)
        if leads_to(ctx, 1):
            to_weight = _weight_gradient(features, gradient, weight, ctx.stride, ctx.padding)
        return to_gradient, to_weight, None, None, None


def leads_to(ctx: Any, index: int) -> bool:
    """Whether the current backward pass needs the gradient of an input.

    `needs_input_grad` says whether any pass may need it: it is also true of the weight while only the gradient of the
    image is computed.

    Args:
        index: of the input. Inputs that are tensors must come before all others.
    """
    if not ctx.needs_input_grad[index]:
        return False
    try:
        wanted: bool = torch._C._will_engine_execute_node(ctx.next_functions[index][0])
    except RuntimeError:  # torch does not answer for a leaf that autograd.grad was called with
        return True
    return wanted


def _weight_gradient(features: Tensor, gradient: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """Σ over samples and positions of gradient ⊗ features, (K, C, k, k)."""
    return _backward(gradient, features, weight, stride, padding, (False, True, False))[1]


def _backward(
    gradient: Tensor, features: Tensor, weight: Tensor, stride: int, padding: int, mask: tuple[bool, bool, bool]
) -> tuple[Tensor, Tensor, Tensor]:
    strides, paddings = (stride, stride), (padding, padding)
    return torch.ops.aten.convolution_backward(
        gradient, features, weight, None, strides, paddings, (1, 1), False, (0, 0), 1, mask
    )
