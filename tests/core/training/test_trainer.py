"""One step of the trainer, compiled and not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from present import present
from torch import Tensor

import vpfb_core as vpfb
from vpfb_core.training import prepare
from vpfb_core.training.inputs import Inputs
from vpfb_core.training.trainer import Trainer


def gradient(trainer: Trainer, inputs: Inputs) -> list[Tensor]:
    """The gradient of step 0, with weights that are not zero anywhere."""
    # Outside of the compiler, masks of dropout are drawn in the order of memory, which must be the same in both.
    trainer.field.to(memory_format=torch.contiguous_format)
    draws = torch.Generator().manual_seed(0)
    for parameter in trainer.field.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=draws)
    trainer.step(inputs.batches[0], 0, 0.0)
    return [present(parameter.grad) for parameter in trainer.field.parameters()]


@pytest.mark.slow
@pytest.mark.usefixtures("untold")
@pytest.mark.parametrize("method", ["vpfb", "energy-matching"])
def test_a_step_in_bf16_with_dropout_is_compiled_whole_and_has_the_gradient_of_the_eager_one(method: str) -> None:
    settings: dict[str, Any] = {
        "data": "digits", "method": method, "widths": (8,), "attention": (), "dropout": 0.2, "batch_size": 8,
        "steps": 1, "clip": 1e9, "device": "cpu", "precision": "bf16", "compile": "off",
    }  # fmt: skip
    inputs = Inputs.of(prepare(vpfb.TrainConfig(**settings)))
    expected = gradient(inputs.trainer(), inputs)
    compiled = inputs.trainer()
    compiled.field.compile(backend="aot_eager", fullgraph=True, dynamic=False)
    for ours, theirs in zip(gradient(compiled, inputs), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))
