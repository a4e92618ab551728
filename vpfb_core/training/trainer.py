"""The optimisation: weights, their average, the optimiser, and one step of them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from vpfb_core import networks
from vpfb_core.config import TrainConfig
from vpfb_core.data.batches import Batch
from vpfb_core.data.statistics import Statistics
from vpfb_core.machine import noise
from vpfb_core.machine.devices import place_network
from vpfb_core.machine.distributed import Group
from vpfb_core.methods.vpfb import homotopy
from vpfb_core.methods.vpfb.objectives import OBJECTIVES, PAIR_EVERY, AngleDistribution, Objective, Part, contrast
from vpfb_core.methods.vpfb.potential import Potential, UnpreconditionedPotential
from vpfb_core.networks.checkpointing import checkpoint_activations
from vpfb_core.training import ema

_MOMENTS = ("exp_avg", "exp_avg_sq")


class Trainer:
    """One run's weights on their way.

    Args:
        config: resolved.
        network: description of the network.
        statistics: that standardise the images.
        device: where to compute.
        group: the processes that share each batch.
    """

    def __init__(
        self,
        config: TrainConfig,
        network: dict[str, object],
        statistics: Statistics,
        device: torch.device,
        group: Group,
    ) -> None:
        self.config, self.statistics, self.device, self.group = config, statistics, device, group
        self.potential, self.average = self._potential(network), self._potential(network)
        self.average.eval().requires_grad_(False)
        self.average.autocast_dtype = None  # it is measured as it will be used: in float32
        self.optimizer = torch.optim.Adam(self.potential.parameters(), betas=(0.9, 0.99), fused=True)
        self.objective = OBJECTIVES[config.objective]
        assert config.angle_mean is not None and config.angle_std is not None  # resolved
        self.angles = AngleDistribution(config.angle_mean, config.angle_std)
        self._ema_exponent = ema.power_exponent(config.ema)
        if config.checkpoint_activations:
            checkpoint_activations(self.potential.network)
        if config.compile == "on":
            self.potential.compile(dynamic=False)
        self._replica = group.replicated(self.potential)

    def step(self, batch: Batch, step: int, fraction: float, rollbacks: int = 0) -> tuple[Tensor, Tensor]:
        """Take step number `step` ≥ 0 of a run that is `fraction` ∈ [0, 1] done.

        Args:
            batch: this process's share of the images and labels of the step.
        Returns:
            (loss, gradient norm before clipping), both (), on the device. Nothing is synchronised. The loss is that of
            the share, scaled so that its mean over the processes is that of the batch.
        """
        loss = self._differentiate(batch, step, fraction, rollbacks)
        norm = torch.nn.utils.clip_grad_norm_(self.potential.parameters(), self.config.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(step, fraction, rollbacks)
        self.optimizer.step()
        ema.update(self._weights(self.average), self._weights(self.potential), step + 1, self._ema_exponent)
        return loss, norm

    def _differentiate(self, batch: Batch, step: int, fraction: float, rollbacks: int) -> Tensor:
        """Leave in the parameters the gradient of the mean loss of the whole batch; return the loss as `step` does.

        Everything is drawn for the whole batch, by (seed, step): how it is shared, and how many images are
        differentiated at a time, changes nothing but the order of sums, and the masks of dropout.
        """
        images, labels = batch
        config, total = self.config, self.config.batch_size or 1
        first = self.group.share(total).start
        if labels is not None:
            draws = self._draws("condition", step, rollbacks)
            chance = torch.rand(total, labels.shape[1], generator=draws, device=self.device)
            dropped = chance[first : first + len(labels)] < (config.condition_dropout or 0.0)
            labels = labels.masked_fill(dropped, -1)
        self.potential.train()
        self.optimizer.zero_grad()
        at_once = config.micro_batch or len(images)
        loss = torch.zeros((), device=self.device)

        def differentiate(objective: Objective, potential: Any, stream: str, rows: slice, weight: float) -> None:
            data = self.statistics.standardise(images[rows]) * config.data_std
            condition = None if labels is None else labels[rows]
            with self._dropout_stream(step, rollbacks, first + rows.start):
                mean = objective(
                    potential, data, condition, generator=self._draws(stream, step, rollbacks), angles=self.angles,
                    part=Part(first + rows.start, total),
                )  # fmt: skip
                scaled = weight * self.group.count * len(data) / total * mean
                if scaled.requires_grad:  # else no pair was at hand
                    scaled.backward()
            loss.add_(scaled.detach())

        contrast_weight = self.contrast_weight(fraction)
        if contrast_weight and labels is not None:
            for rows in _without_cutting_pairs(first, len(images), at_once):
                with self._exchange(last=False):
                    differentiate(contrast, self.potential, "contrast", rows, contrast_weight)
        parts = _evenly(len(images), at_once)
        for rows in parts:
            with self._exchange(last=rows is parts[-1]):
                differentiate(self.objective, self._replica, "step", rows, 1.0)
        return loss

    def _draws(self, stream: str, step: int, rollbacks: int) -> torch.Generator:
        return noise.generator(self.config.seed, stream, step, rollbacks, device=self.device)

    @contextlib.contextmanager
    def _exchange(self, *, last: bool) -> Iterator[None]:
        """The processes exchange gradients with the last backward pass of a step, when they have added up."""
        replica: Any = self._replica
        with contextlib.nullcontext() if last or self.group.count == 1 else replica.no_sync():
            yield

    def learning_rate(self, step: int, fraction: float, rollbacks: int = 0) -> float:
        """Linear warm-up over `warmup` steps, then constant, then a cosine down to 0 over the last `decay` of the run.

        Halved at every roll-back.
        """
        warm = min(1.0, (step + 1) / ((self.config.warmup or 0) + 1))
        cool = 0.5 * (1 + math.cos(math.pi * self._decayed(fraction)))
        return (self.config.lr or 0.0) * warm * cool * 0.5**rollbacks

    def contrast_weight(self, fraction: float) -> float:
        """Of the contrast of conditions: up from 0 while the rate falls. Earlier it slows down learning to draw."""
        return (self.config.contrast or 0.0) * self._decayed(fraction)

    def _decayed(self, fraction: float) -> float:
        """How much of the part of the run in which the rate falls is over, in [0, 1]."""
        decay = self.config.decay
        return min(max((fraction - (1 - decay)) / decay, 0.0), 1.0) if decay else 0.0

    # --- state --------------------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a step changes, by name."""
        tensors = {f"network/{name}": tensor for name, tensor in self.potential.network.state_dict().items()}
        tensors |= {f"ema/{name}": tensor for name, tensor in self.average.network.state_dict().items()}
        for name, parameter in self.potential.network.named_parameters():
            state = self.optimizer.state.get(parameter, {})
            tensors |= {f"adam/{moment}/{name}": state[moment] for moment in _MOMENTS if moment in state}
        return tensors

    def load(self, tensors: dict[str, Tensor], step: int) -> None:
        """Put back what `tensors` gave after `step` steps.

        Raises:
            KeyError, RuntimeError: the tensors do not fit the network.
        """
        tensors = {networks.current_name(name): tensor for name, tensor in tensors.items()}
        self.potential.network.load_state_dict(_under("network/", tensors))
        self.average.network.load_state_dict(_under("ema/", tensors))
        self.optimizer.state.clear()
        if step:
            for name, parameter in self.potential.network.named_parameters():
                kept = {moment: tensors[f"adam/{moment}/{name}"] for moment in _MOMENTS}
                if any(tensor.shape != parameter.shape for tensor in kept.values()):
                    raise RuntimeError(f"the moments of {name} do not have its shape")
                # In the parameter's layout: the fused optimiser walks through both as they lie in memory.
                moments = {moment: torch.empty_like(parameter).copy_(tensor) for moment, tensor in kept.items()}
                count = torch.tensor(float(step), device=self.device)
                self.optimizer.state[parameter] = {"step": count, **moments}

    def _potential(self, network: dict[str, object]) -> Potential:
        config = self.config
        parameters: dict[str, object] = {"name": config.schedule}
        if config.floor is not None:
            parameters["nu" if config.schedule == "log-homotopy" else "sigma_min"] = config.floor
        schedule = homotopy.from_dict(parameters)
        kind = UnpreconditionedPotential if config.objective == "official" else Potential
        potential = kind(networks.build(network, config.seed), schedule, config.data_std)
        if config.precision == "bf16":
            potential.autocast_dtype = torch.bfloat16
        place_network(potential, self.device)
        return potential

    def _weights(self, potential: Potential) -> list[Tensor]:
        return [parameter.detach() for parameter in potential.parameters()]

    @contextlib.contextmanager
    def _dropout_stream(self, step: int, rollbacks: int, first: int) -> Iterator[None]:
        """Dropout layers know only the global generator: lend it a seed of these rows of this step, and put it back."""
        if not self.config.dropout:
            yield
            return
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(noise.derive_seed(self.config.seed, "dropout", step, rollbacks, first))
            yield


def _evenly(count: int, largest: int) -> list[slice]:
    """So many rows in parts of at most `largest`, as equal as can be: a compiled step knows one size, or two."""
    parts = -(-count // largest)
    return [slice(part * count // parts, (part + 1) * count // parts) for part in range(parts)]


def _without_cutting_pairs(first: int, count: int, at_once: int) -> list[slice]:
    """The rows from `first` on in parts of about `at_once`, cut where no pair of `contrast` is, from 0."""
    stride = PAIR_EVERY * max(1, at_once // PAIR_EVERY)
    start = first - first % stride
    edges = [0, *range(start + stride - first, count, stride), count]
    return [slice(*edge) for edge in pairwise(edges)]


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
