"""Model: statistics, sampling, encoding, files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import vpfb_core as vpfb
from vpfb_core import networks
from vpfb_core.api import Model
from vpfb_core.data.source import ConditionGroup
from vpfb_core.data.statistics import Statistics
from vpfb_core.dynamics.ode import Status
from vpfb_core.errors import CheckpointError, ConfigError, SolverError
from vpfb_core.machine import container as checkpoint
from vpfb_core.machine.devices import place_network
from vpfb_core.methods.vpfb.homotopy import OT
from vpfb_core.methods.vpfb.potential import Potential, UnpreconditionedPotential
from vpfb_core.model import runs

GROUPS = (ConditionGroup("shape", ("circle", "square")), ConditionGroup("large", ("~large", "large")))


def make(kind: type[Potential] = Potential, groups: tuple[ConditionGroup, ...] = (), noise: float = 0.02) -> Model:
    """A small model with random weights everywhere."""
    network = {"name": "unet", "channels": 3, "size": 6, "widths": [8, 8], "classes": [len(g.classes) for g in groups]}
    built = networks.build(network)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for parameter in built.parameters():
            parameter.data += noise * torch.randn_like(parameter)
    place_network(built, torch.device("cpu"))
    potential = kind(built, OT(sigma_min=0.01), 0.5).eval().requires_grad_(False)
    return Model(potential, network, Statistics((0.3, 0.5, 0.6), 0.2), (3, 6, 6), groups, {"step": 3})


def test_samples_are_images_that_depend_on_seed_and_index_alone() -> None:
    model = make()
    images = model.sample(5, seed=3)
    assert (images.shape, images.dtype) == ((5, 3, 6, 6), torch.float32)
    assert images.min() >= 0
    assert images.max() <= 1
    assert torch.allclose(model.sample(5, seed=3, batch_size=2), images, atol=1e-5)
    assert torch.allclose(model.sample(3, seed=3, first=2), images[2:], atol=1e-5)
    assert not torch.allclose(model.sample(5, seed=4), images, atol=1e-2)


def test_adaptive_samples_do_not_depend_on_the_batch_either() -> None:
    model = make(noise=0.1)
    images, info = model.sample(5, method="dopri5", return_info=True)
    alone = torch.cat([model.sample(1, first=i, method="dopri5") for i in range(5)])
    assert torch.allclose(alone, images, atol=1e-4)
    assert info.status.tolist() == [Status.SUCCESS] * 5
    assert info.nfe.shape == (5,)


def test_encoding_and_decoding_are_inverse() -> None:
    model = make()
    images = 0.2 + 0.6 * torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    codes = model.encode(images, rtol=1e-6)
    assert torch.allclose(model.decode(codes, rtol=1e-6), images, atol=1e-4)
    assert torch.allclose(model.encode((images * 255).round().to(torch.uint8)), codes, atol=0.1)


def test_images_of_another_shape_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"\(1, 6, 6\)"):
        make().encode(torch.zeros(2, 1, 6, 6))
    with pytest.raises(ConfigError, match="n = 0"):
        make().sample(0)


def test_a_sample_that_goes_astray_is_an_error_unless_its_status_is_asked_for() -> None:
    model = make()
    next(model.potential.parameters()).data.fill_(float("nan"))
    with pytest.raises(SolverError, match="3 of 3"):
        model.sample(3)
    _, info = model.sample(3, return_info=True)
    assert info.status.tolist() == [Status.NON_FINITE] * 3


@pytest.mark.parametrize("kind", [Potential, UnpreconditionedPotential])
@pytest.mark.parametrize("groups", [(), GROUPS])
def test_a_saved_model_loads_as_it_was(
    kind: type[Potential], groups: tuple[ConditionGroup, ...], tmp_path: Path
) -> None:
    model = make(kind, groups)
    model.save(tmp_path / "model.safetensors")
    loaded = vpfb.load(tmp_path / "model.safetensors", device="cpu")
    assert type(loaded.potential) is kind
    assert (loaded.groups, loaded.statistics, loaded.shape) == (groups, model.statistics, model.shape)
    assert (loaded.about, loaded.potential.homotopy) == ({"step": 3}, OT(sigma_min=0.01))
    assert torch.equal(loaded.sample(2), model.sample(2))
    assert not any(parameter.requires_grad for parameter in loaded.potential.parameters())
    weights = [parameter for parameter in loaded.potential.parameters() if parameter.ndim == 4]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


def rewrite(path: Path, change: Any) -> None:
    """Write the checkpoint again, whole and signed, with something in it changed."""
    stored = checkpoint.read(path, "model")
    document = {key: value for key, value in stored.document.items() if key not in ("format", "kind")}
    change(stored.tensors, document)
    checkpoint.write(path, "model", stored.tensors, document)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, document: tensors.pop("first.weight"),
        lambda tensors, document: tensors.update(more=torch.zeros(1)),
        lambda tensors, document: tensors.update({"first.bias": torch.zeros(9)}),
        lambda tensors, document: tensors.update({"first.bias": torch.zeros(8, dtype=torch.float64)}),
        lambda tensors, document: document.pop("homotopy"),
        lambda tensors, document: document.update(potential="other"),
        lambda tensors, document: document["network"].update(name="transformer"),
        lambda tensors, document: document["network"].update(widths="wide"),
        lambda tensors, document: document["homotopy"].update(sigma_min=-1),
        lambda tensors, document: document.update(shape=[3, 6]),
    ],
)  # fmt: skip
def test_a_whole_file_that_does_not_fit_is_a_checkpoint_error(change: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    make().save(path)
    rewrite(path, change)
    with pytest.raises(CheckpointError, match="safetensors"):
        vpfb.load(path)


def test_somebody_elses_safetensors_file_is_called_foreign(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    make().save(path)
    save_file(load_file(path), path)
    with pytest.raises(CheckpointError, match="not one that vpfb wrote"):
        vpfb.load(path)


def test_the_built_in_model_knows_ten_digits_and_fits_the_package() -> None:
    model = vpfb.load("digits")
    assert model.groups[0].classes == tuple("0123456789")
    assert model.shape == (1, 8, 8)
    assert runs.find_model("digits").stat().st_size <= 3 * 2**20


def test_built_in_digits_are_what_a_classifier_of_real_digits_takes_them_for() -> None:
    """A nearest-neighbour classifier fitted on real digits reads what was asked for."""
    from sklearn.neighbors import KNeighborsClassifier

    real = vpfb.data.load("digits", conditional=True)
    assert real.labels is not None
    reader = KNeighborsClassifier(3).fit(real.images.flatten(1).numpy() / 255, real.labels[:, 0].numpy())
    drawn = vpfb.load("digits").sample(200, condition=list("0123456789"))
    read = reader.predict(drawn.flatten(1).numpy())
    assert (torch.from_numpy(read) == torch.arange(200) % 10).double().mean() > 0.9
