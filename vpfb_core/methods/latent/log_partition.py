"""log Z of the joint energy, by annealed importance sampling from the model without f (Neal 2001)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from vpfb_core.dynamics.langevin import State, in_parts, metropolis_step
from vpfb_core.errors import ConfigError
from vpfb_core.machine import noise
from vpfb_core.machine.container import finite_number
from vpfb_core.methods.latent.joint_energy import LatentField
from vpfb_core.methods.latent.particles import fresh

CHAINS = 1000
TEMPERATURES = 60
STEPS = 2  # of MALA per temperature
STEPS_PER_CHAIN = TEMPERATURES * STEPS


@dataclass(frozen=True)
class LatentCalibration:
    """The constant of the free energy at the one level of the model.

    Attributes:
        level: the noise level.
        log_partition: log Z, in nats.
        error: its standard error.
        dimension: the number of values per datum.
    """

    level: float
    log_partition: float
    error: float
    dimension: int

    @property
    def quoted_level(self) -> float:
        return self.level

    def constant(self, level: float, condition: Sequence[int] | None = None) -> float:
        """−log Z."""
        if condition is not None and any(each >= 0 for each in condition):
            raise ConfigError("this model has no classes")
        if abs(level - self.level) > 1e-9 * self.level:
            raise ConfigError(f"level {level} is not {self.level}, the only one of this model")
        return -self.log_partition

    def require_shape(self, dimension: int, groups: int) -> None:
        if (dimension, groups) != (self.dimension, 0):
            raise ValueError(f"a calibration for {self.dimension} dimensions without classes")

    def knows(self, condition: Sequence[int]) -> bool:
        return all(each < 0 for each in condition)

    def describe(self, unit: float) -> list[dict[str, float | None]]:
        return [
            {
                "noise": self.level, "blur": self.level * unit, "constant": -self.log_partition, "error": self.error,
                "anchor_difference": None, "anchor_error": None,
            }
        ]  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> LatentCalibration:
        """The calibration that `to_dict` described.

        Raises:
            KeyError, ValueError: the document does not describe a calibration.
        """
        level, total, error = (finite_number(document[name]) for name in ("level", "log_partition", "error"))
        if type(document["dimension"]) is not int:
            raise ValueError("the dimension is a whole number")
        return cls(level, total, error, document["dimension"])


def log_partition(field: LatentField, seed: int, chains: int = CHAINS, batch_size: int = CHAINS) -> LatentCalibration:
    """log Z and its standard error.

    Args:
        field: the field.
        seed: the seed of the chains.
        chains: the number of chains.
        batch_size: the number of chains that are computed at once.
    """
    device = field.pool.device
    draws = noise.generator(seed, "log partition", device=device)
    x = fresh(field, chains, draws, batch_size)
    log_weights, free = torch.zeros(chains, device=device), torch.ones_like(x)
    eta = field.step_sizes.max().expand(chains)
    with torch.no_grad():
        for temperature in range(TEMPERATURES):
            tilts = [field.tilt(part) for part in x[:, : field.dimension].split(batch_size)]
            log_weights = log_weights + torch.cat(tilts) / TEMPERATURES
            target = in_parts(field.joint((temperature + 1) / TEMPERATURES), batch_size)
            now = State(x, *target(x))
            for _ in range(STEPS):
                xi = torch.randn(x.shape, generator=draws, device=device)
                uniform = torch.rand(chains, generator=draws, device=device)
                now, _, _ = metropolis_step(target, now, eta, xi, uniform, free)
            x = now.x
    total = log_weights.cpu().double()
    found = float(torch.logsumexp(total, 0)) - math.log(chains)
    ratios = (total - found).exp()  # whose mean is 1
    return LatentCalibration(field.level, found, float(ratios.std()) / math.sqrt(chains), field.dimension)
