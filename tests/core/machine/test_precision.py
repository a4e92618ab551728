"""Tests of true float32, with TF32 emulated on the CPU."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pretended_gpu import pretend
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import vpfb_core as vpfb
from vpfb_core.dynamics.per_sample import squared_norm
from vpfb_core.machine import precision
from vpfb_core.methods import fields

CONVOLUTIONS = (torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default)
CPU = torch.device("cpu")


class EmulatedTF32(TorchDispatchMode):
    """Convolutions with inputs of 10 bits of mantissa, wherever torch allows TF32 to cuDNN."""

    def __torch_dispatch__(
        self, func: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in CONVOLUTIONS and convolutions().fp32_precision == "tf32":
            args = tuple(rounded(arg) if isinstance(arg, Tensor) else arg for arg in args)
        return func(*args, **(kwargs or {}))


def rounded(x: Tensor) -> Tensor:
    """x with the nearest mantissa of 10 bits."""
    mantissa, exponent = torch.frexp(x)
    return torch.ldexp((mantissa * 2**11).round() / 2**11, exponent)


def convolutions() -> Any:
    """The settings of torch for convolutions."""
    return precision._switches()[0]


@pytest.fixture
def cpu_has_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "TF32_DEVICES", ("cuda", "cpu"))
    assert convolutions().fp32_precision == "tf32"  # the default of torch


@pytest.fixture(scope="module")
def digits() -> vpfb.Model:
    return vpfb.load("digits", device="cpu")


def energies_of(field: Any, x: Tensor, level: float) -> dict[str, Callable[[], Tensor]]:
    return {
        "energy": lambda: field.energy(x, level),
        "energy_and_score": lambda: field.energy_and_score(x, level)[0],
        "energy_score_and_velocity": lambda: field.energy_score_and_velocity(x, level)[0],
    }


@pytest.mark.usefixtures("cpu_has_tf32")
@pytest.mark.parametrize("name", fields.ENERGIES)
def test_energies_are_the_same_where_convolutions_use_tf32(digits: vpfb.Model, name: str) -> None:
    field: Any = digits.field
    level = field.levels.lowest
    x = field.at_level(digits.standardise(vpfb.data.load("digits").images[:16]), level)
    expected = energies_of(field, x, level)[name]()
    with EmulatedTF32():
        found = energies_of(field, x, level)[name]()
        unprotected = getattr(type(field), name).__wrapped__(field, x, level)
    unprotected = unprotected if isinstance(unprotected, Tensor) else unprotected[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=0.05)
    assert float((unprotected - expected).abs().max()) > 0.2  # the emulation does what it should


@pytest.mark.usefixtures("cpu_has_tf32")
def test_log_densities_are_the_same_where_convolutions_use_tf32(digits: vpfb.Model) -> None:
    images = vpfb.data.load("digits").images[:4]
    expected = digits.log_density(images)
    with EmulatedTF32():
        torch.testing.assert_close(digits.log_density(images), expected, rtol=0, atol=0.05)


def test_every_energy_of_a_new_field_is_computed_in_true_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "TF32_DEVICES", ("cpu",))

    class Toy(fields.Field):
        def scales(self, level: float) -> tuple[float, float]:
            return 1.0, level

        def energy_and_score(self, x: Tensor, level: float, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:  # noqa: ARG002
            assert convolutions().fp32_precision == "ieee"
            return x.sum(1), x

    Toy().energy_and_score(torch.ones(2, 2), 1.0)
    Toy().energy(torch.ones(2, 2), 1.0)
    assert convolutions().fp32_precision == "tf32"


@pytest.mark.usefixtures("cpu_has_tf32")
def test_settings_of_torch_are_restored_after_the_last_of_several_threads_and_after_an_error() -> None:
    def settings() -> list[str]:
        return [switch.fp32_precision for switch in precision._switches()]

    before, entered, leave = settings(), threading.Event(), threading.Event()

    def other() -> None:
        with precision.true_float32(CPU):
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with pytest.raises(ZeroDivisionError), precision.true_float32(CPU):
        thread.start()
        entered.wait(10)
        raise ZeroDivisionError
    assert settings() == ["ieee"] * len(before)  # the other thread is still inside
    leave.set()
    thread.join()
    assert settings() == before
    assert torch.backends.cudnn.allow_tf32 is True


def test_nothing_changes_on_the_cpu() -> None:
    with precision.true_float32(CPU):
        assert convolutions().fp32_precision == "tf32"


def test_sums_over_dimensions_are_in_float64_except_on_mps() -> None:
    x = torch.full((1, 4097), 1.0)
    x[0, 0] = 2.0**13  # 2^26 + 4096 needs 27 bits; float32 would lose what is added to 2^26 singly
    assert squared_norm(x).item() == 2.0**26 + 4096
    assert precision.sum_dtype(torch.empty(1, device="meta")) == torch.float64


def test_exact_values_are_in_float64_and_on_the_cpu_where_the_device_is_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.tensor([1.5])
    assert precision.exact(x).dtype == torch.float64
    with pretend("mps", monkeypatch) as gpu:
        found = precision.exact(x.to(gpu.device))
        assert (found.dtype, found.device.type) == (torch.float64, "cpu")
        assert precision.sum_dtype(x.to(gpu.device)) == torch.float32
