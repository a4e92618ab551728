"""The layers with derivatives of their own: values against torch's layers, both derivatives against differences."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vpfb_core.networks.convolution import Conv2d
from vpfb_core.networks.normalization import NormSiLU, norm_silu

LAYOUTS = CONTIGUOUS, CHANNELS_LAST = torch.contiguous_format, torch.channels_last
USUAL = [(2, True, CONTIGUOUS), (1, True, CHANNELS_LAST), (4, True, CHANNELS_LAST), (2, False, CONTIGUOUS)]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=draws, dtype=torch.float64).requires_grad_()


def check_both_derivatives(function: Callable[..., Tensor], *inputs: Tensor) -> None:
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "size"), [(3, 1, 1, 5), (3, 2, 1, 5), (3, 2, 1, 6), (1, 1, 0, 3), (2, 3, 0, 7)]
)
@pytest.mark.parametrize("bias", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_derivatives_of_a_convolution_match_differences(
    kernel: int, stride: int, padding: int, size: int, bias: bool
) -> None:
    features, weight, shift = drawn(2, 2, size, size), drawn(2, 2, kernel, kernel, seed=1), drawn(2, seed=2)
    layer = Conv2d(2, 2, kernel, stride=stride, padding=padding, bias=bias)

    def function(features: Tensor, weight: Tensor, shift: Tensor) -> Tensor:
        parameters = {"weight": weight} | ({"bias": shift} if bias else {})
        return torch.func.functional_call(layer, parameters, (features,))

    inputs = (features, weight, shift) if bias else (features, weight, torch.zeros(2, dtype=torch.float64))
    check_both_derivatives(function, *inputs)
    expected = F.conv2d(features, weight, shift if bias else None, stride, padding)
    torch.testing.assert_close(function(*inputs), expected)


@pytest.mark.parametrize(
    ("groups", "modulated", "layout"),
    [
        pytest.param(groups, modulated, layout, marks=[] if (groups, modulated, layout) in USUAL else pytest.mark.slow)
        for groups, modulated, layout in product((1, 2, 4), (True, False), LAYOUTS)
    ],
)
def test_derivatives_of_a_norm_with_silu_match_differences(
    groups: int, modulated: bool, layout: torch.memory_format
) -> None:
    layer = NormSiLU(groups, 4)
    features = drawn(2, 4, 3, 2).detach().to(memory_format=layout).requires_grad_()
    weight, bias = drawn(4, seed=1), drawn(4, seed=2)
    scale, shift = drawn(2, 4, seed=3), drawn(2, 4, seed=4)

    def function(features: Tensor, weight: Tensor, bias: Tensor, *modulation: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (features, *modulation))

    inputs = (features, weight, bias, scale, shift) if modulated else (features, weight, bias)
    check_both_derivatives(function, *inputs)
    normal = F.group_norm(features, groups, weight, bias)
    expected = F.silu((1 + scale[..., None, None]) * normal + shift[..., None, None] if modulated else normal)
    torch.testing.assert_close(function(*inputs), expected)
    assert function(*inputs).is_contiguous(memory_format=layout), "or the next convolution would copy it"


def test_a_third_derivative_of_the_norm_is_an_error_not_a_wrong_number() -> None:
    x = drawn(1, 2, 2, 2)
    (first,) = torch.autograd.grad(NormSiLU(1, 2).double()(x).square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError):
        second.sum().backward()


@pytest.mark.parametrize("layer", [Conv2d(4, 8, 3, padding=1), NormSiLU(2, 4)])
def test_under_autocast_parameters_keep_float32_gradients(layer: nn.Module) -> None:
    features = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = layer(features)
    assert output.dtype == (torch.bfloat16 if isinstance(layer, Conv2d) else torch.float32)
    torch.testing.assert_close(output.float(), layer(features), atol=0.02, rtol=0.02)
    (gradient,) = torch.autograd.grad(output.float().square().sum(), features, create_graph=True)
    gradient.square().sum().backward()
    for parameter in layer.parameters():
        if parameter.grad is not None:
            assert parameter.grad.dtype == torch.float32
            assert parameter.grad.isfinite().all()


def test_layers_load_the_parameters_of_those_that_they_replace() -> None:
    for ours, theirs in ((Conv2d(2, 3, 3), nn.Conv2d(2, 3, 3)), (NormSiLU(1, 2), nn.GroupNorm(1, 2))):
        ours.load_state_dict(theirs.state_dict())
        assert ours.state_dict().keys() == theirs.state_dict().keys()


def test_a_single_map_has_the_strides_by_which_torch_knows_its_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch 2.13 refuses a map (1, C, 1, L) with channels last whose first stride is not C · L."""
    honest, seen = torch.native_group_norm, []

    def watched(maps: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
        seen.append(maps.stride())
        found: tuple[Tensor, Tensor, Tensor] = honest(maps, *args)
        return found

    monkeypatch.setattr(torch, "native_group_norm", watched)
    one, weight, bias = drawn(1, 8, 6), drawn(1, 8, 1, seed=1), drawn(1, 8, 1, seed=2)
    odd = one.detach().transpose(1, 2).contiguous().transpose(1, 2).as_strided((1, 8, 6), (8, 1, 8))
    torch.testing.assert_close(norm_silu(odd, weight, bias, 2, 1e-5), norm_silu(one, weight, bias, 2, 1e-5))
    assert [strides[0] for strides in seen] == [48, 48]
