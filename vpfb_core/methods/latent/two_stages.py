"""Training of a joint energy of data and codes by particles (after Tang et al. 2025, arXiv 2510.15447).

The gradient of the log-likelihood is the mean of ∇θ log p(u, z) over data with their codes, less its mean over the
model. Codes of the data are drawn by chains given the data, and a persistent pool of joint states represents the model.
In the first stage there is no f, and the model is normalised without a pool. The full text of the paper was not at
hand: the form of the energy, the stages and the rule of the step sizes are our own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vpfb_core.dynamics.langevin import in_parts, langevin
from vpfb_core.dynamics.ode import Solution, Status
from vpfb_core.dynamics.solver import Solver
from vpfb_core.errors import ConfigError
from vpfb_core.machine import noise
from vpfb_core.methods.base import Method, MethodSampling, MethodSettings
from vpfb_core.methods.latent.joint_energy import LatentField
from vpfb_core.methods.latent.log_partition import CHAINS, STEPS_PER_CHAIN, LatentCalibration, log_partition
from vpfb_core.methods.latent.particles import OF_POOL, Particles, begin_pool, from_pool, move
from vpfb_core.methods.latent.posterior import posterior
from vpfb_core.methods.step import Batch, DataShape, Loss, Moment, Validation
from vpfb_core.settings import setting

POOL_VALUES = 2**23  # the largest number of values in the default pool
# Values of the pool that are moved per training step, and at least as many states as there are data. Small states cost
# little, and a pool that moves as a whole follows the energy sooner.
MOVED_VALUES = 2**13
SAMPLING_STEPS = 200  # of the joint chain of a sample
DENOISING_STEPS = 30  # of the chain of codes over which the noise of a sample is removed
REFRESHING_STEPS = 50  # of the pool with the averaged weights, at the end of a run
JOINT_STEPS = 60  # steps of a joint chain that cost as much as `held_out` does per datum
FEWEST_CHAINS = 32  # with which log Z is estimated
SPREAD_RATE = 4.0  # the factor of the learning rate of log σ² in the first stage, in which it has a long way to go
DECODER_RATE = 0.1  # the factor of the learning rate of everything but f in the second stage
# The difference between pool and data, in nats, beyond which the pool has to catch up first.
MARGIN, MARGIN_PER_DIMENSION = 2.0, 0.3
MALA = "mala"


@dataclass(frozen=True)
class LatentSettings(MethodSettings):
    """The settings of both stages."""

    level: float | None = setting(None, help="Ratio of noise to data at which the model is learned.", low=0.01, high=2)
    decoder_share: float | None = setting(
        None, help="Share of the run that trains the decoder alone, at its beginning.", low=0, high=1
    )
    tilt_rate: float | None = setting(
        None, help="Learning rate of the energy of the data after that, as a share of that of the run.", low=0, high=10
    )
    pool: int | None = setting(None, help="States in the pool that represents the model.", low=2, high=2**20)
    pool_steps: int = setting(4, help="Steps per training step of the states of the pool.", low=1, high=1000)
    code_steps: int = setting(4, help="Steps per training step of the codes of the data.", low=1, high=1000)


@dataclass(frozen=True)
class LatentSampling(MethodSampling):
    """The options of sampling."""

    start: str = setting(
        "pool", help="Where the chains of samples begin: in the pool, or fresh from the decoder.",
        choices=("pool", "fresh"),
    )  # fmt: skip


class Latent(Method):
    """Training of a joint energy of data and codes."""

    name: ClassVar[str] = "latent"
    Settings = LatentSettings
    SamplingOptions = LatentSampling
    optimiser: ClassVar[Mapping[str, Any]] = {"algorithm": "adam", "batch_size": 128, "lr": 2e-3, "warmup": 100}
    settings: LatentSettings

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self._share = 0.5 if settings.decoder_share is None else settings.decoder_share
        self._tilt_rate = 0.1 if settings.tilt_rate is None else settings.tilt_rate
        self._particles = Particles()
        self._has_pool = False  # whether the pool of the field is known to be filled

    @classmethod
    def defaults(cls, data: DataShape, asked: Mapping[str, Any]) -> dict[str, Any]:
        image = len(data.shape) > 1
        return super().defaults(data, asked) | {
            "level": 0.3 if image else 0.15,
            "decoder_share": 0.5 if image else 0.2,
            "tilt_rate": 0.1 if image else 1.0,
            "pool": max(128, min(1024, POOL_VALUES // data.dimension)),
        }

    def check(self, data: DataShape, *, scalar: bool, decay: float, processes: int) -> None:
        del scalar, decay
        if data.classes:
            raise ConfigError(
                "the method latent trains without classes", hint="leave out `conditional`, or use another method"
            )
        if processes > 1:
            raise ConfigError("the particles of the method latent cannot be divided", hint="train in one process")

    def notes(self) -> tuple[str, ...]:
        return (f"the first {self._share:.0%} of the run trains the decoder alone",)

    def phase(self, fraction: float) -> int:
        return int(fraction >= self._share)

    def rate(self, parameter: str, phase: int) -> float:
        """In the second stage everything but f learns so slowly that the codes can follow."""
        if phase:
            return self._tilt_rate if parameter.startswith("network.tilt") else DECODER_RATE
        return SPREAD_RATE if parameter == "log_spread" else 1.0

    @property
    def divisible(self) -> bool:
        return False

    def field(self, network: nn.Module, data: DataShape) -> LatentField:
        del data
        return LatentField(network, self.settings.level or 0.3, self.settings.pool or 1024)

    # --- training -----------------------------------------------------------------------------------------------------

    def losses(self, field: LatentField, batch: Batch, at: Moment) -> Iterable[Loss]:
        z = batch.data.flatten(1)
        epsilon = torch.randn(z.shape, generator=at.generator("noise"), device=z.device)
        u = field.signal * z + field.noise * epsilon
        joint = self.phase(at.fraction) > 0
        if not joint:
            field.pool_steps.zero_()  # a pool of an earlier run would not be one of this decoder
            codes = self._particles.codes_of(field, batch, u, at, self.settings.code_steps, bound=False)

            def fit(_rows: slice) -> Tensor:
                # f has no part in the first stage, and its weights get gradients of zero.
                return 0 * field.tilt(u).mean() - field.log_coded(u, codes).mean()

            yield Loss("decoder", fit, 1 / field.dimension, divisible=False)
            return
        if not self._has_pool:
            if not int(field.pool_steps):
                begin_pool(field, at)
            self._has_pool = True
        count = min(len(field.pool), max(len(u), MOVED_VALUES // (field.dimension + field.codes)))
        negatives = from_pool(field, count, at, self.settings.pool_steps)
        codes = self._particles.codes_of(field, batch, u, at, self.settings.code_steps, bound=True)
        states = torch.cat([torch.cat([u, codes], 1), negatives])

        def contrast(_rows: slice) -> Tensor:
            u, z = states.split([field.dimension, field.codes], 1)
            of_data, of_pool = (field.tilt(u) + field.log_coded(u, z)).split([len(codes), count])
            gap = of_pool.mean() - of_data.mean()
            return gap.clamp(min=-MARGIN - MARGIN_PER_DIMENSION * field.dimension)

        yield Loss("contrast", contrast, 1 / field.dimension, divisible=False)

    def state(self) -> dict[str, Tensor]:
        return self._particles.tensors()

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        self._particles.load(tensors)
        self._has_pool = False

    def held_out(self, field: LatentField, data: Validation) -> dict[str, Tensor]:
        """The `residual`: the squared error of the denoised datum per dimension, with fixed noise."""
        rows, z, _ = data.share()
        epsilon = noise.normal(z.shape[1:], data.seed, rows, "held-out").to(z)
        u = (field.signal * z + field.noise * epsilon).flatten(1)
        return {"residual": (denoised(field, u, posterior(field, u).pull) - z.flatten(1)).square().mean(1)}

    # --- sampling -----------------------------------------------------------------------------------------------------

    def choose_solver(self, options: Any, given: Mapping[str, Any]) -> Solver:
        """The number of evaluations of the joint chain in the form of a solver."""
        del options
        if given.keys() - {"nfe"}:
            raise ConfigError(
                "samples of a model of the method latent come from a Markov chain, which takes no solver and "
                "no tolerance",
                hint="`nfe` sets the number of its steps",
            )
        return Solver(MALA, given.get("nfe") or SAMPLING_STEPS + 1, 0.0, 0.0)

    def draw(
        self,
        field: Any,
        codes: Tensor,
        condition: Tensor | None,
        solver: Solver,
        *,
        options: Any = None,
        seed: int = 0,
        first: int = 0,
        guidance: float | None = None,
        keep_path: bool = False,
    ) -> Solution:
        """Samples by joint chains from states of the pool, or from samples of the model without f."""
        del condition, guidance
        if keep_path:
            raise ConfigError(
                "samples of a model of the method latent come from Markov chains, without a path from noise",
                hint="use a grid: -o samples.png",
            )
        start = LatentSampling().start if options is None else options.start
        rows = range(first, first + len(codes))
        if start == "pool" and int(field.pool_steps):
            order = torch.randperm(len(field.pool), generator=noise.generator(seed, "pool rows"))
            state = field.pool[order[torch.arange(first, first + len(codes)) % len(order)].to(codes.device)]
        else:
            z = noise.normal((field.codes,), seed, rows).to(codes)
            state = field.generate(z, codes.flatten(1))
        steps = (solver.nfe or 1) - 1
        if steps:
            step_size = float(field.step_sizes[OF_POOL]) * state.shape[1] ** (1 / 3)
            state = langevin(
                field.joint(), state, step_size, steps=steps, seed=seed, stream="joint", first=first
            ).x  # fmt: skip
        u, z = state.split([field.dimension, field.codes], 1)
        x = denoised(field, u, posterior(field, u, DENOISING_STEPS, z).pull).reshape(codes.shape)
        return _solution(x, solver.nfe or 1)

    # --- codes --------------------------------------------------------------------------------------------------------

    def code_shape(self, field: Any, data: DataShape) -> tuple[int, ...]:
        del data
        return (field.codes,)

    def encode(
        self,
        field: Any,
        data: Tensor,
        condition: Tensor | None,
        solver: Solver | None = None,
        *,
        guidance: float | None = None,
    ) -> Solution:
        """The means of the codes of data (N, …), (N, k), as they are at the level of the model without noise."""
        del condition, guidance
        _require_no_solver(solver)
        return _solution(posterior(field, field.signal * data.flatten(1)).code, 0)

    def decode(
        self,
        field: Any,
        codes: Tensor,
        condition: Tensor | None,
        solver: Solver | None = None,
        *,
        guidance: float | None = None,
    ) -> Solution:
        """What the decoder makes of codes (N, k)."""
        del condition, guidance
        _require_no_solver(solver)
        with torch.no_grad():
            return _solution(field.network.decode(codes).reshape(-1, *field.network.shape), 1)

    # --- calibration --------------------------------------------------------------------------------------------------

    def calibrate(
        self, field: Any, data: Validation, classes: Sequence[int], gradients: int | None, batch_size: int
    ) -> LatentCalibration | None:
        """log Z, after the pool has been moved by the weights at hand."""
        del classes
        gradients = self.calibration_cost(field, ()) if gradients is None else gradients
        steps = min(REFRESHING_STEPS, JOINT_STEPS * gradients // (2 * len(field.pool)))
        if int(field.pool_steps) and steps:
            draws = noise.generator(data.seed, "refreshed pool", device=field.pool.device)
            target = in_parts(field.joint(), batch_size)
            parts = [
                move(target, rows, field.step_sizes[OF_POOL], steps, draws)[0] for rows in field.pool.split(CHAINS)
            ]
            field.pool.copy_(torch.cat(parts))
        chains = min(CHAINS, JOINT_STEPS * gradients // (2 * STEPS_PER_CHAIN))
        return log_partition(field, data.seed, chains, batch_size) if chains >= FEWEST_CHAINS else None

    def calibration_cost(self, field: Any, classes: Sequence[int]) -> int:
        del classes
        return 2 * max(REFRESHING_STEPS * len(field.pool), CHAINS * STEPS_PER_CHAIN) // JOINT_STEPS

    def read_calibration(self, document: Mapping[str, Any]) -> LatentCalibration:
        return LatentCalibration.from_dict(document)


def denoised(field: LatentField, u: Tensor, pull: Tensor) -> Tensor:
    """The mean of the data given noised data u (N, d), (N, d): Tweedie's formula with ∇ log p(u) = ∇f(u) + pull."""
    gradient = field.tilt_gradient(u)
    return (u + field.noise**2 * (gradient + pull)) / field.signal


def _require_no_solver(solver: Solver | None) -> None:
    if solver is not None:
        raise ConfigError(
            "the codes of a model of the method latent are not found along a flow",
            hint="leave out `solver`, `nfe`, `rtol` and `atol`",
        )


def _solution(x: Tensor, nfe: int) -> Solution:
    """Results that did not fail, as a solution."""
    count = torch.full((len(x),), nfe, dtype=torch.int64, device=x.device)
    nothing = torch.zeros_like(count)
    return Solution(
        x=x, t=torch.ones(len(x), device=x.device), nfe=count, accepted=count, rejected=nothing,
        status=torch.full_like(count, Status.SUCCESS),
    )  # fmt: skip
