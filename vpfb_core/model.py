"""A model: a potential with the statistics of its data and the names of its conditions.

Here, and nowhere else, images in [0, 1] become standardised tensors and come back.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vpfb_core import checkpoint, homotopy, networks, noise
from vpfb_core.conditions import condition_tensor
from vpfb_core.data.images import ConditionGroup
from vpfb_core.devices import resolve_device
from vpfb_core.errors import CheckpointError, ConfigError
from vpfb_core.flow import Solution, Solver, decode, encode
from vpfb_core.potential import Potential, UnpreconditionedPotential
from vpfb_core.runs import Run, find_model

DEFAULT_BATCH = 256  # samples solved at once unless told otherwise

POTENTIALS: dict[str, type[Potential]] = {"arc": Potential, "unpreconditioned": UnpreconditionedPotential}


@dataclass(frozen=True)
class Statistics:
    """Mean of each channel and one standard deviation of the training images, in units of [0, 1]."""

    mean: tuple[float, ...]
    std: float

    @classmethod
    def of(cls, images: Tensor) -> Statistics:
        """From uint8 images (N, C, H, W). Pictures without contrast are given the deviation of one grey level."""
        parts = images.split(1024)
        mean = sum(part.sum((0, 2, 3), dtype=torch.float64) for part in parts) / images[:, 0].numel()
        assert isinstance(mean, Tensor)
        squares = sum(float((part.double() - mean[:, None, None]).square().sum()) for part in parts)
        std = max((squares / images.numel()) ** 0.5, 1.0)
        return cls(tuple((mean / 255).tolist()), std / 255)

    def standardise(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W), uint8 or float in [0, 1] → z, mean 0 and standard deviation 1, float32."""
        images = images.float() / 255 if images.dtype == torch.uint8 else images.float()
        return (images - self._mean(images)) / self.std

    def to_images(self, z: Tensor) -> Tensor:
        """z (…, C, H, W) → images, float32 in [0, 1]."""
        return (z * self.std + self._mean(z)).clamp(0, 1)

    def _mean(self, like: Tensor) -> Tensor:
        return torch.tensor(self.mean, dtype=torch.float32, device=like.device)[:, None, None]


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
    """

    potential: Potential
    network: dict[str, Any]
    statistics: Statistics
    shape: tuple[int, int, int]
    groups: tuple[ConditionGroup, ...] = ()
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        return next(self.potential.parameters()).device

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(parameter.numel() for parameter in self.potential.parameters())

    def standardise(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W), uint8 or in [0, 1] → x̄, mean 0 and standard deviation a, on the model's device."""
        if images.ndim != 4 or tuple(images.shape[1:]) != self.shape:
            raise ConfigError(
                f"images of shape {tuple(images.shape[1:])} do not fit a model of {self.shape}",
                hint="the shape is (channels, height, width)",
            )
        return self.statistics.standardise(images.to(self.device)) * self.potential.data_std

    def sample(
        self,
        n: int,
        seed: int = 0,
        *,
        first: int = 0,
        condition: str | Sequence[str] | Tensor | None = None,
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
        conditions = condition_tensor(condition, self.groups, n, first)
        codes = noise.normal(self.shape, seed, range(first, first + n))

        def solve(codes: Tensor, conditions: Tensor | None) -> Solution:
            return decode(self.potential, codes, conditions, chosen, keep_path)

        solution = self._in_batches(solve, codes, conditions, batch_size)
        if return_info:
            return self.statistics.to_images(solution.x), solution
        return self.statistics.to_images(solution.require_success().x)

    def decode(
        self,
        codes: Tensor,
        *,
        condition: str | Sequence[str] | Tensor | None = None,
        batch_size: int = DEFAULT_BATCH,
        **solver: Any,
    ) -> Tensor:
        """Prior points (N, C, H, W) → images; arguments and returns as in `sample`. dopri5 unless told otherwise."""
        chosen = Solver.choose(**solver) if solver else Solver.choose("dopri5")

        def solve(codes: Tensor, conditions: Tensor | None) -> Solution:
            return decode(self.potential, codes, conditions, chosen)

        conditions = condition_tensor(condition, self.groups, len(codes))
        solution = self._in_batches(solve, codes, conditions, batch_size).require_success()
        return self.statistics.to_images(solution.x)

    def encode(
        self,
        images: Tensor,
        *,
        condition: str | Sequence[str] | Tensor | None = None,
        batch_size: int = DEFAULT_BATCH,
        **solver: Any,
    ) -> Tensor:
        """Images (N, C, H, W), uint8 or in [0, 1] → their prior points by the reverse flow, float32 on the CPU.

        Arguments as in `sample`. dopri5 unless told otherwise.
        """
        chosen = Solver.choose(**solver) if solver else Solver.choose("dopri5")

        def solve(z: Tensor, conditions: Tensor | None) -> Solution:
            return encode(self.potential, z, conditions, chosen)

        z = self.standardise(images) / self.potential.data_std
        conditions = condition_tensor(condition, self.groups, len(images))
        return self._in_batches(solve, z, conditions, batch_size).require_success().x

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
        }
        checkpoint.write(Path(path), "model", self.potential.network.state_dict(), document)


def _join(parts: Sequence[Solution]) -> Solution:
    """The solutions of batches as one, on the CPU."""

    def joined(name: str, dim: int = 0) -> Tensor:
        return torch.cat([getattr(part, name).cpu() for part in parts], dim)

    return Solution(
        **{name: joined(name) for name in ("x", "t", "nfe", "accepted", "rejected", "status")},
        path=None if parts[0].path is None else joined("path", dim=1),
    )


def load(name: str | os.PathLike[str] | None = None, *, device: str = "auto", weights: str = "ema") -> Model:
    """Load a model: a .safetensors file, a run folder, or a built-in name; None as `runs.find_model` says.

    Args:
        device: auto, cpu, cuda, cuda:N or mps.
        weights: "ema", or "raw" for the weights that the optimiser holds (a run folder has them).
    Raises:
        CheckpointError: missing, damaged, or not a model that this version can build.
        ConfigError: no such device.
    """
    target = resolve_device(device)
    path = find_model(name)
    stored = checkpoint.read(path, "model")
    try:
        model = _build(stored.document)
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise CheckpointError(f"{path} describes a model that this version cannot build: {error}") from error
    _load_weights(model.potential, stored.tensors if weights == "ema" else _raw_weights(path, weights), path)
    model.potential.to(target).eval().requires_grad_(False)
    return model


def _build(document: dict[str, Any]) -> Model:
    network = networks.build(document["network"])
    schedule = homotopy.from_dict(document["homotopy"])
    channels, height, width = document["shape"]
    return Model(
        potential=POTENTIALS[document["potential"]](network, schedule, float(document["data_std"])),
        network=document["network"],
        statistics=Statistics(tuple(document["statistics"]["mean"]), document["statistics"]["std"]),
        shape=(channels, height, width),
        groups=tuple(ConditionGroup(group["name"], tuple(group["classes"])) for group in document["groups"]),
        about=document["about"],
    )


def _load_weights(potential: Potential, tensors: dict[str, Tensor], path: Path) -> None:
    """Every name, shape and dtype must fit; nothing is left as it was drawn."""
    expected = potential.network.state_dict()
    for name in expected.keys() | tensors.keys():
        if name not in tensors or name not in expected:
            raise CheckpointError(f"{path} does not fit its own description: tensor {name!r} is missing or unknown")
        if tensors[name].shape != expected[name].shape or tensors[name].dtype != expected[name].dtype:
            found, wanted = tensors[name], expected[name]
            raise CheckpointError(
                f"{path} does not fit its own description: {name!r} is {found.dtype} {tuple(found.shape)}, "
                f"not {wanted.dtype} {tuple(wanted.shape)}"
            )
    potential.network.load_state_dict(tensors)


def _raw_weights(model_path: Path, weights: str) -> dict[str, Tensor]:
    if weights != "raw":
        raise ConfigError(f"unknown weights {weights!r}", hint="weights: ema, raw")
    state = Run(model_path.parent).state
    if not state.is_file():
        raise CheckpointError(f"no raw weights for {model_path}", hint="only a run folder has them, in its state")
    stored = checkpoint.read(state, "state").tensors
    return {name.removeprefix("network/"): tensor for name, tensor in stored.items() if name.startswith("network/")}
