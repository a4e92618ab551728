"""Runs on tables and on arrays in memory, from the configuration to densities and samples."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

import vpfb_core as vpfb
from vpfb_core.errors import ConfigError, DataError
from vpfb_core.model import model_file
from vpfb_core.model.trained import TrainedModel
from vpfb_core.training import checks

MEAN, SCALES = np.array([3.0, -200.0, 5e-4]), np.array([[2.0, 0, 0], [30.0, 40.0, 0], [0, 0, 1e-4]])


def gaussian(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 3)) @ SCALES.T + MEAN


def log_density(rows: np.ndarray) -> np.ndarray:
    unit = np.sqrt((SCALES**2).sum(1))  # in which no column is too small for scipy
    correlation = (SCALES / unit[:, None]) @ (SCALES / unit[:, None]).T
    return multivariate_normal(cov=correlation).logpdf((rows - MEAN) / unit) - np.log(unit).sum()


def train(folder: Path, **more: Any) -> vpfb.Model:
    settings: dict[str, Any] = {"steps": 150, "batch_size": 128, "width": 32, "depth": 1, "threads": 1}
    config = vpfb.TrainConfig(data=gaussian(4_000), out=str(folder / "run"), sample_every=150, **settings, **more)
    return vpfb.load(vpfb.train(config).run.path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> vpfb.Model:
    return train(tmp_path_factory.mktemp("gaussian"))


def test_flow_matching_learns_rows_with_a_network_that_returns_a_velocity(tmp_path: Path) -> None:
    model = train(tmp_path, method="flow-matching")
    assert model.network["name"] == "vector-mlp"
    rows = gaussian(300, seed=1)
    found = model.log_density(torch.from_numpy(rows), method="ode").numpy()
    assert np.mean(found) == pytest.approx(np.mean(log_density(rows)), abs=0.1)


def test_the_density_of_the_flow_is_in_the_units_of_the_columns(trained: vpfb.Model) -> None:
    rows = gaussian(300, seed=1)
    found = trained.log_density(torch.from_numpy(rows), method="ode").numpy()
    assert np.mean(found) == pytest.approx(np.mean(log_density(rows)), abs=0.1)
    assert np.sqrt(np.mean((found - log_density(rows)) ** 2)) < 0.35


def test_samples_are_rows_in_the_units_of_the_columns(trained: vpfb.Model) -> None:
    drawn = trained.sample(400, seed=3)
    assert drawn.data.dtype == torch.float64
    np.testing.assert_allclose(drawn.data.mean(0).numpy(), MEAN, atol=0.25 * np.sqrt((SCALES**2).sum(1)).max())
    np.testing.assert_allclose(drawn.data.std(0).numpy(), np.sqrt((SCALES**2).sum(1)), rtol=0.2)
    torch.testing.assert_close(trained.sample(3, seed=3).data, drawn.data[:3])


def test_encoding_is_undone_by_decoding(trained: vpfb.Model) -> None:
    rows = torch.from_numpy(gaussian(20, seed=2))
    again = trained.decode(trained.encode(rows))
    scale = torch.from_numpy(np.sqrt((SCALES**2).sum(1)))
    assert float(((again - rows) / scale).abs().max()) < 0.05


def test_outliers_have_the_highest_scores(trained: vpfb.Model) -> None:
    far = MEAN + np.array([[0, 500, 0], [0, 0, 9e-4]])
    rows = torch.from_numpy(np.concatenate([gaussian(40, seed=4), far]))
    assert set(trained.score(rows).argsort(descending=True)[:2].tolist()) == {40, 41}


def test_what_only_images_have_is_refused(trained: vpfb.Model) -> None:
    with pytest.raises(ConfigError, match="bits per dimension are for images"):
        trained.bits_per_dim(torch.from_numpy(gaussian(3)))
    with pytest.raises(ConfigError, match="do not fit a model of 3 columns"):
        trained.score(torch.zeros(2, 1, 8, 8))
    with pytest.raises(ConfigError, match="NaN or infinite"):
        trained.score(torch.tensor([[1.0, 2.0, math.nan]]))


def test_the_run_folder_shows_samples_as_rows(trained: vpfb.Model, tmp_path: Path) -> None:
    out = tmp_path / "run"
    vpfb.train(vpfb.TrainConfig(data="moons", out=str(out), steps=2, width=8, depth=1, val_fraction=0.01, threads=1))
    with (out / "samples" / "step-0000002.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["x", "y"]
    assert len(rows) == checks.GRID_IMAGES + 1


def test_the_best_weights_are_kept_on_a_small_table(tmp_path: Path) -> None:
    out = tmp_path / "run"
    rows = np.random.default_rng(0).normal(size=(40, 6))
    settings: dict[str, Any] = {
        "steps": 80,
        "sample_every": 8,
        "batch_size": 64,
        "width": 64,
        "depth": 1,
        "threads": 1,
        "lr": 1e-2,
    }
    result = vpfb.train(vpfb.TrainConfig(data=rows, out=str(out), **settings))
    best, last = (model_file.load(TrainedModel, out / f"{name}.safetensors") for name in ("best", "model"))
    for one, other in zip(best.field.parameters(), last.field.parameters(), strict=True):
        assert torch.equal(one, other)
    with (out / "log.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert result.val_residual < 0.95 * float(lines[-1]["val_residual"]), "the last weights have learned rows by heart"


def test_a_table_of_few_rows_or_a_constant_column_is_not_trained_on(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has 19 rows, and training needs at least 20"):
        vpfb.train(vpfb.TrainConfig(data=gaussian(19), out=str(tmp_path / "a")))
    (tmp_path / "t.csv").write_text("a,b\n" + "".join(f"{i},7\n" for i in range(30)))
    with pytest.raises(DataError, match="constant: b"):
        vpfb.train(vpfb.TrainConfig(data=str(tmp_path / "t.csv"), columns=["a", "b"], out=str(tmp_path / "b")))
