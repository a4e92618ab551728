"""What a training step needs of the memory, and how many images at a time fit into it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vpfb_core import networks
from vpfb_core.config import TrainConfig
from vpfb_core.errors import StepTooLargeError
from vpfb_core.machine.devices import memory_of
from vpfb_core.model.runs import Run
from vpfb_core.networks.checkpointing import Checkpointed
from vpfb_core.networks.unet import Attention

SHARE = 0.8  # of the memory, that a step may take by its estimate

# How many times over a step keeps what the layers of one forward pass answer: for the gradient, and for the derivative
# of that gradient. Measured on the CPU (benchmarks/throughput.py): 2.1 to 3.2. A block that is computed anew keeps its
# input and the gradient of its output; while it is differentiated, all at once, it takes some nine times its answers.
KEPT, ANEW = 3.2, 9
BYTES = {"fp32": 4, "bf16": 3}  # of a number, on average: normalisation stays in float32


def estimate_memory(network: nn.Module, config: TrainConfig) -> int:
    """Bytes that a training step needs, about: weights, optimiser and average, and what both derivatives keep."""
    weights = 4 * sum(parameter.numel() for parameter in network.parameters())
    evaluations = 2 * (config.micro_batch or config.batch_size or 1)
    return 5 * weights + BYTES[config.precision or "fp32"] * _values_kept(network, config) * evaluations


def fit(network: nn.Module, config: TrainConfig, memory: int) -> TrainConfig:
    """The configuration with fewer images at a time, until a step fits into so many bytes by its estimate.

    The batch stays what it is, and so does what a run computes.
    """
    while (config.micro_batch or 1) > 1 and estimate_memory(network, config) > SHARE * memory:
        config = config.replace(micro_batch=((config.micro_batch or 1) + 1) // 2)
    return config


def too_large(config: TrainConfig, network: dict[str, Any], folder: Run, step: int) -> StepTooLargeError:
    """What to say of a step that has not fitted into the memory, and of what would."""
    at_once, device = config.micro_batch or 1, torch.device(config.device)
    half = config.replace(micro_batch=max(1, at_once // 2))
    fits = fit(networks.build(network), half, memory_of(device)).micro_batch
    go_on = f"vpfb train --resume {folder.path}"
    if config.objective == "official":
        hint = f"a batch of {fits} should fit: begin again with --batch-size {fits}"
    elif at_once > 1:
        hint = f"{fits} at a time should fit, with the same result: {go_on} --set micro_batch={fits}"
    else:
        hint = f"{go_on} --set checkpoint_activations=true needs less; so does a smaller --size or --preset"
    return StepTooLargeError(
        f"out of memory on {config.device} at step {step}, with {at_once} images at a time; the last save is kept",
        hint=hint,
    )


def _values_kept(network: nn.Module, config: TrainConfig) -> int:
    """Numbers that a step keeps for each point it evaluates, counted by letting one image through."""
    blocks = [module for module in network.modules() if isinstance(module, Checkpointed)]
    inside = {layer: block for block in blocks for layer in block.modules()}
    answers: dict[nn.Module | None, int] = dict.fromkeys([None, *blocks], 0)
    inputs = 0

    def count(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal inputs
        if isinstance(module, Checkpointed):
            inputs += arguments[0].numel()
        elif isinstance(module, Attention):  # the weights, before and after the softmax
            answers[inside.get(module)] += 2 * module.heads * output[0, 0].numel() ** 2
        else:
            answers[inside.get(module)] += output.numel()

    counted = [
        module
        for module in network.modules()
        if isinstance(module, Checkpointed | Attention)
        or not (list(module.children()) or isinstance(module, nn.Identity | nn.Dropout))
    ]
    hooks: list[Any] = [module.register_forward_hook(count) for module in counted]
    network.eval()  # dropout would draw from the global generator
    with torch.no_grad():
        network(torch.zeros(1, config.channels or 1, config.size or 1, config.size or 1), torch.zeros(1))
    for hook in hooks:
        hook.remove()
    if config.checkpoint_activations and blocks:
        outside = answers.pop(None)
        return round(KEPT * outside + 2 * inputs + ANEW * max(answers.values()))
    return round(KEPT * sum(answers.values()))
