"""The optimisation: weights, their average, the optimiser, and one step of them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from vpfb_core import homotopy, networks, noise
from vpfb_core.config import TrainConfig
from vpfb_core.model import Statistics
from vpfb_core.objectives import OBJECTIVES, AngleDistribution
from vpfb_core.potential import Potential, UnpreconditionedPotential
from vpfb_core.training import ema
from vpfb_core.training.batches import Batches

_MOMENTS = ("exp_avg", "exp_avg_sq")


class Trainer:
    """One run's weights on their way.

    Args:
        config: resolved.
        network: description of the network.
        batches: of the images to train on, on the device.
        statistics: that standardise the images.
        device: where to compute.
    """

    def __init__(
        self,
        config: TrainConfig,
        network: dict[str, object],
        batches: Batches,
        statistics: Statistics,
        device: torch.device,
    ) -> None:
        self.config, self.batches, self.statistics, self.device = config, batches, statistics, device
        self.potential = self._potential(network).to(device)
        self.average = self._potential(network).to(device).eval().requires_grad_(False)
        self.average.autocast_dtype = None  # it is measured as it will be used: in float32
        self.optimizer = torch.optim.Adam(self.potential.parameters(), betas=(0.9, 0.99), fused=True)
        self.objective = OBJECTIVES[config.objective]
        self.angles = AngleDistribution(config.angle_mean, config.angle_std)
        self._ema_exponent = ema.power_exponent(config.ema)
        if config.compile == "on":
            self.potential.compile()

    def step(self, step: int, fraction: float, rollbacks: int = 0) -> tuple[Tensor, Tensor]:
        """Take step number `step` ≥ 0 of a run that is `fraction` ∈ [0, 1] done.

        Returns:
            (loss, gradient norm before clipping), both (), on the device. Nothing is synchronised.
        """
        config, draws = self.config, noise.generator(self.config.seed, "step", step, rollbacks, device=self.device)
        images, labels = self.batches[step]
        data = self.statistics.standardise(images) * config.data_std
        if labels is not None:
            dropped = torch.rand(labels.shape, generator=draws, device=self.device) < (config.condition_dropout or 0.0)
            labels = labels.masked_fill(dropped, -1)
        self.potential.train()
        with self._dropout_stream(step, rollbacks):
            loss = self.objective(self.potential, data, labels, generator=draws, angles=self.angles)
            self.optimizer.zero_grad()
            loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.potential.parameters(), config.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(step, fraction, rollbacks)
        self.optimizer.step()
        ema.update(self._weights(self.average), self._weights(self.potential), step + 1, self._ema_exponent)
        return loss.detach(), norm

    def learning_rate(self, step: int, fraction: float, rollbacks: int = 0) -> float:
        """Linear warm-up over `warmup` steps, then constant, then a cosine down to 0 over the last `decay` of the run.

        Halved at every roll-back.
        """
        warm = min(1.0, (step + 1) / ((self.config.warmup or 0) + 1))
        decay = self.config.decay
        late = (fraction - (1 - decay)) / decay if decay > 0 else 0.0
        cool = 0.5 * (1 + math.cos(math.pi * min(max(late, 0.0), 1.0)))
        return (self.config.lr or 0.0) * warm * cool * 0.5**rollbacks

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
        self.potential.network.load_state_dict(_under("network/", tensors))
        self.average.network.load_state_dict(_under("ema/", tensors))
        self.optimizer.state.clear()
        if step:
            for name, parameter in self.potential.network.named_parameters():
                moments = {moment: tensors[f"adam/{moment}/{name}"].to(self.device) for moment in _MOMENTS}
                if any(moment.shape != parameter.shape for moment in moments.values()):
                    raise RuntimeError(f"the moments of {name} do not have its shape")
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
        return potential

    def _weights(self, potential: Potential) -> list[Tensor]:
        return [parameter.detach() for parameter in potential.parameters()]

    @contextlib.contextmanager
    def _dropout_stream(self, step: int, rollbacks: int) -> Iterator[None]:
        """Dropout layers know only the global generator: lend it a seed of this step, and put it back."""
        if not self.config.dropout:
            yield
            return
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(noise.derive_seed(self.config.seed, "dropout", step, rollbacks))
            yield


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
