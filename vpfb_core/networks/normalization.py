"""Group norm, scale and shift, and SiLU as one function whose first and second derivatives are written out.

A training step differentiates the network's gradient once more. torch answers the second derivative of a group norm or
a SiLU with dozens of operations over whole feature maps, which take about half of the step. Written out, each
derivative is a sum of two or three maps with one coefficient a channel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from vpfb_core.networks.compiling import keep_whole, traced_unprepared

silu_backward, sigmoid_backward = torch.ops.aten.silu_backward, torch.ops.aten.sigmoid_backward


class NormSiLU(nn.GroupNorm):
    """silu((1 + scale) · norm(features) + shift), `norm` being the group norm with this module's parameters.

    Differentiable twice; a third derivative is an error.
    """

    def forward(self, features: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        """Features (N, C, H, W), scale and shift (N, C) or both None → (N, C, H, W)."""
        weight, bias = self.weight.expand(len(features), -1), self.bias.expand(len(features), -1)
        if scale is not None and shift is not None:
            weight, bias = weight * (1 + scale), torch.addcmul(shift, bias, 1 + scale)
        if torch.is_autocast_enabled(features.device.type):  # statistics want float32, as in torch's own group norm
            features, weight, bias = features.float(), weight.float(), bias.float()
        maps, weight, bias = features.flatten(2), weight[..., None], bias[..., None]
        if traced_unprepared():
            output = F.silu(weight * F.group_norm(maps, self.num_groups, eps=self.eps) + bias)
        else:
            output = norm_silu(maps, weight, bias, self.num_groups, self.eps)
        return output.unflatten(2, features.shape[2:])


# Below, x is a map (N, C, L) with L positions; w, b and all coefficients are (N, C, 1). With m and r the mean and one
# over the standard deviation of x's group:
#
#     x̂ = r (x − m),    h = w x̂ + b,    y = silu(h)
#
# Fresh memory for a map costs a CPU more than what is computed in it, so maps are overwritten once they are not needed.


@keep_whole
def norm_silu(x: Tensor, w: Tensor, b: Tensor, groups: int, eps: float) -> Tensor:
    """y from x, w and b."""
    output: Tensor = _NormSiLU.apply(x, w, b, groups, eps)[0]
    return output


class _NormSiLU(torch.autograd.Function):
    """y from x, w and b; beside it m and r."""

    @staticmethod
    def forward(x: Tensor, w: Tensor, b: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        n, channels, positions = x.shape
        maps = x[:, :, None] if x.device.type == "cpu" else x.contiguous()  # of four dimensions it takes either layout
        normal, m, r = torch.native_group_norm(maps, None, None, n, channels, positions, groups, eps)
        m, r = (value.repeat_interleave(channels // groups, 1)[..., None] for value in (m, r))
        return F.silu(normal.view_as(x).mul_(w).add_(b), inplace=True), m, r

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, w, b, ctx.groups, _ = inputs
        _, m, r = output
        ctx.mark_non_differentiable(m, r)
        ctx.save_for_backward(x, w, b, m, r)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        return *_Gradient.apply(gradient, *ctx.saved_tensors, ctx.groups), None, None


class _Gradient(torch.autograd.Function):
    """The gradients of x, w and b from that of y. With k = gradient · silu′(h), that of h:

    gw = Σ k x̂ and gb = Σ k over positions, and gx = r [w k − mean(w k) − x̂ mean(w k x̂)], means over the group.
    """

    @staticmethod
    def forward(
        gradient: Tensor, x: Tensor, w: Tensor, b: Tensor, m: Tensor, r: Tensor, groups: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        norm = _Norm(x, m, r, groups)
        h = norm.affine(w, b)
        return norm.backward(silu_backward(gradient, h, grad_input=h), w)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:  # noqa: ARG004
        *tensors, ctx.groups = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v: Tensor, vw: Tensor, vb: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of J = Σ v gx + Σ vw gw + Σ vb gb.

        J is first differentiated by k, x̂ and r as if they were free; these then lead down to the inputs.
        """
        gradient, x, w, b, m, r = ctx.saved_tensors
        norm = _Norm(x, m, r, ctx.groups)
        h = norm.affine(w, b)
        k, scratch = silu_backward(gradient, h), torch.empty_like(h)

        sum_k, sum_v, sum_vk = _sum(k), _sum(v), _sum(torch.mul(v, k, out=scratch))
        sum_kx, sum_vx = norm.correlate(k, sum_k, scratch), norm.correlate(v, sum_v, scratch)  # with x̂
        mean_k, mean_kx = norm.mean_of(w * sum_k), norm.mean_of(w * sum_kx)  # over the group: of w k, of w k x̂
        mean_v, mean_vx, mean_vk = norm.mean_of(sum_v), norm.mean_of(sum_vx), norm.mean_of(w * sum_vk)

        # By k: r w (v − mean v − x̂ mean(v x̂)) + vw x̂ + vb.
        along_x = vw - r * w * mean_vx
        to_k = torch.addcmul(vb - r * w * mean_v - along_x * r * m, x, along_x * r).addcmul_(v, r * w)
        to_gradient = silu_backward(to_k, h)
        # By h: to_k · gradient · silu″(h) with silu″ = s (1 − s) (2 + h (1 − 2 s)) and s = sigmoid(h).
        s = torch.sigmoid(h, out=scratch)
        h.addcmul_(h, s, value=-2).add_(2)
        to_h = sigmoid_backward(h, s, grad_input=h).mul_(to_k).mul_(gradient)

        # Down to x through h, through x̂ (J has by x̂ the gradient along_x k − r v mean(w k x̂)), and through r.
        to_x, to_w, to_b = norm.backward(to_h, w, scratch)
        shift = norm.mean_of(vw * sum_k) - r * (mean_k * mean_vx + mean_v * mean_kx)
        tilt = norm.mean_of(vw * sum_kx) - r * (mean_k * mean_v + 3 * mean_kx * mean_vx - mean_vk)
        to_x.addcmul_(k, r * along_x).addcmul_(v, -r * r * mean_kx)
        to_x.addcmul_(x, -r * r * tilt).add_(r * (r * m * tilt - shift))
        to_w = to_w + r * (sum_vk - sum_k * mean_v - sum_kx * mean_vx)
        return to_gradient, to_x, to_w, to_b, None, None, None


class _Norm:
    """x̂ = r (x − m) as a function of x."""

    def __init__(self, x: Tensor, m: Tensor, r: Tensor, groups: int) -> None:
        self.x, self.m, self.r, self.groups = x, m, r, groups

    def affine(self, w: Tensor, b: Tensor) -> Tensor:
        """w x̂ + b."""
        slope = w * self.r
        return torch.addcmul(b - slope * self.m, self.x, slope)

    def backward(self, to_h: Tensor, w: Tensor, scratch: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of x (in `scratch`), w and b from that of h = w x̂ + b."""
        scratch = torch.empty_like(to_h) if scratch is None else scratch
        to_b = _sum(to_h)
        to_w = self.correlate(to_h, to_b, scratch)
        slope = -self.r * self.r * self.mean_of(w * to_w)  # of x
        constant = -self.r * self.mean_of(w * to_b) - slope * self.m
        to_x = torch.addcmul(constant, to_h, w * self.r, out=scratch).addcmul_(self.x, slope)
        return to_x, to_w, to_b

    def correlate(self, y: Tensor, sum_y: Tensor, scratch: Tensor) -> Tensor:
        """Σ y x̂ over positions, (N, C, 1); overwrites `scratch`."""
        return self.r * (_sum(torch.mul(y, self.x, out=scratch)) - self.m * sum_y)

    def mean_of(self, sums: Tensor) -> Tensor:
        """Sums over the positions of each channel → the mean over its group's values; both (N, C, 1)."""
        _, channels, positions = self.x.shape
        size = channels // self.groups
        means = sums.unflatten(1, (self.groups, size)).sum(2) / (size * positions)
        return means.repeat_interleave(size, 1)


def _sum(x: Tensor) -> Tensor:
    """Σ over positions, (N, C, 1)."""
    return x.sum(2, keepdim=True)
