"""The private functions of torch that vpfb uses, and what breaks where torch takes one away."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor

from vpfb_core.networks.convolution import Conv2d
from vpfb_core.training import ema


def test_the_moving_average_has_its_fused_operation() -> None:
    """Without `torch._foreach_lerp_`, no training step updates its averaged weights."""
    average, weights = [torch.zeros(2)], [torch.ones(2)]
    ema.update(average, weights, 2, 0.0)
    assert torch.equal(average[0], torch.full((2,), 0.5))


def test_the_signature_of_every_function_is_kept() -> None:
    """Otherwise each call of a layer constructs its signature anew, before torch binds the arguments to it."""
    functions = [each for each in torch.autograd.Function.__subclasses__() if each.__module__.startswith("vpfb_core")]
    assert len(functions) >= 4
    for function in functions:
        assert inspect.signature(function.forward) is inspect.signature(function.forward), function


def test_the_gradient_of_an_image_leaves_out_that_of_the_weights() -> None:
    """Without `torch._C._will_engine_execute_node`, convolutions compute gradients that nobody needs."""
    asked: list[bool] = []
    layer, image = Conv2d(1, 1, 3, padding=1), torch.ones(1, 1, 4, 4, requires_grad=True)

    def look(gradient: Tensor) -> None:
        del gradient
        assert output.grad_fn is not None
        for node, _ in output.grad_fn.next_functions[:2]:  # of the image and of the weights
            asked.append(torch._C._will_engine_execute_node(node))

    output = layer(2 * image)
    output.register_hook(look)
    torch.autograd.grad(output.sum(), image)
    assert asked == [True, False]
