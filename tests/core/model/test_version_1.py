"""A run that an earlier version wrote, in files of format version 1, and what the code of that version made of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from present import present
from torch import Tensor
from torch.nn import functional as F

import vpfb_core as vpfb
from vpfb_core.config import read_file
from vpfb_core.machine import container
from vpfb_core.methods.path import arc
from vpfb_core.methods.step import Batch, Loss, Moment
from vpfb_core.methods.vpfb.field import PotentialField
from vpfb_core.methods.vpfb.method import VPFB
from vpfb_core.methods.vpfb.objectives import stein
from vpfb_core.model.runs import Run

FIXTURE = Path(__file__).parents[2] / "fixtures" / "run-v1"
PREFIX = "potential.network."  # of the names of a network's tensors since then


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FIXTURE / "recorded.json").read_text())
    return found


@pytest.fixture(scope="module")
def model() -> vpfb.Model:
    return vpfb.load(FIXTURE, device="cpu")


def assert_recorded(found: Tensor, expected: list[float], *, rtol: float = 1e-3, atol: float = 1e-4) -> None:
    torch.testing.assert_close(found.double().flatten(), torch.tensor(expected).double(), rtol=rtol, atol=atol)


def losses_of_version_1(self: VPFB, field: PotentialField, batch: Batch, at: Moment) -> Iterator[Loss]:
    """The objective, and the contrast of that version, for a batch that is not divided.

    Rows 4k and 4k + 1 are a pair, u under c and u' under c', at one angle. The contrast was the cross-entropy of the
    assignment of both points to their own conditions. In half of the pairs c' was unconditional.
    """
    data, condition = batch.data * self.settings.data_std, present(batch.condition)

    def contrast(_rows: slice) -> Tensor:
        draws, pairs, potential = at.generator("contrast"), len(data) // 4, field.potential
        angle = field.angles.sample(pairs, potential.angle_range, like=data, generator=draws)
        noise = torch.randn((2, pairs, *data.shape[1:]), generator=draws).flatten(0, 1)
        hides_second = torch.rand(pairs, generator=draws)[:, None] < 0.5
        u, _ = arc.point(torch.cat([data[::4], data[1::4]]) / self.settings.data_std, angle.repeat(2), noise)
        one, other = condition[::4], condition[1::4]
        unknown = (one < 0) | (other < 0)
        one, other = one.masked_fill(unknown, -1), other.masked_fill(unknown | hides_second, -1)
        value = potential.potential(u.repeat(2, 1, 1, 1), angle.repeat(4), torch.cat([one, other, other, one]))
        own, exchanged = (torch.tan(angle).repeat(4) * value).chunk(2)
        log_odds = (own - exchanged).unflatten(0, (2, -1)).sum(0)
        return (F.softplus(-log_odds) / torch.tan(angle).clamp(min=1)).mean()

    def objective(_rows: slice) -> Tensor:
        return stein(field.potential, data, condition, generator=at.generator("step"), angles=field.angles)

    if at.cooling:
        yield Loss("contrast", contrast, present(self.settings.contrast) * at.cooling)
    yield Loss("stein", objective)


def test_the_files_are_of_format_version_1() -> None:
    for name, kind in (("model.safetensors", "model"), ("state.safetensors", "state")):
        assert container.read_document(FIXTURE / name, kind)["format"] == 1


def test_a_resumed_run_of_version_1_gets_the_weights_of_an_uninterrupted_one(
    recorded: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the contrast of that version."""
    monkeypatch.setattr(VPFB, "losses", losses_of_version_1)
    shutil.copytree(FIXTURE, tmp_path / "run")
    result = vpfb.train(vpfb.TrainConfig(resume=str(tmp_path / "run"), device="cpu"))
    assert (result.status, result.step) == ("finished", 40)

    expected = recorded["norms_after_40_steps"]
    weights = {
        name.replace(PREFIX, "").replace("embedding.level.", "embedding.angle."): tensor
        for name, tensor in container.read(result.run.state, "state").tensors.items()
        if name.startswith(("network/", "ema/"))
    }
    assert weights.keys() == expected.keys()
    # Within rounding: sums have been taken in another precision since then.
    norms = {name: float(tensor.double().norm()) for name, tensor in weights.items()}
    assert norms == pytest.approx(expected, rel=1e-3, abs=1e-6)

    sections = read_file(Run(tmp_path / "run").config)
    assert (sections["run.seed"], sections["network.widths"], sections["method.contrast"]) == (5, [8, 16], 0.02)
    assert vpfb.load(result.run.path, device="cpu").about["step"] == 40


def test_a_model_of_version_1_draws_what_it_drew(recorded: dict[str, Any], model: vpfb.Model) -> None:
    expected = recorded["model"]
    assert_recorded(model.sample(2, seed=3).images, expected["sample"])
    guided = model.sample(1, seed=3, condition=model.groups[0].classes[1], guidance=2.0)
    assert_recorded(guided.images, expected["sample_of_a_class"])
    raw = vpfb.load(FIXTURE, device="cpu", weights="raw")
    assert_recorded(raw.sample(1, seed=3).images, expected["sample_of_raw_weights"])


def test_the_energies_of_a_model_of_version_1_are_what_they_were(recorded: dict[str, Any], model: vpfb.Model) -> None:
    expected, images = recorded["model"], vpfb.data.load("digits").images[:6]
    for score in ("energy", "gradient", "typicality", "density"):
        assert_recorded(model.score(images, score), expected[f"score_{score}"])
    name = model.groups[0].classes[1]
    assert_recorded(model.log_density(images), expected["log_density"])
    assert_recorded(model.log_density(images, level=0.5), expected["log_density_at_level_0.5"])
    assert_recorded(model.log_density(images, condition=name), expected["log_density_of_a_class"])


@pytest.mark.parametrize("tolerance", [1e-4, pytest.param(1e-5, marks=pytest.mark.slow)])
def test_the_density_by_the_flow_of_a_model_of_version_1_is_what_it_was(
    tolerance: float, recorded: dict[str, Any], model: vpfb.Model
) -> None:
    """Figures have an error of up to 0.025 nats, of a step size that did not heed the integral."""
    found = model.log_density(vpfb.data.load("digits").images[:1], method="ode", rtol=tolerance, atol=tolerance)
    assert_recorded(found, recorded["model"]["log_density_by_the_flow"][:1], rtol=0, atol=0.03)
