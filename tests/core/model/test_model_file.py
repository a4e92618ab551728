"""Model files: what is saved is loaded, and what does not fit its own description is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import vpfb_core as vpfb
from vpfb_core import methods, networks
from vpfb_core.api import Model
from vpfb_core.data.image_statistics import ImageStatistics
from vpfb_core.data.source import ConditionGroup
from vpfb_core.errors import CheckpointError
from vpfb_core.machine import container
from vpfb_core.machine.devices import place_network
from vpfb_core.methods.step import DataShape
from vpfb_core.model import runs

GROUPS = (ConditionGroup("shape", ("circle", "square")), ConditionGroup("large", ("~large", "large")))
FIRST = "potential.network.first."  # what the names of the tensors of the first convolution begin with


def make(method: str = "vpfb", groups: tuple[ConditionGroup, ...] = (), **settings: Any) -> Model:
    """A small model with random weights everywhere."""
    data = DataShape((3, 6, 6), tuple(len(group.classes) for group in groups))
    network = {"name": "unet", "channels": 3, "size": 6, "widths": [8, 8], "classes": list(data.classes)}
    built, draws = networks.build(network), torch.Generator().manual_seed(1)
    for parameter in built.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=draws)
    place_network(built, torch.device("cpu"))
    chosen = methods.build(method, {"floor": 0.01} | settings)
    field = chosen.field(built, data).eval().requires_grad_(False)
    statistics = ImageStatistics((0.3, 0.5, 0.6), 0.2)
    return Model(chosen, field, network, statistics, data.shape, groups, {"step": 3})


@pytest.mark.parametrize("groups", [(), GROUPS])
@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("vpfb", {}),
        ("vpfb", {"objective": "official"}),
        ("flow-matching", {"schedule": "vp", "condition_dropout": 0.0}),
    ],
)
def test_a_saved_model_loads_as_it_was(
    method: str, settings: dict[str, Any], groups: tuple[ConditionGroup, ...], tmp_path: Path
) -> None:
    model = make(method, groups, **settings)
    model.save(tmp_path / "model.safetensors")
    loaded = vpfb.load(tmp_path / "model.safetensors", device="cpu")
    assert type(loaded.method) is type(model.method)
    assert loaded.method.settings == model.method.settings
    assert (loaded.groups, loaded.statistics, loaded.shape) == (groups, model.statistics, model.shape)
    assert (loaded.about, loaded.network) == ({"step": 3}, model.network)
    assert (loaded.field.levels, loaded.field.has_null) == (model.field.levels, model.field.has_null)
    assert loaded.parameter_count == model.parameter_count
    condition = "circle,large" if groups else None
    assert torch.equal(loaded.sample(2, condition=condition).images, model.sample(2, condition=condition).images)
    assert not any(parameter.requires_grad for parameter in loaded.field.parameters())
    weights = [parameter for parameter in loaded.field.parameters() if parameter.ndim == 4]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


def test_weights_in_half_precision_are_loaded_as_they_were_rounded(tmp_path: Path) -> None:
    model = make(groups=GROUPS)
    whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    model.save(whole)
    model.save(half, weights=torch.float16)
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    loaded = vpfb.load(half, device="cpu")
    for mine, theirs in zip(loaded.field.parameters(), model.field.parameters(), strict=True):
        assert mine.dtype == torch.float32
        assert torch.equal(mine, theirs.half().float())
    loaded.save(tmp_path / "again.safetensors", weights=torch.float16)
    again = vpfb.load(tmp_path / "again.safetensors", device="cpu")
    for mine, theirs in zip(again.field.parameters(), loaded.field.parameters(), strict=True):
        assert torch.equal(mine, theirs)


class Mine(Model):
    """A model of a user's own class."""


def test_a_model_of_another_class_is_saved(tmp_path: Path) -> None:
    Mine.of(make()).save(tmp_path / "model.safetensors")
    loaded = vpfb.load(tmp_path / "model.safetensors", device="cpu")
    assert loaded.about == {"step": 3}


def rewrite(path: Path, change: Any) -> None:
    """Write the file again, whole and signed, with something in it changed."""
    stored = container.read(path, "model")
    document = {key: value for key, value in stored.document.items() if key not in ("format", "kind")}
    change(stored.tensors, document)
    container.write(path, "model", stored.tensors, document)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, document: tensors.pop(f"{FIRST}weight"),
        lambda tensors, document: tensors.update(more=torch.zeros(1)),
        lambda tensors, document: tensors.update({f"{FIRST}bias": torch.zeros(9)}),
        lambda tensors, document: tensors.update({f"{FIRST}bias": torch.zeros(8, dtype=torch.float64)}),
        lambda tensors, document: tensors.update({f"{FIRST}bias": torch.zeros(8, dtype=torch.bfloat16)}),
        lambda tensors, document: document.pop("method"),
        lambda tensors, document: document["method"].update(name="other"),
        lambda tensors, document: document["method"]["settings"].update(floor=-1),
        lambda tensors, document: document["method"]["settings"].update(schedule="cubic"),
        lambda tensors, document: document["method"]["settings"].update(temperature=1.0),
        lambda tensors, document: document["network"].update(name="transformer"),
        lambda tensors, document: document["network"].update(widths="wide"),
        lambda tensors, document: document.update(shape=[3, 6]),
        lambda tensors, document: document.update(shape=[1, 6, 6]),
        lambda tensors, document: document.update(groups=[{"name": "shape", "classes": ["circle", "square"]}]),
        lambda tensors, document: document["statistics"].update(mean=[0.5]),
        lambda tensors, document: document["statistics"].update(std=0),
        lambda tensors, document: document.update(calibration={}),
    ],
)  # fmt: skip
def test_a_whole_file_that_does_not_fit_is_a_checkpoint_error(change: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    make().save(path)
    rewrite(path, change)
    with pytest.raises(CheckpointError, match="safetensors"):
        vpfb.load(path, device="cpu")


def test_a_file_of_another_program_is_called_foreign(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    make().save(path)
    save_file(load_file(path), path)
    with pytest.raises(CheckpointError, match="not one that vpfb wrote"):
        vpfb.load(path)


def test_the_built_in_model_knows_ten_digits_and_fits_the_package() -> None:
    model = vpfb.load("digits")
    assert model.groups[0].classes == tuple("0123456789")
    assert model.shape == (1, 8, 8)
    assert runs.find_model("digits").stat().st_size <= 4.5 * 2**20


def test_the_built_in_fashion_has_ten_classes_at_28_pixels_and_is_calibrated_and_fits_the_package() -> None:
    model = vpfb.load("fashion", device="cpu")
    assert (model.shape, model.groups[0].classes[7]) == ((1, 28, 28), "sneaker")
    assert runs.find_model("fashion").stat().st_size <= 4.5 * 2**20
    drawn = model.sample(2, condition="sneaker", nfe=4).images
    assert model.log_density(drawn, condition="sneaker").isfinite().all()
    assert model.score(drawn).isfinite().all()


@pytest.mark.parametrize("name", runs.builtin_models())
def test_a_built_in_model_names_no_folder_of_the_machine_that_trained_it(name: str) -> None:
    config = vpfb.load(f"vpfb:{name}", device="cpu").about["config"]
    texts = [value for section in config.values() for value in section.values() if isinstance(value, str)]
    assert texts
    assert not [text for text in texts if "/" in text or "\\" in text]
