"""The optimisation of a field: its weights, their average, the optimiser and one step. It knows no training method."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from vpfb_core import networks
from vpfb_core.config import TrainConfig
from vpfb_core.data.batches import Batch as LabelledImages
from vpfb_core.data.statistics import Statistics
from vpfb_core.machine import noise
from vpfb_core.machine.devices import place_network
from vpfb_core.machine.distributed import Group
from vpfb_core.machine.micro_batch import MicroBatch, parts_of
from vpfb_core.methods import version_1
from vpfb_core.methods.base import Method
from vpfb_core.methods.fields import Field
from vpfb_core.methods.step import Batch, DataShape, Loss, Moment
from vpfb_core.training import ema
from vpfb_core.training.optimiser import Optimiser


class Trainer:
    """The weights of a run in training, with their average and the optimiser.

    Args:
        config: the resolved configuration.
        method: the training method.
        network: the description of the network.
        data: the shape of the data and the numbers of classes.
        statistics: the statistics that standardise the data.
        device: the device of the computation.
        group: the processes that divide each batch.
    """

    def __init__(
        self,
        config: TrainConfig,
        method: Method,
        network: dict[str, object],
        data: DataShape,
        statistics: Statistics,
        device: torch.device,
        group: Group,
    ) -> None:
        self.config, self.method, self.statistics, self.device, self.group = config, method, statistics, device, group
        self._shares = tuple(torch.tensor(shares, device=device) for shares in data.shares)
        self.field, self.average = self._new_field(network, data), self._new_field(network, data)
        self.average.eval().requires_grad_(False)
        _share_buffers(self.field, self.average)
        if config.machine.precision == "bf16":  # the average is measured as it will be used: in float32
            self.field.autocast_dtype = torch.bfloat16
        group.broadcast([*self.field.parameters(), *self.average.parameters()])
        self.optimiser = Optimiser(self.field, config.optimiser.algorithm or "adam")
        self._has_dropout = any(isinstance(layer, nn.Dropout) and layer.p for layer in self.field.modules())
        self._phase = self._phase_began = 0  # the phase of the method, and its first step
        self._set_rates()
        self._ema_exponent = ema.power_exponent(config.optimiser.ema)
        largest_share = -(-(config.optimiser.batch_size or 1) // group.count)
        self.micro_batch = MicroBatch(config.machine.micro_batch or largest_share, device, divisible=method.divisible)
        if config.machine.compile == "on":
            self.field.compile(dynamic=False)

    def step(self, images: LabelledImages, step: int, fraction: float, rollbacks: int = 0) -> tuple[Tensor, Tensor]:
        """Take step number `step` ≥ 0 of a run that is `fraction` ∈ [0, 1] done.

        Args:
            images: this process's share of the images and labels of the step.
        Returns:
            (loss, gradient norm before clipping), both (), on the device. Nothing is synchronised. The loss is that of
            the share, scaled so that its mean over the processes is that of the batch.
        Raises:
            StepTooLargeError: the step does not fit into the memory, even one image at a time.
        """
        if (phase := self.method.phase(fraction)) != self._phase:
            self._begin(phase, step)
        at = Moment(step, fraction, self._cooled(fraction), rollbacks, self.config.run.seed, self.device)
        batch = self._batch(images, at)
        self.field.train()
        loss = self.micro_batch.fit(lambda at_once: self._differentiate(batch, replace(at, at_once=at_once)))
        self.group.average_gradients(self.field.parameters())
        norm = torch.nn.utils.clip_grad_norm_(self.field.parameters(), self.config.optimiser.clip)
        self.optimiser.step(self.learning_rate(step, fraction, rollbacks))
        since = step + 1 - self._phase_began
        ema.update(self._weights(self.average), self._weights(self.field), since, self._ema_exponent)
        return loss, norm

    def _begin(self, phase: int, step: int) -> None:
        """Begin a phase of the method before step number `step`: with the averaged weights, and a new average."""
        torch._foreach_copy_(self._weights(self.field), self._weights(self.average))
        self._phase, self._phase_began = phase, step
        self._set_rates()

    def _set_rates(self) -> None:
        """Set the factors of the learning rates in the present phase."""
        self.optimiser.set_factors(lambda name: self.method.rate(name, self._phase))

    def _batch(self, images: LabelledImages, at: Moment) -> Batch:
        """Standardised data and their conditions, of which some are hidden."""
        values, labels, keys = images
        total = self.config.optimiser.batch_size or 1
        first = self.group.share(total).start
        condition = labels
        if labels is not None:
            chance = torch.rand(total, labels.shape[1], generator=at.generator("condition"), device=self.device)
            dropout = self.method.settings.condition_dropout or 0.0
            condition = labels.masked_fill(chance[first : first + len(labels)] < dropout, -1)

        def cells() -> Tensor:
            draws = at.generator("dequantisation")
            uniform = torch.rand((total, *values.shape[1:]), generator=draws, device=self.device) - 0.5
            return uniform[first : first + len(values)]

        learned = self.statistics.for_training(values, cells)
        data = self.statistics.standardise(learned, self.device)
        return Batch(data, condition, first, total, keys, labels, self._shares)

    def _differentiate(self, batch: Batch, at: Moment) -> Tensor:
        """Compute the gradient of the share's part of the loss in the parameters, and return that loss.

        The random numbers of the method do not depend on how the batch is divided. The division changes only the order
        of sums and the masks of dropout.
        """
        self.field.zero_grad()
        total = torch.zeros((), device=self.device)
        for loss in self.method.losses(self.field, batch, at):
            for rows in parts(batch, loss, at.at_once):
                share = self.group.count * (rows.stop - rows.start) / batch.total
                with self._dropout_stream(at, batch.first + rows.start):
                    value = loss.value(rows)
                    if value.shape != ():
                        raise ValueError(f"the loss {loss.name!r} of some rows has shape {tuple(value.shape)}, not ()")
                    scaled = loss.weight * share * value
                    if scaled.requires_grad:  # a term that has nothing to say about these rows is a constant
                        scaled.backward()
                total.add_(scaled.detach())
        return total

    def learning_rate(self, step: int, fraction: float, rollbacks: int = 0) -> float:
        """Linear warm-up over `warmup` steps, then constant, then a cosine down to 0 over the last `decay` of the run.

        Halved at every roll-back.
        """
        warm = min(1.0, (step + 1) / ((self.config.optimiser.warmup or 0) + 1))
        cool = 0.5 * (1 + math.cos(math.pi * self._cooled(fraction)))
        return (self.config.optimiser.lr or 0.0) * warm * cool * 0.5**rollbacks

    def _cooled(self, fraction: float) -> float:
        """The share of the decay of the learning rate that is over, in [0, 1]."""
        decay = self.config.optimiser.decay
        return min(max((fraction - (1 - decay)) / decay, 0.0), 1.0) if decay else 0.0

    # --- state --------------------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a step changes, by name."""
        tensors = {f"network/{name}": tensor for name, tensor in self.field.state_dict().items()}
        tensors |= {f"ema/{name}": parameter.detach() for name, parameter in self.average.named_parameters()}
        tensors |= {f"method/{name}": tensor for name, tensor in self.method.state().items()}
        if self._phase:
            tensors["phase"] = torch.tensor([self._phase, self._phase_began])
        tensors |= self.optimiser.tensors()
        return tensors

    def load(self, tensors: dict[str, Tensor], step: int, format_version: int = 2) -> None:
        """Restore what `tensors` returned after `step` steps.

        Args:
            format_version: the format version of the file from which the tensors were read.
        Raises:
            KeyError, RuntimeError: the tensors do not fit the network.
        """
        if format_version == 1:
            tensors = version_1.state_tensors(tensors)
        self.field.load_state_dict(_under("network/", tensors))
        self.average.load_state_dict({**self.field.state_dict(), **_under("ema/", tensors)})  # buffers are shared
        self.method.load_state(_under("method/", tensors))
        self._phase, self._phase_began = tensors["phase"].tolist() if "phase" in tensors else (0, 0)
        self._set_rates()
        self.optimiser.load(tensors, step)

    def _new_field(self, network: dict[str, object], data: DataShape) -> Field:
        field = self.method.field(networks.build(network, self.config.run.seed), data)
        place_network(field, self.device)
        return field

    def _weights(self, field: Field) -> list[Tensor]:
        return [parameter.detach() for parameter in field.parameters()]

    @contextlib.contextmanager
    def _dropout_stream(self, at: Moment, first: int) -> Iterator[None]:
        """Inside this context, dropout draws by the seed of these rows of this step, from the global generator."""
        if not self._has_dropout:
            yield
            return
        seed = noise.derive_seed(self.config.run.seed, "dropout", at.step, at.rollbacks, first)
        with noise.seeded_global_generator(self.device, seed):
            yield


def parts(batch: Batch, loss: Loss, at_once: int) -> list[slice]:
    """The rows of a share in parts of at most `at_once` rows, if the loss is divisible.

    The sizes of the parts differ by at most one, so that a step is compiled for at most two sizes.
    """
    count = len(batch.data)
    return parts_of(count, at_once) if loss.divisible else [slice(0, count)]


def _share_buffers(field: Field, other: Field) -> None:
    """Give another field the buffers of a field, such as particles, which are not averaged."""
    for name, buffer in field.named_buffers():
        owner, _, last = name.rpartition(".")
        setattr(other.get_submodule(owner), last, buffer)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
