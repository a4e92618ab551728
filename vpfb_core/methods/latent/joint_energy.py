"""The field of the latent method: one energy of a noised datum u and its code z.

With u = s x + c ε, where x is data of unit variance and s² + c² = 1,

    log p(u, z) = f(u) − ½‖z‖² − ‖u − s g(z)‖²/(2v) − ½ d log v − ½ (d + k) log 2π − log Z,    v = s² σ² + c².

Without f it is a normalised model: the decoder g explains u up to a deviation σ of the data and the noise. f changes
the density of u alone, so that the density of codes given u does not depend on it. Since v ≥ c², the decoder cannot
explain the noise. The network of f gets u in units of the noise, u/c: a noised density varies over this distance, and
a network whose input varies less than that learns the finest details last.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vpfb_core.dynamics.ladder import Levels
from vpfb_core.dynamics.langevin import Target
from vpfb_core.errors import ConfigError
from vpfb_core.machine.precision import true_float32
from vpfb_core.methods.fields import Field
from vpfb_core.methods.latent.posterior import marginal
from vpfb_core.methods.scalar import Scalar, value_and_gradients
from vpfb_core.networks.decoder import Decoder

FIRST_STEP = 0.01  # the first step sizes of the chains
LOG_2PI = math.log(2 * math.pi)


class LatentField(Field):
    """The joint energy at one noise level, and the particles that represent it.

    Points of the field are u in the shape of the data. `joint` takes states (u, z), flattened, (N, d + k).

    Attributes:
        pool: states from chains of the joint energy, (K, d + k).
        step_sizes: the step sizes of the chains of codes given data, and of the joint chains, (2,).
        pool_steps: how often states of the pool were moved, int64 (); 0 before there is a pool.
    """

    network: Decoder
    pool: Tensor
    step_sizes: Tensor
    pool_steps: Tensor

    def __init__(self, network: nn.Module, level: float, pool_size: int) -> None:
        super().__init__()
        if not isinstance(network, Decoder):
            raise ConfigError("this method trains the network decoder", hint="`network=decoder`")
        self.network, self.level = network, level
        self.levels = Levels(level, level)
        self.signal, self.noise = self.scales(level)
        self.dimension, self.codes = math.prod(network.shape), network.codes
        self.log_spread = nn.Parameter(torch.zeros(()))  # log σ²
        self.register_buffer("pool", torch.zeros(pool_size, self.dimension + self.codes))
        self.register_buffer("step_sizes", torch.full((2,), FIRST_STEP))
        self.register_buffer("pool_steps", torch.zeros((), dtype=torch.int64))

    def scales(self, level: float) -> tuple[float, float]:
        signal = 1 / math.sqrt(1 + level**2)
        return signal, level * signal if math.isfinite(level) else 1.0

    @property
    def variance(self) -> Tensor:
        """v, ()."""
        return self.signal**2 * self.log_spread.exp() + self.noise**2

    def tilt(self, u: Tensor) -> Tensor:
        """f at flattened points u (N, d), (N,), differentiable."""
        value: Tensor = self.network(u / self.noise)
        return value

    # --- the energy ---------------------------------------------------------------------------------------------------

    def log_coded(self, u: Tensor, z: Tensor) -> Tensor:
        """log p(u, z) without f and its log Z, (N,), differentiable. u is flattened, (N, d), and z is (N, k)."""
        v = self.variance
        squares = (u - self.signal * self.network.decode(z)).square().sum(1) / v + z.square().sum(1)
        return -0.5 * (squares + self.constant(v))

    def constant(self, variance: Tensor) -> Tensor:
        """d log v + (d + k) log 2π, ()."""
        return self.dimension * (variance.log() + LOG_2PI) + self.codes * LOG_2PI

    def joint(self, weight: float = 1.0) -> Target:
        """The target of chains of states. `weight` multiplies f."""

        def log_density(state: Tensor) -> Tensor:
            u, z = state.split([self.dimension, self.codes], 1)
            return weight * self.tilt(u) + self.log_coded(u, z)

        return _target(log_density)

    def given(self, u: Tensor) -> Target:
        """The target of chains of codes, given flattened points u (N, d)."""
        return _target(lambda z, u: self.log_coded(u, z), u)

    def tilt_gradient(self, u: Tensor) -> Tensor:
        """∇f at flattened points u (N, d), like u."""
        with torch.no_grad():
            return value_and_gradients(self.tilt, (u,))[1]

    def generate(self, z: Tensor, epsilon: Tensor) -> Tensor:
        """States (N, d + k) of the model without f, from standard normal codes (N, k) and noise (N, d)."""
        with torch.no_grad():
            return torch.cat([self.signal * self.network.decode(z) + self.variance.sqrt() * epsilon, z], 1)

    # --- in use -------------------------------------------------------------------------------------------------------

    def energy_and_score(self, x: Tensor, level: float, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The free energy −log ∫ p(u, z) dz − log Z and its negative gradient, by `posterior.marginal`."""
        del level, condition
        found = marginal(self, x.flatten(1))
        self.network.code_layer(found.code[..., None])
        return found.energy, found.score.reshape(x.shape)

    def extra_repr(self) -> str:
        return f"level={self.level}"


def _target(log_density: Scalar, *constants: Tensor) -> Target:
    """The energy and the score of a log-density of states and constants, in true float32."""

    def target(state: Tensor) -> tuple[Tensor, Tensor]:
        with true_float32(state.device):
            value, gradient = value_and_gradients(log_density, (state,), constants)
        return -value, gradient

    return target
