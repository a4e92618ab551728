"""What a GPU must do as the CPU does, and without waiting: on CUDA where there is one, or on VPFB_TEST_DEVICE.

`benchmarks/gpu.sh` runs it; with VPFB_TEST_DEVICE=cpu it tries itself out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from present import present
from torch import Tensor

import vpfb_core as vpfb
from vpfb_core import networks
from vpfb_core.machine import container as checkpoint
from vpfb_core.training import prepare
from vpfb_core.training.inputs import Inputs
from vpfb_core.training.trainer import Trainer
from vpfb_core.uses import ood

DEVICE = os.environ.get("VPFB_TEST_DEVICE", "cuda")
IS_CUDA = DEVICE.startswith("cuda")
pytestmark = pytest.mark.skipif(
    IS_CUDA and ("VPFB_TEST_DEVICE" not in os.environ and not torch.cuda.is_available()), reason="there is no GPU"
)


def config(**settings: Any) -> vpfb.TrainConfig:
    small = {"data": "digits", "widths": (16, 32), "attention": (4,), "conditional": True, "batch_size": 32, "steps": 8,
             "device": DEVICE, "precision": "fp32", "compile": "off", "warmup": 0, "clip": 1e9}  # fmt: skip
    return vpfb.TrainConfig(**(small | settings))


def begun(**settings: Any) -> tuple[Inputs, Trainer]:
    inputs = Inputs.of(prepare(config(**settings)))
    return inputs, inputs.trainer()


@contextmanager
def no_waiting() -> Iterator[None]:
    """Within, to wait for the GPU is an error."""
    if IS_CUDA:
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if IS_CUDA:
            torch.cuda.set_sync_debug_mode("default")


def gradient(trainer: Trainer, inputs: Inputs) -> Tensor:
    """Of step 0, with weights that are not zero anywhere."""
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trainer.field.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=draws))
    trainer.step(inputs.batches[0], 0, 0.0)
    return torch.cat([present(parameter.grad).flatten() for parameter in trainer.field.parameters()]).cpu()


def assert_near(ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    assert float((ours - theirs).norm() / theirs.norm()) < tolerance


@pytest.mark.parametrize("settings", [{}, {"dropout": 0.1}, {"precision": "bf16"}])
def test_a_step_waits_for_nothing(settings: dict[str, Any]) -> None:
    inputs, trainer = begun(**settings)
    for step in range(2):  # constants are moved at the first
        with no_waiting() if step else nullcontext():
            loss, norm = trainer.step(inputs.batches[step], step, 0.0)
    assert loss.isfinite()
    assert norm.isfinite()


def test_building_and_training_leave_the_generators_of_all_devices(tmp_path: Path) -> None:
    def states() -> list[Tensor]:
        on_gpu = [torch.cuda.get_rng_state(DEVICE)] if IS_CUDA else []
        return [torch.get_rng_state(), *on_gpu]

    before = states()
    networks.build({"name": "unet", "channels": 1, "size": 8})
    vpfb.train(config(out=str(tmp_path / "run"), dropout=0.1, steps=2))
    vpfb.load("digits", device=DEVICE)
    assert all(torch.equal(one, other) for one, other in zip(before, states(), strict=True))


def test_the_gradient_of_a_potential_is_that_of_the_cpu() -> None:
    network = networks.build({"name": "unet", "channels": 3, "size": 16, "widths": [16, 32], "attention": [8]})
    potential = vpfb.Potential(network, vpfb.homotopy.OT())
    draws = torch.Generator().manual_seed(0)
    for parameter in potential.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=draws)
    u, angle = torch.randn(4, 3, 16, 16, generator=draws), torch.rand(4, generator=draws)

    def second(device: str) -> list[Tensor]:
        potential.to(device).zero_grad()
        found = potential(u.to(device), angle.to(device))
        found.gradient.square().sum().backward()
        grads = [parameter.grad for parameter in potential.parameters() if parameter.grad is not None]
        return [found.value.detach().cpu(), found.gradient.detach().cpu(), *(one.cpu() for one in grads)]

    expected = second("cpu")
    with torch.backends.cudnn.flags(allow_tf32=False):
        for ours, theirs in zip(second(DEVICE), expected, strict=True):
            assert_near(ours, theirs, 1e-3)


@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [({"micro_batch": 8}, 1e-3), ({"precision": "bf16"}, 0.05),
     ({"compile": "on"}, 1e-3), ({"compile": "on", "precision": "bf16"}, 0.05)],
)  # fmt: skip
def test_every_way_to_compute_a_step_has_the_same_gradient(settings: dict[str, Any], tolerance: float) -> None:
    if settings.get("compile") == "on" and not IS_CUDA:
        pytest.skip("compiling takes minutes on a CPU")
    with torch.backends.cudnn.flags(allow_tf32=False):
        inputs, trainer = begun()
        expected = gradient(trainer, inputs)
        inputs, trainer = begun(**settings)
        assert_near(gradient(trainer, inputs), expected, tolerance)


def test_a_run_trains_resumes_and_samples(tmp_path: Path) -> None:
    taken = 0

    def count(_progress: object) -> None:
        nonlocal taken
        taken += 1

    out = str(tmp_path / "run")
    stopped = vpfb.train(config(out=out), on_step=count, should_stop=lambda: taken == 3)
    assert (stopped.status, stopped.step) == ("interrupted", 3)
    result = vpfb.train(config(out=out, resume="auto"))
    assert result.status == "finished"
    assert all(tensor.isfinite().all() for tensor in checkpoint.read(result.run.model, "model").tensors.values())
    ours, theirs = (vpfb.load(out, device=device).sample(4, condition="3").images for device in (DEVICE, "cpu"))
    assert float((ours - theirs).abs().mean()) < 0.01


def test_scores_and_densities_are_those_of_the_cpu() -> None:
    images = vpfb.data.load("digits").images[:8]
    models = [vpfb.load("digits", device=device) for device in (DEVICE, "cpu")]
    for name in ("multiscale", "energy", "gradient"):
        ours, theirs = (ood.score(model, images, name) for model in models)
        torch.testing.assert_close(ours, theirs, rtol=0.01, atol=0.05)
    ours, theirs = (model.log_density(images) for model in models)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=0.1)
