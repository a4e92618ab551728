"""Group norm, scale and shift, and SiLU as one function whose first and second derivatives are written out.

A training step differentiates the network's gradient once more. torch computes the second derivative of a group norm or
a SiLU with dozens of operations over whole feature maps. Written out, each derivative is a sum of two or three maps
with one coefficient per channel. docs/second-derivatives.md derives them: (1), (2), ... below are its equations, and
the letters are the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from vpfb_core.networks.autograd_functions import keep_signature, keep_whole, traced_unprepared

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
        if torch.is_autocast_enabled(features.device.type):  # statistics need float32, as in torch's own group norm
            features, weight, bias = features.float(), weight.float(), bias.float()
        maps, weight, bias = features.flatten(2), weight[..., None], bias[..., None]
        if traced_unprepared():
            output = F.silu(weight * F.group_norm(maps, self.num_groups, eps=self.eps) + bias)
        else:
            output = norm_silu(maps, weight, bias, self.num_groups, self.eps)
        return output.unflatten(2, features.shape[2:])


# Below, x is a map (N, C, L) with L positions; w, b and all coefficients are (N, C, 1). With m and r the mean and one
# over the standard deviation of the group,
#
#     x̂ = r (x − m),    h = w x̂ + b,    y = silu(h).                                                                 (1)
#
# On a CPU, new memory for a map costs more than the arithmetic on it, so a map is overwritten once it is not needed.


@keep_whole
def norm_silu(x: Tensor, w: Tensor, b: Tensor, groups: int, eps: float) -> Tensor:
    """y from x, w and b."""
    output: Tensor = _NormSiLU.apply(x, w, b, groups, eps)[0]
    return output


class _NormSiLU(torch.autograd.Function):
    """(y, m, r) from x, w and b; only y can be differentiated."""

    @staticmethod
    @keep_signature
    def forward(x: Tensor, w: Tensor, b: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        n, channels, positions = x.shape
        maps = x[:, :, None] if x.device.type == "cpu" else x.contiguous()  # with four dimensions either layout works
        if n == 1:  # torch 2.13 recognises the layout of a single map only by the usual first stride
            maps = maps.as_strided(maps.shape, (channels * positions, *maps.stride()[1:]))
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
    def backward(ctx: Any, gy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        return *_Gradient.apply(gy, *ctx.saved_tensors, ctx.groups), None, None


class _Gradient(torch.autograd.Function):
    """The gradients gx, gw and gb of x, w and b from gy, that of y: (3) with q = k = gy silu′(h)."""

    @staticmethod
    @keep_signature
    def forward(
        gy: Tensor, x: Tensor, w: Tensor, b: Tensor, m: Tensor, r: Tensor, groups: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        norm = _Norm(x, m, r, groups)
        h = norm.affine(w, b)
        return norm.backward(silu_backward(gy, h, grad_input=h), w)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:  # noqa: ARG004
        *tensors, ctx.groups = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v: Tensor, vw: Tensor, vb: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of J = Σ v gx + Σ vw gw + Σ vb gb by gy, x, w and b.

        J_k is the derivative of J by k, and so on. J is first differentiated by k, x̂, r and w as if they were free
        (5–8); k, x̂ and r then lead down to the inputs (9–12).
        """
        gy, x, w, b, m, r = ctx.saved_tensors
        norm = _Norm(x, m, r, ctx.groups)
        h = norm.affine(w, b)
        k, scratch = silu_backward(gy, h), torch.empty_like(h)

        # Sums over positions, and means over the group. In these names x stands for x̂.
        sum_k, sum_v, sum_vk = _sum(k), _sum(v), _sum(torch.mul(v, k, out=scratch))
        sum_kx, sum_vx = norm.correlate(k, sum_k, scratch), norm.correlate(v, sum_v, scratch)
        mean_wk, mean_wkx = norm.mean_of(w * sum_k), norm.mean_of(w * sum_kx)
        mean_v, mean_vx, mean_wvk = norm.mean_of(sum_v), norm.mean_of(sum_vx), norm.mean_of(w * sum_vk)

        # (5): J_k = r w (v − ⟨v⟩) + c x̂ + vb, with x̂ = r x − r m.
        c = vw - r * w * mean_vx
        J_k = torch.addcmul(vb - r * w * mean_v - c * r * m, x, c * r).addcmul_(v, r * w)

        # (9): by gy, and by h, where silu″(h) = s (1 − s) (2 + h (1 − 2 s)) with s = sigmoid(h).
        J_gy = silu_backward(J_k, h)
        s = torch.sigmoid(h, out=scratch)
        h.addcmul_(h, s, value=-2).add_(2)
        J_h = sigmoid_backward(h, s, grad_input=h).mul_(J_k).mul_(gy)

        # (10): down from h to x, w and b.
        J_x, J_w, J_b = norm.backward(J_h, w, scratch)
        # (11), (12): down from x̂ by e = c k − r ⟨w k x̂⟩ v (6), and from r (7).
        mean_e = norm.mean_of(vw * sum_k) - r * (mean_wk * mean_vx + mean_v * mean_wkx)
        tilt = norm.mean_of(vw * sum_kx) - r * (mean_wk * mean_v + 3 * mean_wkx * mean_vx - mean_wvk)
        J_x.addcmul_(k, r * c).addcmul_(v, -r * r * mean_wkx)
        J_x.addcmul_(x, -r * r * tilt).add_(r * (r * m * tilt - mean_e))
        # (8): w stands in gx itself, too.
        J_w = J_w + r * (sum_vk - sum_k * mean_v - sum_kx * mean_vx)
        return J_gy, J_x, J_w, J_b, None, None, None


class _Norm:
    """x̂ = r (x − m) as a function of x. It is never stored: wherever it occurs, r x − r m takes its place."""

    def __init__(self, x: Tensor, m: Tensor, r: Tensor, groups: int) -> None:
        self.x, self.m, self.r, self.groups = x, m, r, groups

    def affine(self, w: Tensor, b: Tensor) -> Tensor:
        """h = w x̂ + b."""
        slope = w * self.r
        return torch.addcmul(b - slope * self.m, self.x, slope)

    def backward(self, q: Tensor, w: Tensor, scratch: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of x (in `scratch`), w and b from the gradient q of h, by (3)."""
        scratch = torch.empty_like(q) if scratch is None else scratch
        q_b = _sum(q)
        q_w = self.correlate(q, q_b, scratch)
        slope = -self.r * self.r * self.mean_of(w * q_w)  # of x
        constant = -self.r * self.mean_of(w * q_b) - slope * self.m
        q_x = torch.addcmul(constant, q, w * self.r, out=scratch).addcmul_(self.x, slope)
        return q_x, q_w, q_b

    def correlate(self, q: Tensor, sum_q: Tensor, scratch: Tensor) -> Tensor:
        """Σ q x̂ over positions, (N, C, 1); overwrites `scratch`."""
        return self.r * (_sum(torch.mul(q, self.x, out=scratch)) - self.m * sum_q)

    def mean_of(self, sums: Tensor) -> Tensor:
        """Sums over the positions of each channel → ⟨·⟩, the mean over the values of its group; both (N, C, 1)."""
        _, channels, positions = self.x.shape
        size = channels // self.groups
        means = sums.unflatten(1, (self.groups, size)).sum(2) / (size * positions)
        return means.repeat_interleave(size, 1)


def _sum(q: Tensor) -> Tensor:
    """Σ over positions, (N, C, 1)."""
    return q.sum(2, keepdim=True)
