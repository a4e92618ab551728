"""The field of Energy Matching: one scalar V(x) without time, whose descent leads from noise to data.

V is a function of x = a z, where z is data of unit variance and a = 0.5, the scale of the paper. On the straight path
x = (1 − t) x₀ + t a z from noise x₀ ~ N(0, I) the descent −∇V is trained to be the velocity a z − x₀. Near the data,
exp(−V/ε) is the density. The points of the field have the coordinates of z, so that its chains measure their steps in
units of ε/a².
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from vpfb_core.dynamics.ladder import Levels
from vpfb_core.dynamics.per_sample import squared_norm
from vpfb_core.machine.precision import full_float32, run_in, true_float32
from vpfb_core.methods.fields import Field
from vpfb_core.methods.scalar import read_head, value_and_gradients
from vpfb_core.networks.autograd_functions import tell_compiler

DATA_STD = 0.5  # a
CLEAN = 0.0  # the one noise level of the energy


class StaticEnergy(Field):
    """The energy V of a network, and its density exp(−V/ε).

    The network receives no noise level. An output f of the shape of x gives V = ½‖x − f‖², and an output of one number
    per sample gives V = ½‖x‖² plus that number. A network that returns zero therefore gives the descent −x, which is
    the best one at the noise. No network of vpfb has a parameter that only adds a constant to V.

    Args:
        network: maps (x (N, …), None, condition (N, G) or None) to the shape of x or to (N,).
        temperature: ε.
        has_null: whether the unconditional energy is trained.
        blur: the standard deviation of the noise on the data in z, whose density the energy has.
    """

    levels = Levels(CLEAN, CLEAN)
    flat = 2.0  # of V, between the values of the paper for MNIST and CIFAR-10

    def __init__(self, network: nn.Module, temperature: float, *, has_null: bool = True, blur: float = 0.0) -> None:
        super().__init__()
        self.network, self.temperature, self.has_null, self.blur = network, temperature, has_null, blur

    # --- in training --------------------------------------------------------------------------------------------------

    def value(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """V, (N,), at points z (N, …), which is differentiable if autograd is enabled."""
        x = DATA_STD * z
        return 0.5 * squared_norm(x) + read_head(x, run_in(self.autocast_dtype, self.network, x, None, condition))

    def descent(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """−∇V in x at points z (N, …), like z, which is differentiable in the parameters if autograd is enabled."""
        _, gradient = value_and_gradients(self.value, (z,), (condition,))
        return -gradient / DATA_STD

    forward = descent  # torch.compile compiles `forward`

    @contextlib.contextmanager
    def measuring(self) -> Iterator[None]:
        """Inside this context, values are comparable: they have no dropout, no autocast and no TF32."""
        training = self.training
        self.eval()
        try:
            with full_float32(self, next(self.parameters()).device):
                yield
        finally:
            self.train(training)

    def compile(self, *args: Any, **settings: Any) -> None:
        tell_compiler()
        super().compile(*args, **settings)

    # --- in use -------------------------------------------------------------------------------------------------------

    def scales(self, level: float) -> tuple[float, float]:
        """The point t z + (1 − t) x₀/a of the straight path; t z is data, and the level is (1 − t)/(a t)."""
        if math.isinf(level):
            return 0.0, 1 / DATA_STD
        t = 1 / (1 + DATA_STD * level)
        return t, t * level

    def chain_variance(self, level: float) -> float:  # noqa: ARG002
        """ε/a², in whose units the descent of V is dz/dt = variance · score and steps of chains are steps of t."""
        return self.temperature / DATA_STD**2

    def energy_and_score(
        self, x: Tensor, level: float = CLEAN, condition: Tensor | None = None  # noqa: ARG002
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        with torch.no_grad():
            value, gradient = value_and_gradients(self.value, (x,), (condition,))
        return value / self.temperature, -gradient / self.temperature

    def hessian_product(self, x: Tensor, level: float, direction: Tensor) -> Tensor:  # noqa: ARG002
        with torch.inference_mode(False), torch.enable_grad(), true_float32(x.device):
            x, direction = x.detach().clone().requires_grad_(), direction.clone()
            _, gradient = value_and_gradients(self.value, (x,), (None,))
            (product,) = torch.autograd.grad((gradient * direction).sum(), x)
        return product / self.temperature

    def energy(self, x: Tensor, level: float = CLEAN, condition: Tensor | None = None) -> Tensor:  # noqa: ARG002
        with torch.no_grad():
            return self.value(x, condition) / self.temperature
