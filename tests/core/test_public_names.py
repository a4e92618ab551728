"""The names of the library that people import, which stay where they are whatever moves below them."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch

import vpfb_core as vpfb


def test_a_model_draws_encodes_and_gives_densities_by_the_names_of_the_readme() -> None:
    model = vpfb.load("digits")
    drawn = model.sample(2, seed=0)
    assert drawn.images.shape == (2, 1, 8, 8) and drawn.images is drawn.data
    assert len(drawn.nfe) == len(drawn.status) == 2
    assert model.encode(drawn.images, rtol=0.1).shape == (2, 1, 8, 8)
    logp = model.log_density(drawn.images, level=0.1, condition="3", method="explicit", seed=0)
    assert logp.shape == (2,) and torch.isfinite(logp).all()


def test_a_model_says_in_one_line_what_it_is() -> None:
    model = vpfb.load("digits", device="cpu")
    assert repr(model).startswith("Model(method='vpfb', shape=(1, 8, 8), classes={'class': ('0', '1',")
    assert "calibrated=True" in repr(model) and len(repr(model)) < 300
    assert model in {model} and model != vpfb.load("digits", device="cpu")


def test_a_program_may_have_another_default_dtype(tmp_path: Path) -> None:
    expected = vpfb.load("digits", device="cpu").sample(2, seed=0, nfe=4).images
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(vpfb.load("digits", device="cpu").sample(2, seed=0, nfe=4).images, expected)
        points = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
        config = vpfb.TrainConfig(data=points, steps=1, batch_size=8, out=str(tmp_path / "run"), device="cpu")
        assert next(vpfb.train(config).model.field.parameters()).dtype == torch.float32
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_paths_are_taken_like_their_text(tmp_path: Path) -> None:
    paths: dict[str, Any] = {name: tmp_path / name for name in ("data", "out", "init", "resume", "data_root")}
    assert vpfb.TrainConfig(**paths) == vpfb.TrainConfig(**{name: str(path) for name, path in paths.items()})
    with pytest.raises(vpfb.errors.DataError, match="no folder or file"):
        vpfb.data.load(tmp_path / "absent")


def test_a_run_on_data_of_the_program_goes_on_with_the_same_data(tmp_path: Path) -> None:
    points = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    settings: dict[str, Any] = {"batch_size": 8, "device": "cpu", "width": 8, "depth": 1, "val_fraction": 0.1}
    run = str(tmp_path / "run")
    vpfb.train(vpfb.TrainConfig(data=points, steps=1, out=run, **settings))
    with pytest.raises(vpfb.errors.DataError, match="were in the memory of a program") as refused:
        vpfb.train(vpfb.TrainConfig(steps=2, resume=run))
    assert refused.value.hint == f"give them again: TrainConfig(data=..., resume='{run}')"
    assert vpfb.train(vpfb.TrainConfig(data=points, steps=2, resume=run)).step == 2


def test_a_device_of_torch_is_taken_like_its_name() -> None:
    assert vpfb.load("digits", device=torch.device("cpu")).device == torch.device("cpu")
    assert vpfb.TrainConfig(data="digits", device=torch.device("cpu")).machine.device == "cpu"
    with pytest.raises(vpfb.errors.ConfigError, match="no device 'cuda:7'"):
        vpfb.load("digits", device=torch.device("cuda:7"))


@pytest.mark.parametrize("name", ["ConfigError", "DataError", "CheckpointError", "DivergedError", "SolverError"])
def test_errors_can_be_caught_by_name(name: str) -> None:
    assert issubclass(getattr(vpfb.errors, name), Exception)


def test_the_building_blocks_of_the_method_can_be_used_alone() -> None:
    phi = vpfb.Potential(vpfb.networks.MLP(dim=2), homotopy=vpfb.homotopy.OT(sigma_min=1e-3), data_std=0.5)
    loss = vpfb.objectives.stein(phi, torch.ones(3, 2), generator=torch.Generator().manual_seed(0))
    assert loss.shape == ()
    x, t = torch.zeros(3, 2), torch.full((3,), 0.5)
    assert phi.value(x, t).shape == phi.log_density(x, t).shape == (3,)
    assert phi.velocity(x, t).shape == phi.score(x, t).shape == (3, 2)


def test_training_takes_a_configuration_and_a_callback() -> None:
    assert vpfb.TrainConfig(data="digits", steps=2000).data.source == "digits"
    assert list(inspect.signature(vpfb.train).parameters)[:2] == ["config", "on_step"]
