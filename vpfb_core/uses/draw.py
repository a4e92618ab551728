"""Samples of a model, encoding and decoding of images, and interpolation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from vpfb_core import methods
from vpfb_core.data.statistics import Values, tensor_of
from vpfb_core.dynamics.ode import Solution
from vpfb_core.dynamics.slerp import slerp
from vpfb_core.dynamics.solver import Solver
from vpfb_core.errors import ConfigError, counted
from vpfb_core.machine import noise
from vpfb_core.methods.guidance import check_guidance
from vpfb_core.model.conditions import Condition, condition_tensor, require_one_each
from vpfb_core.model.trained import DEFAULT_BATCH, TrainedModel
from vpfb_core.settings import require_index, whole_number
from vpfb_core.uses import rounds
from vpfb_core.uses.drawn import Drawn


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
    **settings: Any,
) -> Drawn:
    """Draw n images from a model. Image i depends only on (seed, i), not on the batch size.

    If the model has a tilt with rounds, each image is the last of as many accepted proposals (`rounds.py`).

    Args:
        model: the model.
        n: the number of images.
        seed: the seed of all images.
        first: the index of the first image, so that a large set can be drawn in parts.
        condition: a class ("3"), its index in a single group (3), or a class of each of several groups ("circle,red").
            Several such conditions alternate over the samples. Class indices, int64 (n, G), −1 for none, are also
            accepted. None is unconditional.
        guidance: the guidance weight W (see `guidance.Guided`), which doubles the evaluations; None uses none.
        batch_size: the number of images that are computed at once.
        keep_path: whether the images at every step are returned, which only fixed-step methods allow.
        settings: method, nfe, rtol and atol, as in `Solver.choose`, and the options of the training method.
    Returns:
        The samples. Their `status` says which ones reached the end of the flow.
    Raises:
        ConfigError: a name or a setting does not exist or does not fit.
    """
    n, first = count_of(n), require_index("first", first)
    solver, options = methods.choose_sampling(model.method, settings)
    conditions = conditions_of(model, condition, n, first, guidance=guidance, use="sampling")

    def draw(seed: int) -> Drawn:
        def solve(codes: Tensor, conditions: Tensor | None, rows: slice) -> Solution:
            return model.method.draw(
                model.field, codes, conditions, solver, options=options, seed=seed, first=first + rows.start,
                guidance=guidance, keep_path=keep_path,
            )  # fmt: skip

        codes = noise.normal(model.shape, seed, range(first, first + n))
        solution = _in_batches(model, solve, codes, conditions, batch_size)
        path = None if solution.path is None else model.statistics.restore(solution.path)
        return Drawn(model.statistics.restore(solution.x), solution, path)

    if model.tilt is None or not model.tilt.rounds:
        return draw(seed)
    return rounds.settle(model, draw, seed, first)


def decode(
    model: TrainedModel,
    codes: Values,
    *,
    condition: Condition = None,
    guidance: float | None = None,
    batch_size: int = DEFAULT_BATCH,
    **solver: Any,
) -> Tensor:
    """Images or rows of a table from codes such as `encode` returns, (N, *code_shape).

    Other arguments are those of `sample`, but several conditions are one per code; the default solver is that of
    `encode`.

    Returns:
        Images, float32 (N, C, H, W) in [0, 1], or rows, float64 (N, d) in the units of the table, on the CPU.
    Raises:
        ConfigError: the codes do not fit the model, or as for `sample`.
        SolverError: a sample did not reach the end of the flow.
    """
    model.require("code", "decoding")
    codes = _checked_codes(model, codes)
    ends = _coded(model, model.method.decode, "decoding", codes, model.shape, condition, guidance, batch_size, solver)
    return model.statistics.restore(ends)


def encode(
    model: TrainedModel,
    images: Values,
    *,
    condition: Condition = None,
    guidance: float | None = None,
    batch_size: int = DEFAULT_BATCH,
    **solver: Any,
) -> Tensor:
    """The codes of images (N, C, H, W), uint8 or in [0, 1], or of rows (N, d), float32 (N, *code_shape) on the CPU.

    The method says what a code is (`Method.encode`). For a flow it is the point of the prior from which the datum
    comes, which has its shape. Other arguments are those of `sample`, but several conditions are one per datum; the
    default solver of a flow is `ENCODING_SOLVER`.

    Raises:
        SolverError: an image did not reach the prior.
    """
    model.require("code", "encoding")
    shape = model.method.code_shape(model.field, model.data_shape)
    data = model.standardise(images)
    return _coded(model, model.method.encode, "encoding", data, shape, condition, guidance, batch_size, solver)


def prior_codes(model: TrainedModel, seed: int, indices: Iterable[int]) -> Tensor:
    """Codes of unit variance, float32 (len(indices), *code_shape), that are fixed by (seed, index)."""
    model.require("code", "a point of the prior")
    return noise.normal(model.method.code_shape(model.field, model.data_shape), seed, indices)


def interpolate(
    model: TrainedModel,
    start: Values,
    end: Values,
    frames: int,
    *,
    condition: Condition = None,
    **settings: Any,
) -> Tensor:
    """The images or rows between pairs of codes, by spherical interpolation (`dynamics.slerp`).

    Args:
        model: a model with codes.
        start, end: codes, such as `encode` returns, (N, *code_shape).
        frames: the number of data per pair, including both ends, at least 2.
        condition: the condition of all pairs, or one per pair, as in `sample`.
        settings: guidance, batch_size and a solver, as in `decode`.
    Returns:
        As `decode`, with an axis of frames: float32 (N, frames, C, H, W) for images, and float64 (N, frames, d) for
        rows.
    Raises:
        ConfigError: the codes do not fit the model or each other, or as for `sample`.
    """
    start, end = (_checked_codes(model, codes) for codes in (start, end))
    if len(start) != len(end):
        raise ConfigError(
            f"{counted(len(start), 'codes')} to start from, and {len(end)} to end at", hint="give pairs of codes"
        )
    codes = slerp(start, end, whole_number("frames", frames)).transpose(0, 1)
    require_one_each(condition, len(start))
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
    """The class indices of n samples as of `condition_tensor`, after a check that the model was trained for them.

    Args:
        use: the use of the conditions, as the subject of a sentence, such as "sampling".
    Raises:
        ConfigError: a condition does not exist, the model cannot use guidance, or the unconditional field is needed but
            was not trained.
    """
    check_guidance(guidance, model.groups)
    conditions = condition_tensor(condition, model.groups, n, first)
    if guidance is not None and guidance != 1:
        model.require_null("guidance")
    if conditions is not None and bool((conditions < 0).any()):
        model.require_null(f"{use} without a class" + (" of each group" if len(model.groups) > 1 else ""))
    return conditions


def conditions_of_data(
    model: TrainedModel, condition: Condition, n: int, *, guidance: float | None = None, use: str
) -> Tensor | None:
    """The class indices of n given data: one condition for all of them, or one per datum.

    Other arguments are those of `conditions_of`.

    Raises:
        ConfigError: as for `conditions_of`, or the number of conditions is neither 1 nor n.
    """
    require_one_each(condition, n)
    return conditions_of(model, condition, n, guidance=guidance, use=use)


def batches(n: int, batch_size: int) -> list[slice]:
    """The rows of each batch of n images. Raises ConfigError if `batch_size` is below 1."""
    if whole_number("batch_size", batch_size) < 1:
        raise ConfigError(f"batch size {batch_size}: at least one image must be computed at once")
    return [slice(start, min(start + batch_size, n)) for start in range(0, n, batch_size)]


def count_of(n: int) -> int:
    """A number of samples to draw. Raises ConfigError unless it is a whole number of at least 1."""
    if (count := whole_number("n", n)) < 1:
        raise ConfigError(f"n = {count}: ask for at least one image")
    return count


def conditions_on_device(model: TrainedModel, conditions: Tensor | None, rows: slice) -> Tensor | None:
    """The conditions of some rows on the model's device."""
    return None if conditions is None else conditions[rows].to(model.device)


def _checked_codes(model: TrainedModel, codes: Values) -> Tensor:
    """Codes as a tensor. Raises ConfigError unless they are floats of the shape of the codes of the model."""
    found, shape = tensor_of(codes, "codes"), model.method.code_shape(model.field, model.data_shape)
    if tuple(found.shape[1:]) != tuple(shape) or not found.is_floating_point():
        raise ConfigError(
            f"codes of dtype {found.dtype} and shape {tuple(found.shape)} do not fit the model",
            hint=f"expected floats of shape (N, {', '.join(map(str, shape))})",
        )
    return found.float()


def _coded(
    model: TrainedModel,
    convert: Callable[..., Solution],
    use: str,
    points: Tensor,
    shape: tuple[int, ...],
    condition: Condition,
    guidance: float | None,
    batch_size: int,
    solver: dict[str, Any],
) -> Tensor:
    """The results, (N, *shape) on the CPU, of `Method.decode` or `Method.encode` for these codes or data."""
    chosen = Solver.of(solver) if solver else None
    conditions = conditions_of_data(model, condition, len(points), guidance=guidance, use=use)
    if not len(points):
        return torch.empty(0, *shape)

    def solve(points: Tensor, conditions: Tensor | None, _rows: slice) -> Solution:
        return convert(model.field, points, conditions, chosen, guidance=guidance)

    return _in_batches(model, solve, points, conditions, batch_size).require_success().x


def _in_batches(
    model: TrainedModel,
    solve: Callable[[Tensor, Tensor | None, slice], Solution],
    start: Tensor,
    conditions: Tensor | None,
    batch_size: int,
) -> Solution:
    """The solution of all rows of `start`, which is computed in batches on the model's device and joined on the CPU."""
    return _join(
        [
            solve(start[rows].to(model.device), conditions_on_device(model, conditions, rows), rows)
            for rows in batches(len(start), batch_size)
        ]
    )


def _join(parts: Sequence[Solution]) -> Solution:
    """The solutions of several batches as one solution on the CPU."""

    def joined(name: str, dim: int = 0) -> Tensor:
        return torch.cat([getattr(part, name).cpu() for part in parts], dim)

    return Solution(
        **{name: joined(name) for name in ("x", "t", "nfe", "accepted", "rejected", "status")},
        path=None if parts[0].path is None else joined("path", dim=1),
    )
