"""Runs of Energy Matching: the beginning of the second phase, resuming, and what its models do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import stopped_runs
import torch
from stopped_runs import assert_equal_bit_for_bit, state_of
from torch import Tensor

import vpfb_core as vpfb
from vpfb_core.machine import container
from vpfb_core.methods.energy_matching.static_energy import StaticEnergy
from vpfb_core.methods.energy_matching.two_phases import EnergyMatching
from vpfb_core.training import ema
from vpfb_core.uses import composition, inpainting

STEPS, BEGINS = 8, 4  # the second phase has the last four steps


def configuration(out: Path, **settings: Any) -> vpfb.TrainConfig:
    small = {
        "data": "digits", "method": "energy-matching", "steps": STEPS, "batch_size": 4, "widths": [8], "threads": 1,
        "device": "cpu", "val_fraction": 0.02, "contrast_share": 0.5, "chain_step": 0.25, "warmup": 0,
    }  # fmt: skip
    return vpfb.TrainConfig(**(small | settings), out=str(out))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    vpfb.train(configuration(out))
    return out


@pytest.mark.parametrize(
    "stop", [BEGINS + 2, *(pytest.param(stop, marks=pytest.mark.slow) for stop in (BEGINS - 1, BEGINS))]
)
def test_a_run_is_resumed_bit_for_bit_in_either_phase(whole: Path, tmp_path: Path, stop: int) -> None:
    parts = tmp_path / "parts"
    stopped_runs.train(configuration(parts), stop)
    vpfb.train(vpfb.TrainConfig(resume=str(parts)))
    ours, theirs = state_of(parts), state_of(whole)
    assert_equal_bit_for_bit(ours, theirs)
    assert ours["phase"].tolist() == [1, BEGINS]
    assert ours["method/begun"].any(), "the chains of the negatives are part of the state"


def test_a_run_fits_into_the_memory_for_one_image_at_a_time_in_both_phases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {"steps": 4, "val_fraction": 0.005}
    vpfb.train(configuration(tmp_path / "small", micro_batch=1, **few))
    value = StaticEnergy.value

    def scarce(field: StaticEnergy, z: Tensor, condition: Tensor | None = None) -> Tensor:
        if len(z) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return value(field, z, condition)

    monkeypatch.setattr(StaticEnergy, "value", scarce)
    vpfb.train(configuration(tmp_path / "scarce", **few))
    assert_equal_bit_for_bit(state_of(tmp_path / "scarce"), state_of(tmp_path / "small"))


def test_the_second_phase_starts_from_the_average_and_averages_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, seen, counts = tmp_path / "run", {}, []
    losses, update = EnergyMatching.losses, ema.update

    def recorded(method: EnergyMatching, field: Any, batch: Any, at: Any) -> Any:
        seen[at.step] = {name: tensor.clone() for name, tensor in field.state_dict().items()}
        return losses(method, field, batch, at)

    def counted(average: list[Tensor], weights: list[Tensor], step: int, exponent: float) -> None:
        counts.append(step)
        update(average, weights, step, exponent)

    monkeypatch.setattr(EnergyMatching, "losses", recorded)
    monkeypatch.setattr(ema, "update", counted)
    settings = {"lr": 1e-2, "save_every": 1, "keep": STEPS}
    vpfb.train(configuration(run, **settings))
    states = [container.read(path, "state") for path in run.glob("state*.safetensors")]
    before = next(each for each in states if each.document["counters"]["step"] == BEGINS)
    assert counts == [1, 2, 3, 4, 1, 2, 3, 4]
    for name, began in seen[BEGINS].items():
        assert torch.equal(began, before.tensors[f"ema/{name}"])
    assert any(not torch.equal(began, before.tensors[f"network/{name}"]) for name, began in seen[BEGINS].items())


def test_a_model_samples_by_seed_and_index_and_continues_in_chains(whole: Path) -> None:
    model = vpfb.load(whole)
    four, two = model.sample(4, seed=1), model.sample(2, seed=1, first=2, batch_size=1)
    torch.testing.assert_close(four.images[2:], two.images, atol=1e-5, rtol=0.0)
    walked = model.long_run(four.images, 10, seed=1)
    assert walked.images.shape == four.images.shape
    assert walked.nfe.tolist() == [13] * 4


@pytest.mark.parametrize(
    ("use", "words"),
    [
        ("encode", "encoding needs a code of each datum"),
        ("log_density", "an explicit density needs energies of known normalisation"),
    ],
)
def test_encoding_and_normalised_densities_are_refused_in_a_sentence(whole: Path, use: str, words: str) -> None:
    model = vpfb.load(whole)
    with pytest.raises(vpfb.errors.ConfigError, match=words) as caught:
        getattr(model, use)(torch.zeros(1, 1, 8, 8))
    assert "vpfb" in str(caught.value.hint)


def test_classes_are_trained_guided_and_composed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inpainting, "AT_ONE_LEVEL", 1)
    vpfb.train(configuration(tmp_path / "classes", conditional=True))
    model = vpfb.load(tmp_path / "classes")
    three = model.sample(2, seed=1, condition="3")
    assert not torch.equal(three.images, model.sample(2, seed=1, condition="5").images)
    guided = model.sample(2, seed=1, condition="3", guidance=3.0)
    assert not torch.equal(three.images, guided.images)
    assert torch.equal(guided.nfe, 2 * three.nfe), "a guided gradient takes two evaluations"
    known = torch.ones(1, 8, 8, dtype=torch.bool)
    known[:, 4:] = False
    for use in (
        lambda **settings: model.long_run(three.images, 3, seed=1, condition="3", **settings),
        lambda **settings: model.inpaint(three.images[0], known, 2, seed=1, condition="3", levels=4, **settings),
    ):
        assert torch.equal(use(guidance=3.0).nfe, 2 * use().nfe)
    both = composition.Composition("3 & 5", model)
    x = three.solution.x
    energy, score = both.energy_and_score(x, 0.0)
    terms = [model.field.energy_and_score(x, 0.0, torch.full((2, 1), index)) for index in (3, 5, -1)]
    (e3, s3), (e5, s5), (free, of_free) = terms
    torch.testing.assert_close(energy, e3 + e5 - free, rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(score, s3 + s5 - of_free, rtol=1e-4, atol=1e-3)
    assert composition.sample(both, 2, seed=1, levels=4).images.isfinite().all()
