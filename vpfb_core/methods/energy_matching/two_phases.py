"""Energy Matching as a training method (Balcerak et al. 2025, arXiv 2504.10612).

In the first phase the descent of V is regressed on the velocity from noise to data, as in flow matching. In the second
phase a contrastive term is added, which makes data the minima of V: negatives that samplers reach are raised, and data
are lowered.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vpfb_core.dynamics.langevin import CHAINS
from vpfb_core.dynamics.ode import Solution
from vpfb_core.dynamics.relaxation import Chain, relax
from vpfb_core.dynamics.solver import Solver
from vpfb_core.errors import ConfigError, counted
from vpfb_core.machine import noise
from vpfb_core.methods.base import Method, MethodSampling, MethodSettings
from vpfb_core.methods.energy_matching.contrastive import contrastive_loss, flow_loss, squared_error
from vpfb_core.methods.energy_matching.negatives import Journey, Pool, blurred
from vpfb_core.methods.energy_matching.static_energy import CLEAN, DATA_STD, StaticEnergy
from vpfb_core.methods.guidance import Guided
from vpfb_core.methods.step import Batch, DataShape, Loss, Moment, Validation
from vpfb_core.settings import setting

TAU = 2.0  # the default sampling time
FLOW_NFE = 40  # the default number of gradients of the descent
FLOW_STEP_COST = 7  # the cost of the regression in gradients per datum: two points, each differentiated twice
CONTRAST_STEP_COST = 4  # that of the values of data and negatives, computed once and differentiated once
DECAY = 0.1  # the share of a run over which the learning rate falls, at the end of the second phase
TIME_SHARE = 0.5  # the share of the work of a run that the second phase takes
SMALL_DIMENSION = 1024  # the largest number of values per datum of small data
TEMPERATURES = (0.1, 0.01)  # for small data and for larger ones, those of the paper for MNIST and CIFAR-10
CHAIN_STEPS = (0.025, 0.01)  # likewise
POINT_STEP = 0.1  # the step of chains of vectors, which MALA accepts
STEPS_PER_STEP = (10, 5)  # of the chains per training step, for vectors and for images
CONTRAST_WEIGHTS = (8.0, 1.0)  # likewise


@dataclass(frozen=True)
class EnergyMatchingSettings(MethodSettings):
    """The settings of both phases."""

    coupling: str = setting("random", help="Pairing of noise and data.", choices=("random", "transport"))
    temperature: float | None = setting(
        None, help="Temperature of the density exp(-V/temperature) at the data.", low=1e-6, high=100
    )
    contrast_share: float | None = setting(
        None, help="Share of the run that has the contrastive term, at its end.", low=0, high=1
    )
    contrast_weight: float | None = setting(None, help="Weight of the contrastive term per dimension.", low=0, high=1e3)
    margin: float = setting(
        0.65, help="Difference of energies at which the contrast ends, in nats per dimension.", low=0, high=1e6
    )
    trim: float = setting(0.0, help="Share of the negatives with the highest energy that is left out.", low=0, high=0.9)
    chain_step: float | None = setting(
        None, help="Length of a step of chains, in time; data are reached at 1.", low=1e-4, high=1
    )
    chain_steps: int | None = setting(
        None, help="Steps of the chain of a negative per training step.", low=1, high=10_000
    )
    restarts: float = setting(
        0.05, help="Share of the negatives whose chains start anew, at data or at noise.", low=0, high=1
    )
    chains: str | None = setting(
        None, help="Chains of the second phase and of samples, with or without the Metropolis test.", choices=CHAINS
    )
    flow_weight: float | None = setting(None, help="Weight of the regression in the second phase.", low=0, high=1e3)
    blur: float | None = setting(
        None, help="Standard deviation of the noise on data in the contrast, where data have 0.5.", low=0, high=20
    )

    @property
    def journey(self) -> Journey:
        """How negatives are drawn."""
        step, chains = self.chain_step or CHAIN_STEPS[0], self.chains or "ula"
        return Journey(step, self.chain_steps or STEPS_PER_STEP[1], self.restarts, self.blur or 0.0, chains)

    @property
    def arrival(self) -> float:
        """The time before the data from which on the second phase asks for the score of data with noise.

        This score asks for ε (a z − x)/blur² near a datum a z, where a z − x is (1 − t) times the velocity of the path.
        """
        return (self.blur or 0.0) ** 2 / (self.temperature or TEMPERATURES[0])

    @property
    def cost(self) -> float:
        """The cost of a step of the second phase, in steps of the first one."""
        flow = FLOW_STEP_COST if self.flow_weight is None or self.flow_weight else 0
        return (flow + CONTRAST_STEP_COST + self.journey.evaluations) / FLOW_STEP_COST


@dataclass(frozen=True)
class EnergyMatchingSampling(MethodSampling):
    """The options of sampling."""

    tau: float | None = setting(
        None, help="Time at which sampling ends: 1 is the end of the descent, and a chain follows.", low=1, high=1e3
    )


class EnergyMatching(Method):
    """Training of one energy of clean data, whose descent carries noise to data."""

    name: ClassVar[str] = "energy-matching"
    figures: ClassVar[tuple[str, ...]] = ("residual", "gap")
    optimiser: ClassVar[Mapping[str, Any]] = {"algorithm": "adam", "decay": DECAY}  # Muon was not measured
    judged: ClassVar[bool] = False  # the residual does not see the well of the second phase
    Settings = EnergyMatchingSettings
    SamplingOptions = EnergyMatchingSampling
    settings: EnergyMatchingSettings

    def __init__(self, settings: EnergyMatchingSettings) -> None:
        super().__init__(settings)
        self.pool = Pool()

    @classmethod
    def defaults(cls, data: DataShape, asked: Mapping[str, Any]) -> dict[str, Any]:
        chosen = cls.Settings.from_dict({name: asked[name] for name in cls.Settings.names() if name in asked})
        large, image = data.dimension > SMALL_DIMENSION, len(data.shape) == 3
        temperature = chosen.temperature or TEMPERATURES[large]
        step = chosen.chain_step or (CHAIN_STEPS[large] if image else POINT_STEP)
        # In few dimensions the position of a point does not tell its time: the regression contradicts the density.
        chosen = chosen.completed(
            {
                "flow_weight": float(image), "chains": "ula" if image else "mala",
                "chain_steps": STEPS_PER_STEP[image], "contrast_weight": CONTRAST_WEIGHTS[image],
            }
        )  # fmt: skip
        # By time the second phase takes its share directly; by steps it takes fewer of them, as each costs more.
        rest = TIME_SHARE / (1 - TIME_SHARE) / (1 if asked.get("timed") else chosen.cost)
        return super().defaults(data, asked) | {
            "temperature": temperature,
            "chain_step": step,
            "chain_steps": chosen.chain_steps,
            "chains": chosen.chains,
            "flow_weight": chosen.flow_weight,
            "contrast_weight": chosen.contrast_weight,
            # Twice the variance of the noise of one step, below which chains without the Metropolis test cannot go.
            "blur": math.sqrt(4 * temperature * step) if chosen.chains == "ula" else 0.0,
            "contrast_share": rest / (1 + rest),
        }

    def check(self, data: DataShape, *, scalar: bool, decay: float, processes: int) -> None:
        del data, scalar, decay
        if processes > 1 and (self.settings.contrast_share or self.settings.coupling != "random"):
            raise ConfigError(
                "the contrastive term and the coupling transport look at the whole batch, which cannot be divided",
                hint="train in one process, or use `contrast_share=0` and `coupling=random`",
            )

    def notes(self) -> tuple[str, ...]:
        share, cost = self.settings.contrast_share or 0.0, self.settings.cost
        if not share:
            return ("no contrastive term, so the energy has no minima at the data: sample with tau = 1",)
        return (f"the last {share:.1%} of the run has the contrastive term, whose steps take {cost:.0f} times as long",)

    def phase(self, fraction: float) -> int:
        return int(fraction >= 1 - (self.settings.contrast_share or 0.0))

    @property
    def compilable(self) -> bool:
        return True

    def field(self, network: nn.Module, data: DataShape) -> StaticEnergy:
        temperature, blur = self.settings.temperature or TEMPERATURES[0], (self.settings.blur or 0.0) / DATA_STD
        return StaticEnergy(network, temperature, has_null=self.trains_null(data), blur=blur)

    def losses(self, field: StaticEnergy, batch: Batch, at: Moment) -> Iterable[Loss]:
        settings = self.settings
        contrast_weight = CONTRAST_WEIGHTS[1] if settings.contrast_weight is None else settings.contrast_weight
        second = bool(self.phase(at.fraction) and contrast_weight)
        flow_weight = 1.0 if not second or settings.flow_weight is None else settings.flow_weight
        if flow_weight:
            arrival = settings.arrival if second else 0.0
            value = flow_loss(field, batch, at, coupled=settings.coupling == "transport", arrival=arrival)
            yield Loss("flow", value, flow_weight)
        if second:
            dimension = batch.data[0].numel()
            drawn = self.pool.draw(field, batch, at, settings.journey)
            margin = settings.margin * dimension * field.temperature
            positives = blurred(batch, at, settings.journey.blur)
            value = contrastive_loss(
                field, positives, drawn.batch, trim=settings.trim, margin=margin, at_once=at.at_once
            )
            yield Loss("contrast", value, contrast_weight / dimension)
            self.pool.keep(drawn)

    def remarks(self) -> tuple[str, ...]:
        if not self.pool.escaped:
            return ()
        escapes = counted(self.pool.escaped, "times")
        return (f"chains of the negatives left the data for infinity and began anew at data {escapes}",)

    def state(self) -> dict[str, Tensor]:
        return self.pool.tensors()

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        self.pool.load(tensors)

    def held_out(self, field: StaticEnergy, data: Validation) -> dict[str, Tensor]:
        """The `residual` of the descent of each datum at fixed positions with fixed noise, and its energy above that
        of the negatives, the `gap`, which is NaN before there are any."""
        rows, z, condition = data.share()
        order = torch.randperm(len(data.data), generator=noise.generator(data.seed, "held-out positions"))
        t = ((order[rows.start : rows.stop] + 0.5) / len(order)).to(z)
        x0 = noise.normal(z.shape[1:], data.seed, rows, "held-out").to(z)
        with torch.no_grad():
            residual = squared_error(field, z, t, x0, condition)
        of_chains = data.once("the mean energy of the chains", lambda: self.pool.mean_energy(field, z.device, len(z)))
        blurred = z + self.settings.journey.blur / DATA_STD * x0
        return {"residual": residual, "gap": field.energy(blurred, CLEAN, condition) - of_chains}

    # --- sampling -----------------------------------------------------------------------------------------------------

    def chain_steps(self, tau: float) -> int:
        """The number of steps of the chain from the end of the descent to the time tau."""
        return round((tau - 1) / self.settings.journey.step)

    def choose_solver(self, options: EnergyMatchingSampling, given: Mapping[str, Any]) -> Solver:
        adaptive = {"rtol", "atol"} & given.keys() and "nfe" not in given
        chosen = dict(given)
        if not adaptive:
            chosen.setdefault("method", "heun")
        solver = Solver.choose(**chosen)
        if solver.nfe is not None and "nfe" not in given:
            chosen["nfe"] = FLOW_NFE + self._chain_evaluations(self.chain_steps(options.tau or TAU))
        return Solver.choose(**chosen)

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
        """Samples by the descent until time 1 and a chain at the temperature until time tau.

        A step of the chain is always one of training. If the evaluations of the solver are too few for it and `tau` is
        not given, the chain takes half of them and ends earlier.

        Raises:
            ConfigError: `tau` is given, and the solver has too few evaluations for it.
        """
        tau = None if options is None else options.tau
        steps = self.chain_steps(tau or TAU)
        if solver.nfe is not None:
            if tau is None:
                beside = self._chain_evaluations(1) - 1
                steps = max(0, min(steps, (solver.nfe - beside) // 2, solver.nfe - beside - 2))
            solver = self._rest(solver, steps)
        guided = Guided(field, guidance)

        def target(x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
            return guided.energy_and_score(x, CLEAN, condition)

        args, journey = () if condition is None else (condition,), self.settings.journey
        found = relax(
            target, field.at_level(torch.zeros_like(codes), math.inf, codes), field.chain_variance(CLEAN), solver,
            Chain(steps, journey.step, seed, "sampling", first, journey.chains), args=args, keep_path=keep_path,
        )  # fmt: skip
        x, path, evaluations = found.x, found.path, 0
        if steps:
            x, evaluations = field.denoised(x, lambda x: target(x, *args))
        if path is not None and evaluations:
            path = torch.cat([path, x[None].cpu()])
        return replace(found, x=x, nfe=(found.nfe + evaluations) * guided.cost(condition), path=path)

    def _rest(self, solver: Solver, steps: int) -> Solver:
        """The solver of the descent, with the evaluations that a chain leaves."""
        left = (solver.nfe or 0) - self._chain_evaluations(steps)
        try:
            return Solver.choose(solver.method, nfe=left)
        except ConfigError as error:
            raise ConfigError(
                f"nfe = {solver.nfe} leaves {max(left, 0)} evaluations for the descent, because the chain takes "
                f"{self._chain_evaluations(steps)}",
                hint="use a larger nfe or a smaller tau",
            ) from error

    def _chain_evaluations(self, steps: int) -> int:
        """The evaluations of a chain and of the removal of its noise."""
        return steps + 1 + bool(self.settings.blur) if steps else 0
