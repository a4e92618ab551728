"""Scalar functions of a network, their values from its output, and their gradients in training and in use."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vpfb_core.dynamics.per_sample import sum_per_sample

Scalar = Callable[..., Tensor]  # (points (N, …), …, constants) → (N,)


def read_head(u: Tensor, output: Tensor) -> Tensor:
    """The scalar of a network, (N,), from its input and its output.

    An output of shape (N,) is the scalar. An output f of the shape of u is that of a denoising autoencoder, whose
    scalar is ½‖u − f‖² − ½‖u‖² = ½‖f‖² − u·f. In both cases an output of zero gives zero.
    """
    if output.ndim == 1:
        return output
    return sum_per_sample(output * (0.5 * output - u))


def value_and_gradients(
    function: Scalar, points: tuple[Tensor, ...], constants: tuple[Tensor | None, ...] = ()
) -> tuple[Tensor, ...]:
    """The values of a function, (N,), and its gradient in each of the points, from one backward pass.

    They are differentiable in the parameters of the function if autograd is enabled, and detached under
    `torch.no_grad`.

    Args:
        function: maps (*points, *constants) to one number per sample.
        points: the arguments in which the function is differentiated.
        constants: the other arguments.
    """
    if not torch.is_grad_enabled():
        # The tensors are copied, since tensors that were created under torch.inference_mode cannot be differentiated.
        with torch.inference_mode(False), torch.enable_grad():
            copies = [point.detach().clone().requires_grad_() for point in points]
            value = function(*copies, *(None if each is None else each.clone() for each in constants))
            gradients = torch.autograd.grad(value.sum(), copies)
        return value.detach(), *gradients
    if torch.compiler.is_compiling():
        return _traced(function, points, constants)
    leaves = [point if point.requires_grad else point.detach().requires_grad_() for point in points]
    value = function(*leaves, *constants)
    return value, *torch.autograd.grad(value.sum(), leaves, create_graph=True)


def _traced(function: Scalar, points: tuple[Tensor, ...], constants: tuple[Tensor | None, ...]) -> tuple[Tensor, ...]:
    """`value_and_gradients` with torch.func.grad, which torch.compile can trace, but which is slower without it."""

    def total(*points: Tensor) -> tuple[Tensor, Tensor]:
        value = function(*points, *constants)
        return value.sum(), value

    gradients, value = torch.func.grad(total, tuple(range(len(points))), has_aux=True)(*points)
    return value, *gradients
