"""A model: a potential with the statistics of its data and the names of its conditions."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vpfb_core.data import Source, split
from vpfb_core.data.source import ConditionGroup
from vpfb_core.data.statistics import Statistics
from vpfb_core.dynamics.slerp import slerp
from vpfb_core.dynamics.solvers import Solution
from vpfb_core.errors import ConfigError
from vpfb_core.machine import container as checkpoint
from vpfb_core.machine import noise
from vpfb_core.methods.guidance import check_guidance
from vpfb_core.methods.transport import ENCODING_SOLVER, Solver, decode, encode
from vpfb_core.methods.vpfb.calibration import calibrate
from vpfb_core.methods.vpfb.normaliser import Normaliser
from vpfb_core.methods.vpfb.potential import Potential, UnpreconditionedPotential
from vpfb_core.model.conditions import condition_tensor
from vpfb_core.uses import chains, density
from vpfb_core.uses.chains import Chains
from vpfb_core.uses.long_runs import LEVEL
from vpfb_core.uses.ood.reference import Reference

DEFAULT_BATCH = 256  # samples solved at once unless told otherwise

REFERENCE = "reference/"  # what the names of its tensors begin with in a file

POTENTIALS: dict[str, type[Potential]] = {"arc": Potential, "unpreconditioned": UnpreconditionedPotential}


@dataclass
class Model:
    """What inference needs.

    Attributes:
        potential: its parameters take no gradients.
        network: the description of its network, as `networks.build` reads it.
        statistics: of the training images.
        shape: (C, H, W) of its images.
        groups: condition groups; () for an unconditional model.
        about: what is worth knowing of its training (data, step, seed, figures, versions, …), JSON values.
        normaliser: of the explicit density; None before it is calibrated.
        reference: how training images read, for out-of-distribution scores; None before it is fitted.
    """

    potential: Potential
    network: dict[str, Any]
    statistics: Statistics
    shape: tuple[int, int, int]
    groups: tuple[ConditionGroup, ...] = ()
    about: dict[str, Any] = field(default_factory=dict)
    normaliser: Normaliser | None = None
    reference: Reference | None = None

    @property
    def device(self) -> torch.device:
        return next(self.potential.parameters()).device

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(parameter.numel() for parameter in self.potential.parameters())

    def split_of(self, images: Source) -> tuple[Tensor, Tensor] | None:
        """(trained on, held out): rows of the images, if they are the very data that the model was trained on."""
        if images.fingerprint() != self.about.get("data", {}).get("fingerprint") or "config" not in self.about:
            return None
        return split(images, self.about["config"]["val_fraction"], self.about.get("seed", 0))

    def standardise(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W), uint8 or in [0, 1] → x̄, mean 0 and standard deviation a, on the model's device."""
        if images.ndim != 4 or tuple(images.shape[1:]) != self.shape:
            raise ConfigError(
                f"images of shape {tuple(images.shape[1:])} do not fit a model of {self.shape}",
                hint="the shape is (channels, height, width)",
            )
        return self.statistics.standardise(images.to(self.device)) * self.potential.data_std

    def arc_data(self, images: Tensor) -> Tensor:
        """Images as in `standardise` → z = x̄/a, unit variance: the data end of the arc."""
        return self.standardise(images) / self.potential.data_std

    def sample(
        self,
        n: int,
        seed: int = 0,
        *,
        first: int = 0,
        condition: str | Sequence[str] | Tensor | None = None,
        guidance: float | None = None,
        batch_size: int = DEFAULT_BATCH,
        keep_path: bool = False,
        return_info: bool = False,
        **solver: Any,
    ) -> Any:
        """Draw n images. Image i depends on (seed, i), whatever the batch size.

        Args:
            first: index of the first image, so that many can be drawn in parts.
            condition: the name of a class ("3"), or of a class in each of several groups ("circle,red"); several names
                take turns over the samples; or class indices, int64 (n, G), −1 for none.
            guidance: W, how strongly the condition is meant: N_∅ + W (N_c − N_∅), at twice the price; None is plain.
            batch_size: images solved at once.
            keep_path: keep the way there in the info, for methods of fixed step.
            return_info: return a pair, the second of it the `flow.Solution` with nfe and status of each sample.
            solver: method, nfe, rtol, atol as in `flow.Solver.choose`.
        Returns:
            float32 (n, C, H, W) in [0, 1] on the CPU.
        Raises:
            ConfigError: names or settings that do not exist.
            SolverError: some sample did not reach its end; with `return_info`, its status says so instead.
        """
        if n < 1:
            raise ConfigError(f"n = {n}: ask for at least one image")
        chosen = Solver.choose(**solver)
        check_guidance(guidance, self.groups)
        conditions = condition_tensor(condition, self.groups, n, first)
        codes = noise.normal(self.shape, seed, range(first, first + n))

        def solve(codes: Tensor, conditions: Tensor | None) -> Solution:
            return decode(self.potential, codes, conditions, chosen, keep_path, guidance=guidance)

        solution = self._in_batches(solve, codes, conditions, batch_size)
        if return_info:
            return self.statistics.to_images(solution.x), solution
        return self.statistics.to_images(solution.require_success().x)

    def decode(
        self,
        codes: Tensor,
        *,
        condition: str | Sequence[str] | Tensor | None = None,
        guidance: float | None = None,
        batch_size: int = DEFAULT_BATCH,
        **solver: Any,
    ) -> Tensor:
        """Prior points (N, C, H, W) → images.

        Arguments and returns as in `sample`, the solver `ENCODING_SOLVER` unless told otherwise.
        """
        chosen = Solver.choose(**solver) if solver else ENCODING_SOLVER
        check_guidance(guidance, self.groups)

        def solve(codes: Tensor, conditions: Tensor | None) -> Solution:
            return decode(self.potential, codes, conditions, chosen, guidance=guidance)

        conditions = condition_tensor(condition, self.groups, len(codes))
        solution = self._in_batches(solve, codes, conditions, batch_size).require_success()
        return self.statistics.to_images(solution.x)

    def encode(
        self,
        images: Tensor,
        *,
        condition: str | Sequence[str] | Tensor | None = None,
        guidance: float | None = None,
        batch_size: int = DEFAULT_BATCH,
        **solver: Any,
    ) -> Tensor:
        """Images (N, C, H, W), uint8 or in [0, 1] → their prior points by the reverse flow, float32 on the CPU.

        Arguments as in `sample`, the solver `ENCODING_SOLVER` unless told otherwise.
        """
        chosen = Solver.choose(**solver) if solver else ENCODING_SOLVER
        check_guidance(guidance, self.groups)

        def solve(z: Tensor, conditions: Tensor | None) -> Solution:
            return encode(self.potential, z, conditions, chosen, guidance=guidance)

        z = self.arc_data(images)
        conditions = condition_tensor(condition, self.groups, len(images))
        return self._in_batches(solve, z, conditions, batch_size).require_success().x

    def interpolate(
        self,
        start: Tensor,
        end: Tensor,
        frames: int,
        *,
        condition: str | Sequence[str] | Tensor | None = None,
        **settings: Any,
    ) -> Tensor:
        """The images on the way between prior points, along the sphere that noise lies on (`flow.slerp`).

        Args:
            start, end: prior points, such as `encode` returns, (N, C, H, W).
            frames: images a row, both ends included, at least 2.
            condition: of each of the N rows, as in `sample`.
            settings: guidance, batch_size and a solver, as in `decode`.
        Returns:
            float32 (N, frames, C, H, W) in [0, 1] on the CPU.
        """
        codes = slerp(start, end, frames).transpose(0, 1)
        conditions = condition_tensor(condition, self.groups, len(start))
        if conditions is not None:
            conditions = conditions.repeat_interleave(frames, 0)
        return self.decode(codes.flatten(0, 1), condition=conditions, **settings).unflatten(0, codes.shape[:2])

    # --- Langevin chains ----------------------------------------------------------------------------------------------

    def long_run(
        self,
        images: Tensor,
        steps: int,
        seed: int = 0,
        *,
        first: int = 0,
        condition: str | Sequence[str] | Tensor | None = None,
        guidance: float | None = None,
        level: float = LEVEL,
        batch_size: int = DEFAULT_BATCH,
        on_progress: Callable[[float], None] | None = None,
        **solver: Any,
    ) -> Chains:
        """Let images walk over the data by `steps` steps of MALA at one level of noise, and take the noise off again.

        The first fifth of the steps, at most 200, is burn-in: each chain finds its own step size. What image i draws
        depends on (seed, first + i) alone.

        Args:
            images: (N, C, H, W), uint8 or in [0, 1]; samples or real ones.
            condition, guidance: of the density that is walked in, as in `sample`.
            level: cot φ, the ratio of noise to data.
            on_progress: called with the fraction done.
            solver: of the flow that takes the noise off, as in `sample`.
        Raises:
            ConfigError: settings that do not exist.
            SolverError: the energy of some image is not finite.
        """
        return chains.long_run(
            self, images, steps, seed=seed, first=first, condition=condition, guidance=guidance, level=level,
            batch_size=batch_size, on_progress=on_progress, solver=solver,
        )  # fmt: skip

    def inpaint(
        self,
        image: Tensor,
        known: Tensor,
        n: int,
        seed: int = 0,
        *,
        first: int = 0,
        condition: str | Sequence[str] | Tensor | None = None,
        guidance: float | None = None,
        batch_size: int = DEFAULT_BATCH,
        on_progress: Callable[[float], None] | None = None,
    ) -> Chains:
        """Fill in what is not known of an image, in n ways. Sample i draws by (seed, first + i) alone.

        Fifty levels of noise, each with a step of the flow and 25 steps of MALA on the free pixels.

        Args:
            image: (C, H, W), uint8 or in [0, 1]; its known pixels come back as they are.
            known: bool (1, H, W) or (C, H, W), True where the image is given.
            condition, guidance: as in `sample`.
            on_progress: called with the fraction done.
        Raises:
            ConfigError: shapes that do not fit, or a mask that keeps all or nothing.
            SolverError: some sample left the finite numbers.
        """
        return chains.inpaint(
            self, image, known, n, seed=seed, first=first, condition=condition, guidance=guidance,
            batch_size=batch_size, on_progress=on_progress,
        )  # fmt: skip

    # --- density ------------------------------------------------------------------------------------------------------

    def log_density(
        self,
        images: Tensor,
        *,
        method: str = "explicit",
        level: float | None = None,
        condition: str | Sequence[str] | Tensor | None = None,
        seed: int = 0,
        first: int = 0,
        batch_size: int = DEFAULT_BATCH,
        dequantise: bool = True,
        probes: int = 1,
        **solver: Any,
    ) -> Tensor:
        """Normalised log-density of each image as a vector of d pixels in [0, 1]: nats, float64 (N,) on the CPU.

        "explicit" is one forward pass: the density, with the calibrated normaliser, of the image with the noise of
        `level` on it, a blur of `self.blur(level)` grey levels. "ode" is the flow's own likelihood by the encoding, for
        the price of some hundred second differentiations: of the image as it is, or at a level to compare the two.
        What is drawn for image i depends on (seed, i) alone.

        Args:
            images: (N, C, H, W), uint8 or in [0, 1].
            method: "explicit" or "ode".
            level: cot φ, the ratio of the noise on the image to the deviation of the data. None is, for "explicit",
                the least one quoted, 0.1 where the schedule allows; for "ode", no noise: it enters the flow at the
                floor, but no later than where the flow's own noise is as wide as the dequantisation's.
            condition: as in `sample`; "explicit" is calibrated without condition and for one class at a time.
            first: index of the first image, where these are a part of many.
            batch_size: images at once.
            dequantise: draw each pixel uniformly from the cell of its grey level. Without it the density speaks of
                points that have no volume, and is of use only for data that is no picture.
            probes: of Hutchinson's estimate of the divergence ("ode"); in up to 16 dimensions it is exact.
            solver: of "ode", as in `flow.Solver.choose`; dopri5 at its default tolerance if none is named.
        Raises:
            ConfigError: settings that do not exist, or a condition that is not calibrated.
            CheckpointError: the model is not calibrated.
            SolverError: some image did not reach the prior.
        """
        return density.log_density(
            self, images, method=method, level=level, condition=condition, seed=seed, first=first,
            batch_size=batch_size, dequantise=dequantise, probes=probes, solver=solver,
        )  # fmt: skip

    def bits_per_dim(self, images: Tensor, **settings: Any) -> Tensor:
        """Bits per dimension of each image, float64 (N,); arguments as in `log_density`.

        An "explicit" figure speaks of images blurred by `self.blur(level)` grey levels, to be stated beside it.
        """
        return density.bits(self, self.log_density(images, **settings))

    def blur(self, level: float | None = None) -> float:
        """Standard deviation, in grey levels, of the noise on what the explicit density speaks of at cot φ = level."""
        return density.blur(self, density.explicit_level(self, level))

    def calibrate(self, images: Tensor, labels: Tensor | None = None, *, seed: int = 0, **counts: int) -> Normaliser:
        """Estimate the normaliser from images, keep it and return it.

        Args:
            images: uint8 (N, C, H, W), held-out or training images in random order.
            labels: int64 (N, G), −1 where unknown; for a conditional model.
            counts: points, class_points and anchor_points, as in `calibration.calibrate`.
        """
        z = self.arc_data(density.dequantised(images, seed))
        classes = [len(group.classes) for group in self.groups]
        unconditional = self.about.get("config", {}).get("condition_dropout") != 0
        self.normaliser = calibrate(
            self.potential, z, labels, classes, seed=seed, unconditional=unconditional, **counts
        )
        return self.normaliser

    def _in_batches(
        self,
        solve: Callable[[Tensor, Tensor | None], Solution],
        start: Tensor,
        conditions: Tensor | None,
        batch_size: int,
    ) -> Solution:
        """`solve` on batches of the model's device, joined on the CPU."""
        if batch_size < 1:
            raise ConfigError(f"batch size {batch_size}: at least one image must be solved at once")
        parts = []
        for first in range(0, len(start), batch_size):
            rows = slice(first, first + batch_size)
            condition = None if conditions is None else conditions[rows].to(self.device)
            parts.append(solve(start[rows].to(self.device), condition))
        return _join(parts)

    # --- files --------------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model as one .safetensors file. Raises DataError if it cannot be written."""
        kind = next(name for name, potential in POTENTIALS.items() if type(self.potential) is potential)
        document = {
            "potential": kind,
            "homotopy": self.potential.homotopy.to_dict(),
            "data_std": self.potential.data_std,
            "network": self.network,
            "statistics": asdict(self.statistics),
            "shape": self.shape,
            "groups": [asdict(group) for group in self.groups],
            "parameters": self.parameters,
            "about": self.about,
            "normaliser": None if self.normaliser is None else self.normaliser.to_dict(),
        }
        tensors = dict(self.potential.network.state_dict())
        if self.reference is not None:
            tensors |= {REFERENCE + name: tensor for name, tensor in self.reference.tensors().items()}
        checkpoint.write(Path(path), "model", tensors, document)


def _join(parts: Sequence[Solution]) -> Solution:
    """The solutions of batches as one, on the CPU."""

    def joined(name: str, dim: int = 0) -> Tensor:
        return torch.cat([getattr(part, name).cpu() for part in parts], dim)

    return Solution(
        **{name: joined(name) for name in ("x", "t", "nfe", "accepted", "rejected", "status")},
        path=None if parts[0].path is None else joined("path", dim=1),
    )
