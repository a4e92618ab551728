"""What a GPU must do as the CPU does, and where the host may wait for it.

The tests run on the device of VPFB_TEST_DEVICE, else on CUDA where there is a GPU, else on a pretended GPU
(`pretended_gpu.py`), once as CUDA and once as MPS. `benchmarks/gpu.sh` runs them on a GPU.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import vpfb_model
from present import present
from pretended_gpu import PretendedGPU, pretend
from torch import Tensor

import vpfb_core as vpfb
from vpfb_core import networks
from vpfb_core.api import Model
from vpfb_core.data import ImageSet, statistics
from vpfb_core.data.source import ConditionGroup
from vpfb_core.dynamics.tableaux import METHODS, is_adaptive
from vpfb_core.errors import DivergedError
from vpfb_core.machine import container
from vpfb_core.machine.devices import place_network
from vpfb_core.machine.precision import true_float32
from vpfb_core.methods.path.homotopy import OT
from vpfb_core.methods.vpfb import objectives
from vpfb_core.methods.vpfb.potential import Potential
from vpfb_core.model.detector import Alterations
from vpfb_core.model.neighbourhood import Neighbourhood
from vpfb_core.model.reference import Reference
from vpfb_core.networks.embedding import ConditionEmbedding
from vpfb_core.training import prepare
from vpfb_core.training.inputs import Inputs
from vpfb_core.training.trainer import Trainer
from vpfb_core.uses import calibration
from vpfb_core.uses.composition import Composition, sampling
from vpfb_core.uses.ood import detectors, scores

REAL = os.environ.get("VPFB_TEST_DEVICE") or ("cuda" if torch.cuda.is_available() else None)
FIXED_STEP = [name for name, table in METHODS.items() if not is_adaptive(table)]
GROUPS = (ConditionGroup("class", ("even", "odd")),)
GRADIENTS = 8000  # of a calibration


class Tiny(torch.nn.Module):
    """u (N, 1, 6, 6) → its shape, by a few products: the layers of real networks are in the tests of training."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = ConditionEmbedding(8, (2,))
        self.first, self.last = torch.nn.Linear(36, 8), torch.nn.Linear(8, 36)
        self.feature_layer = torch.nn.Unflatten(1, (8, 1))

    def forward(self, u: Tensor, level: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        hidden = torch.nn.functional.silu(self.first(u.flatten(1)) + self.embedding(u, level, condition))
        return self.last(self.feature_layer(hidden).flatten(1)).view_as(u)


class RealDevice:
    """A device of this machine; where it is CUDA, torch itself notices that the host waits."""

    def __init__(self, name: str) -> None:
        self.name, self.type, self.device = name, torch.device(name).type, torch.device(name)

    @contextmanager
    def waits(self) -> Iterator[list[str]]:
        waited: list[str] = []
        if self.type != "cuda":
            yield waited
            return
        torch.cuda.synchronize()
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                yield waited
            finally:
                torch.cuda.set_sync_debug_mode("default")
        waited += [f"{each.filename}:{each.lineno}" for each in heard if "synchronizing" in str(each.message)]


GPU = RealDevice | PretendedGPU

cuda = pytest.mark.parametrize("gpu", [REAL or "cuda"], indirect=True)
cuda_and_mps = pytest.mark.parametrize(
    "gpu", [REAL] if REAL else ["cuda", pytest.param("mps", marks=pytest.mark.slow)], indirect=True
)


@pytest.fixture
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[GPU]:
    if REAL:
        yield RealDevice(REAL)
        return
    with pretend(request.param, monkeypatch) as pretended:
        yield pretended
    statistics.as_tensor.cache_clear()  # it holds tensors of the device


@pytest.fixture(scope="module")
def images() -> ImageSet:
    draws = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (60, 1, 6, 6), dtype=torch.uint8, generator=draws)
    return ImageSet("noise", pixels, torch.arange(60)[:, None] % 2, GROUPS)


@pytest.fixture(scope="module")
def on_cpu(images: ImageSet) -> Model:
    """A model of two classes with random weights, calibrated."""
    potential = Potential(Tiny(), OT(0.2))
    draws = torch.Generator().manual_seed(0)
    for parameter in potential.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=draws)
    model = vpfb_model(potential, shape=(1, 6, 6), groups=GROUPS)
    calibration.calibrate(model, images, gradients=GRADIENTS)
    return model


@pytest.fixture
def on_gpu(on_cpu: Model, gpu: GPU) -> Model:
    field = copy.deepcopy(on_cpu.field)
    place_network(field, gpu.device)
    return replace(on_cpu, field=field.requires_grad_(False))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, images: ImageSet) -> str:
    """The images as a file."""
    path = tmp_path_factory.mktemp("data") / "images.npz"
    np.savez(path, images=images.images.numpy()[:, 0], labels=present(images.labels).numpy()[:, 0])
    return str(path)


def config(gpu: GPU, **settings: Any) -> vpfb.TrainConfig:
    small = {"data": "digits", "widths": (8,), "conditional": True, "batch_size": 8, "steps": 8, "device": gpu.name,
             "precision": "fp32", "compile": "off", "warmup": 0, "clip": 1e9}  # fmt: skip
    return vpfb.TrainConfig(**(small | settings))


def begun(gpu: GPU, **settings: Any) -> tuple[Inputs, Trainer]:
    inputs = Inputs.of(prepare(config(gpu, **settings)))
    return inputs, inputs.trainer()


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


# --- training ---------------------------------------------------------------------------------------------------------

STEPS: list[dict[str, Any]] = [
    {"preset": "tiny", "widths": (8, 8)},
    {"preset": "small"},
    {"preset": "paper", "blocks": 1, "dropout": 0.1},
    {"conditional": False, "dropout": 0.1, "micro_batch": 4},
    {"objective": "ritz"},
    {"objective": "official"},
    {"method": "flow-matching"},
]
LARGE_STEPS: list[dict[str, Any]] = [{"preset": "base", "blocks": 1}, {"preset": "celeba64", "blocks": 1}]


@cuda
@pytest.mark.parametrize(
    "settings", [*STEPS, *(pytest.param(large, marks=pytest.mark.slow) for large in LARGE_STEPS)], ids=str
)
def test_a_step_waits_for_nothing(gpu: GPU, settings: dict[str, Any]) -> None:
    inputs, trainer = begun(gpu, **{"precision": "bf16"} | settings)
    inputs.plan.statistics.standardise(inputs.batches[0][0])  # moves constants
    for step in range(1 + bool(REAL)):
        with gpu.waits() as waited:
            loss, norm = trainer.step(inputs.batches[step], step, 0.9)
        assert loss.device.type == norm.device.type == gpu.type
    assert waited == []
    assert loss.isfinite()
    assert norm.isfinite()


@cuda_and_mps
def test_a_run_trains_and_resumes_and_waits_for_its_figures_once_per_line_of_the_log(
    gpu: GPU, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = [generator.get_state() for generator in generators(gpu)]
    seen: list[int] = []

    def look(_progress: object) -> None:
        reads = [place for place in waited if place != "devices.moved: copy to the device"]  # which MPS waits for
        seen.append(len(reads))

    seldom = {"log_every": 2, "save_every": 10**6, "sample_every": 10**6, "keep": 0}
    settings = {"data": data, "steps": 6, "out": str(tmp_path / "run"), "dropout": 0.1, **seldom}
    with gpu.waits() as waited:
        stopped = vpfb.train(config(gpu, **settings), on_step=look, should_stop=lambda: len(seen) == 5)
    assert (stopped.status, stopped.step) == ("interrupted", 5)
    if not REAL:  # after the first two steps, which move constants, it waits before every other one
        assert [later - earlier for earlier, later in pairwise(seen[1:])] == [1, 0, 1]
    result = vpfb.train(config(gpu, **settings, resume="auto"))
    assert result.status == "finished"
    assert all(tensor.isfinite().all() for tensor in container.read(result.run.model, "model").tensors.values())
    ours, theirs = (vpfb.load(tmp_path / "run", device=device).sample(2, nfe=3) for device in (gpu.name, "cpu"))
    assert float((ours.images - theirs.images).abs().mean()) < 0.01
    assert all(torch.equal(one, other.get_state()) for one, other in zip(states, generators(gpu), strict=True))


@cuda
def test_no_grid_is_drawn_from_weights_that_are_not_finite(
    gpu: GPU, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The figures of a step on a GPU are read later, but before the model is checked."""
    honest, calls = objectives.OBJECTIVES["stein"], 0

    def broken_at_the_second_step(*args: Any, **settings: Any) -> Tensor:
        nonlocal calls
        calls += 1
        return honest(*args, **settings) * (torch.nan if calls == 2 else 1.0)

    monkeypatch.setitem(objectives.OBJECTIVES, "stein", broken_at_the_second_step)
    seldom = {"log_every": 10**6, "save_every": 10**6, "sample_every": 3}
    with pytest.raises(DivergedError, match="step 1: the loss is nan"):
        vpfb.train(config(gpu, data=data, steps=6, out=str(tmp_path / "run"), **seldom))
    assert [path.name for path in sorted((tmp_path / "run" / "samples").iterdir())] == ["step-0000000.png"]


def generators(gpu: GPU) -> list[torch.Generator]:
    """The global generators of the CPU and of the GPU, which a run leaves as they are."""
    if not REAL:  # dropout on a pretended GPU draws on the CPU
        return []
    return [torch.default_generator, *(torch.cuda.default_generators if gpu.type == "cuda" else ())]


@cuda_and_mps
def test_the_gradient_of_a_potential_is_that_of_the_cpu(gpu: GPU) -> None:
    network = networks.build({"name": "unet", "channels": 3, "size": 8, "widths": [8, 16], "attention": [4]})
    draws = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=draws)
    u, angle = torch.randn(4, 3, 8, 8, generator=draws), torch.rand(4, generator=draws)

    def second(device: torch.device) -> list[Tensor]:
        potential = Potential(copy.deepcopy(network), OT()).to(device)
        found = potential(u.to(device), angle.to(device))
        with true_float32(device):
            found.gradient.square().sum().backward()
        grads = [parameter.grad for parameter in potential.parameters() if parameter.grad is not None]
        return [found.value.detach().cpu(), found.gradient.detach().cpu(), *(one.cpu() for one in grads)]

    with true_float32(gpu.device):
        for ours, theirs in zip(second(gpu.device), second(torch.device("cpu")), strict=True):
            assert_near(ours, theirs, 1e-3)


@cuda
@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [({"micro_batch": 4}, 1e-3), ({"precision": "bf16"}, 0.05),
     ({"compile": "on"}, 1e-3), ({"compile": "on", "precision": "bf16"}, 0.05)],
)  # fmt: skip
def test_every_way_to_compute_a_step_has_the_same_gradient(
    gpu: GPU, settings: dict[str, Any], tolerance: float
) -> None:
    if settings.get("compile") == "on" and REAL != "cuda":
        pytest.skip("only a GPU compiles in seconds")
    with true_float32(gpu.device):
        inputs, trainer = begun(gpu)
        expected = gradient(trainer, inputs)
        inputs, trainer = begun(gpu, **settings)
        assert_near(gradient(trainer, inputs), expected, tolerance)


# --- uses -------------------------------------------------------------------------------------------------------------

IN = "copy to the device"
OUT = "copy to the host"


@cuda_and_mps
@pytest.mark.parametrize("method", ["arc3", "dopri5"])
def test_samples_are_those_of_the_cpu(gpu: GPU, on_cpu: Model, on_gpu: Model, method: str) -> None:
    solver = {"nfe": 6} if method in FIXED_STEP else {"rtol": 1e-2}
    ours, theirs = (
        model.sample(3, condition="odd", guidance=2.0, method=method, **solver) for model in (on_gpu, on_cpu)
    )
    torch.testing.assert_close(ours.images, theirs.images, rtol=0, atol=1e-3)
    assert ours.images.device.type == ours.nfe.device.type == "cpu"


@cuda
@pytest.mark.parametrize("method", FIXED_STEP)
def test_fixed_step_solvers_wait_for_their_ends_alone(gpu: GPU, on_gpu: Model, method: str) -> None:
    def waits(nfe: int) -> list[str]:
        with gpu.waits() as waited:
            on_gpu.sample(2, nfe=nfe, method=method)
        return waited

    waits(4)  # constants are moved
    assert waits(8) == waits(4)


@cuda
def test_an_adaptive_solver_waits_once_in_four_steps(gpu: GPU, on_gpu: Model) -> None:
    on_gpu.sample(2, method="dopri5")
    with gpu.waits() as fewer:
        on_gpu.sample(2, nfe=4)
    with gpu.waits() as waited:
        attempts = (int(on_gpu.sample(2, method="dopri5").nfe.max()) - 2) // 6
    assert len(waited) - len(fewer) <= attempts // 4 + 2


@cuda_and_mps
def test_chains_wait_for_no_step(gpu: GPU, on_cpu: Model, on_gpu: Model, images: ImageSet) -> None:
    """They take their random numbers from the host for several steps at once."""

    def waits(model: Model, steps: int) -> tuple[vpfb.Chains, list[str]]:
        with gpu.waits() as waited:
            found = model.long_run(images.images[:3], steps, condition="odd", guidance=1.5, nfe=4)
        return found, waited

    waits(on_gpu, 5)
    ours, few = waits(on_gpu, 5)
    _, many = waits(on_gpu, 30)
    assert few == many
    theirs, _ = waits(on_cpu, 5)
    torch.testing.assert_close(ours.energy, theirs.energy, rtol=1e-3, atol=1e-2)


@cuda_and_mps
@pytest.mark.parametrize(
    ("expression", "mcmc"), [("even | odd", "mala"), pytest.param("even & ~odd", "ula", marks=pytest.mark.slow)]
)
def test_compositions_wait_a_few_times_per_level(
    gpu: GPU, on_cpu: Model, on_gpu: Model, expression: str, mcmc: str
) -> None:
    def waits(model: Model, steps: int) -> tuple[Tensor, list[str]]:
        composition = Composition(expression, model)
        with gpu.waits() as waited:
            found = sampling.sample(composition, 3, levels=2, mcmc=mcmc, mcmc_steps=steps)
        return found.images, waited

    ours, few = waits(on_gpu, 2)
    _, many = waits(on_gpu, 5)
    assert few == many
    torch.testing.assert_close(ours, waits(on_cpu, 2)[0], rtol=0, atol=1e-2)


@cuda_and_mps
def test_inpainting_waits_a_few_times_per_level(gpu: GPU, on_gpu: Model, images: ImageSet) -> None:
    known = torch.zeros(1, 6, 6, dtype=torch.bool)
    known[:, :3] = True
    found = on_gpu.inpaint(images.images[0], known, 2, condition="odd", levels=2)
    assert torch.equal(found.images[:, :, :3], (images.images[[0, 0], :, :3].float() / 255))


@cuda_and_mps
def test_codes_scores_and_densities_are_those_of_the_cpu(
    gpu: GPU, on_cpu: Model, on_gpu: Model, images: ImageSet
) -> None:
    some = images.images[:3]

    def found(model: Model) -> dict[str, Tensor]:
        every = {name: model.score(some, name) for name in scores.SCORES}
        every["density of a class"] = model.log_density(some, condition="odd")
        every["codes"] = model.encode(some, rtol=1e-2)
        return every

    ours = found(on_gpu)
    for name, theirs in found(on_cpu).items():
        torch.testing.assert_close(ours[name], theirs, rtol=1e-3, atol=0.05, msg=name)


@cuda_and_mps
def test_detectors_of_alterations_are_trained_there_and_used_on_the_cpu(
    gpu: GPU, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detectors, "has_fast_bf16", lambda _device: False)
    pictures = torch.randint(0, 256, (40, 1, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    with true_float32(gpu.device):
        trained = detectors.train(pictures, gpu.device, steps=3)
    assert {parameter.device.type for one in trained for parameter in one.parameters()} == {gpu.type}
    there = Alterations.of(trained, pictures)
    here = Alterations.of(detectors.train(pictures, torch.device("cpu"), steps=3), pictures)
    torch.testing.assert_close(there.values, here.values, rtol=1e-2, atol=1e-2)


def recording(reference: Reference | None) -> Neighbourhood:
    part = present(reference).parts["recording"]
    assert isinstance(part, Neighbourhood)
    return part


@cuda_and_mps
def test_a_calibration_is_that_of_the_cpu(gpu: GPU, on_cpu: Model, on_gpu: Model, images: ImageSet) -> None:
    on_gpu.calibration = on_gpu.reference = None
    calibration.calibrate(on_gpu, images, gradients=GRADIENTS)
    fitted: Reference | None = on_gpu.reference
    level = present(on_cpu.calibration).quoted_level
    for condition in ((-1,), (0,), (1,)):
        ours, theirs = (present(model.calibration).constant(level, condition) for model in (on_gpu, on_cpu))
        assert ours == pytest.approx(theirs, abs=0.01)
    torch.testing.assert_close(
        recording(fitted).mean.cpu(),
        recording(on_cpu.reference).mean,
        rtol=1e-3,
        atol=1e-3,
    )
