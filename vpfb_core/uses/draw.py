"""Drawing from a model: samples, prior points of images and back, and the way between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vpfb_core.dynamics.ode import Solution
from vpfb_core.dynamics.slerp import slerp
from vpfb_core.dynamics.solver import ENCODING_SOLVER, Solver
from vpfb_core.errors import ConfigError
from vpfb_core.machine import noise
from vpfb_core.methods import transport
from vpfb_core.methods.guidance import check_guidance
from vpfb_core.model.conditions import Condition, condition_tensor
from vpfb_core.model.trained import DEFAULT_BATCH, TrainedModel


@dataclass(frozen=True)
class Drawn:
    """N samples, and how they were drawn; everything is on the CPU.

    Attributes:
        images: float32 (N, C, H, W) in [0, 1]; of a sample that failed, its last finite state.
        solution: how each sample was solved, in the coordinates of the model.
        path: images at every step, (steps + 1, N, C, H, W); only with `keep_path`.
    """

    images: Tensor
    solution: Solution
    path: Tensor | None = None

    @property
    def nfe(self) -> Tensor:
        """Gradient evaluations that each sample took, (N,) int64."""
        return self.solution.nfe

    @property
    def status(self) -> Tensor:
        """`ode.Status` of each sample, (N,) int64; 0 is success."""
        return self.solution.status

    def require_success(self) -> Drawn:
        """These samples, or SolverError if some sample did not reach its end: how many, why, and what to do."""
        self.solution.require_success()
        return self


def sample(
    model: TrainedModel,
    n: int,
    seed: int = 0,
    *,
    first: int = 0,
    condition: Condition = None,
    guidance: float | None = None,
    batch_size: int = DEFAULT_BATCH,
    keep_path: bool = False,
    **solver: Any,
) -> Drawn:
    """Draw n images. Image i depends on (seed, i), whatever the batch size.

    Args:
        first: index of the first image, so that many can be drawn in parts.
        condition: the name of a class ("3"), or of a class in each of several groups ("circle,red"); several names
            take turns over the samples; or class indices, int64 (n, G), −1 for none.
        guidance: W, the weight of the condition, as in `guidance.Guided`, at twice the cost; None is plain.
        batch_size: images computed at once.
        keep_path: keep the path from noise; for methods of fixed step.
        solver: method, nfe, rtol, atol as in `Solver.choose`.
    Returns:
        `Drawn`, whose `status` says which samples reached their end.
    Raises:
        ConfigError: names or settings that do not exist.
    """
    if n < 1:
        raise ConfigError(f"n = {n}: ask for at least one image")
    chosen = Solver.choose(**solver)
    conditions = conditions_of(model, condition, n, first, guidance=guidance, use="sampling")
    codes = noise.normal(model.shape, seed, range(first, first + n))

    def solve(codes: Tensor, conditions: Tensor | None) -> Solution:
        return model.method.draw(model.field, codes, conditions, chosen, guidance=guidance, keep_path=keep_path)

    solution = _in_batches(model, solve, codes, conditions, batch_size)
    path = None if solution.path is None else model.statistics.to_images(solution.path)
    return Drawn(model.statistics.to_images(solution.x), solution, path)


def decode(
    model: TrainedModel,
    codes: Tensor,
    *,
    condition: Condition = None,
    guidance: float | None = None,
    batch_size: int = DEFAULT_BATCH,
    **solver: Any,
) -> Tensor:
    """Prior points (N, C, H, W) → images, float32 (N, C, H, W) in [0, 1] on the CPU.

    Arguments as in `sample`; the solver is `ENCODING_SOLVER` unless another is asked for.

    Raises:
        SolverError: some sample did not reach its end.
    """
    model.require("flow", "decoding")
    chosen = Solver.choose(**solver) if solver else ENCODING_SOLVER
    conditions = conditions_of(model, condition, len(codes), guidance=guidance, use="decoding")

    def solve(codes: Tensor, conditions: Tensor | None) -> Solution:
        return transport.decode(model.field, codes, conditions, chosen, guidance=guidance)  # type: ignore[arg-type]

    solution = _in_batches(model, solve, codes, conditions, batch_size).require_success()
    return model.statistics.to_images(solution.x)


def encode(
    model: TrainedModel,
    images: Tensor,
    *,
    condition: Condition = None,
    guidance: float | None = None,
    batch_size: int = DEFAULT_BATCH,
    **solver: Any,
) -> Tensor:
    """Images (N, C, H, W), uint8 or in [0, 1] → their prior points by the reverse flow, float32 on the CPU.

    Arguments as in `sample`; the solver is `ENCODING_SOLVER` unless another is asked for.

    Raises:
        SolverError: some image did not reach the prior.
    """
    model.require("flow", "encoding")
    chosen = Solver.choose(**solver) if solver else ENCODING_SOLVER
    conditions = conditions_of(model, condition, len(images), guidance=guidance, use="encoding")

    def solve(data: Tensor, conditions: Tensor | None) -> Solution:
        return transport.encode(model.field, data, conditions, chosen, guidance=guidance)  # type: ignore[arg-type]

    data = model.standardise(images)
    if not len(data):
        return torch.empty(data.shape)
    return _in_batches(model, solve, data, conditions, batch_size).require_success().x


def interpolate(
    model: TrainedModel,
    start: Tensor,
    end: Tensor,
    frames: int,
    *,
    condition: Condition = None,
    **settings: Any,
) -> Tensor:
    """The images between prior points, along the sphere that noise lies on (`dynamics.slerp`).

    Args:
        start, end: prior points, such as `encode` returns, (N, C, H, W).
        frames: images per row, both ends included, at least 2.
        condition: of each of the N rows, as in `sample`.
        settings: guidance, batch_size and a solver, as in `decode`.
    Returns:
        float32 (N, frames, C, H, W) in [0, 1] on the CPU.
    """
    codes = slerp(start, end, frames).transpose(0, 1)
    conditions = condition_tensor(condition, model.groups, len(start))
    if conditions is not None:
        conditions = conditions.repeat_interleave(frames, 0)
    return decode(model, codes.flatten(0, 1), condition=conditions, **settings).unflatten(0, codes.shape[:2])


def conditions_of(
    model: TrainedModel,
    condition: Condition,
    n: int,
    first: int = 0,
    *,
    guidance: float | None = None,
    use: str,
) -> Tensor | None:
    """The class of each of n samples in each group as of `condition_tensor`, if the model was trained for them.

    Args:
        use: what they are for, as the subject of a sentence: "sampling".
    Raises:
        ConfigError: a condition that does not exist, guidance that is not to be had, or a use of the field without a
            class where that was not trained.
    """
    check_guidance(guidance, model.groups)
    conditions = condition_tensor(condition, model.groups, n, first)
    if guidance is not None and guidance != 1:
        model.require_null("guidance")
    if conditions is not None and bool((conditions < 0).any()):
        model.require_null(f"{use} without a class" + (" of each group" if len(model.groups) > 1 else ""))
    return conditions


def _in_batches(
    model: TrainedModel,
    solve: Callable[[Tensor, Tensor | None], Solution],
    start: Tensor,
    conditions: Tensor | None,
    batch_size: int,
) -> Solution:
    """`solve` on batches of the model's device, joined on the CPU."""
    if batch_size < 1:
        raise ConfigError(f"batch size {batch_size}: at least one image must be computed at once")
    parts = []
    for first in range(0, len(start), batch_size):
        rows = slice(first, first + batch_size)
        condition = None if conditions is None else conditions[rows].to(model.device)
        parts.append(solve(start[rows].to(model.device), condition))
    return _join(parts)


def _join(parts: Sequence[Solution]) -> Solution:
    """The solutions of batches as one, on the CPU."""

    def joined(name: str, dim: int = 0) -> Tensor:
        return torch.cat([getattr(part, name).cpu() for part in parts], dim)

    return Solution(
        **{name: joined(name) for name in ("x", "t", "nfe", "accepted", "rejected", "status")},
        path=None if parts[0].path is None else joined("path", dim=1),
    )
