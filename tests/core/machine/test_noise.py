"""The noise of a sample has the same bits whatever the batch."""

from __future__ import annotations

import typing
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import vpfb_core as vpfb
from vpfb_core import networks
from vpfb_core.machine import noise
from vpfb_core.machine.counter_noise import ChainNoise
from vpfb_core.uses import composition


def test_noise_of_a_sample_is_the_same_bits_in_every_batch() -> None:
    whole = noise.normal((3, 4, 4), 7, range(64))
    for start, stop in [(0, 1), (0, 13), (13, 64), (63, 64)]:
        assert torch.equal(noise.normal((3, 4, 4), 7, range(start, stop)), whole[start:stop])
    order = [40, 3, 3, 17]
    assert torch.equal(noise.normal((3, 4, 4), 7, order), whole[order])


def test_noise_of_a_large_sample_is_the_same_bits_whatever_the_number_of_threads() -> None:
    before, draws = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            draws.append(noise.normal((3, 128, 128), 0, [5]))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*draws)


def test_whole_numbers_of_other_libraries_are_the_same_seed() -> None:
    for seed in (np.int64(7), np.uint8(7), torch.tensor(7)):
        assert noise.derive_seed(typing.cast(int, seed), "prior") == noise.derive_seed(7, "prior")


def test_what_is_no_seed_is_refused_wherever_something_is_drawn() -> None:
    model, images = vpfb.load("digits"), torch.zeros(1, 1, 8, 8)
    composed = composition.Composition("3 | 8", model)
    uses: dict[str, Callable[[Any], object]] = {
        "noise": lambda seed: noise.normal((2,), seed, range(1)),
        "chains": lambda seed: ChainNoise(seed, "chain", 0, images),
        "network": lambda seed: networks.build({"name": "mlp", "dim": 2}, seed),
        "sample": lambda seed: model.sample(1, seed),
        "log_density": lambda seed: model.log_density(images, seed=seed),
        "score": lambda seed: model.score(images, "energy", seed=seed),
        "long_run": lambda seed: model.long_run(images, 1, seed),
        "inpaint": lambda seed: model.inpaint(images[0], torch.eye(8)[None] > 0, 1, seed),
        "compose": lambda seed: composition.sample(composed, 1, seed),
        "train": lambda seed: vpfb.TrainConfig(data="digits", seed=seed),
    }
    for use, draw in uses.items():
        for wrong in (-1, 2**63, 1.5, None, "1"):
            with pytest.raises(vpfb.errors.ConfigError, match="seed"):
                draw(wrong)
                pytest.fail(f"{use} took {wrong}")


def test_an_index_of_a_sample_that_is_none_is_refused_by_its_name() -> None:
    model, images = vpfb.load("digits"), torch.zeros(1, 1, 8, 8)
    composed = composition.Composition("3 | 8", model)
    uses: list[Callable[[Any], object]] = [
        lambda first: model.sample(1, first=first),
        lambda first: model.log_density(images, first=first),
        lambda first: model.score(images, "energy", first=first),
        lambda first: model.long_run(images, 1, first=first),
        lambda first: model.inpaint(images[0], torch.eye(8)[None] > 0, 1, first=first),
        lambda first: composition.sample(composed, 1, first=first),
    ]
    for draw in uses:
        for wrong in (-1, 1.5):
            with pytest.raises(vpfb.errors.ConfigError, match=f"^first = {wrong}"):
                draw(wrong)


@pytest.mark.parametrize("other", [{"seed": 1}, {"stream": "langevin"}, {"indices": range(8, 16)}])
def test_seeds_streams_and_indices_give_different_noise(other: dict[str, Any]) -> None:
    call: dict[str, Any] = {"seed": 0, "indices": range(8), "stream": "prior"}
    a, b = noise.normal((50,), **call), noise.normal((50,), **(call | other))
    assert not (a == b).any()


def test_noise_is_standard_normal() -> None:
    draws = noise.normal((64,), 3, range(2000)).double()
    n = draws.numel()
    # The k-th moment's variance is that of a normal variable's k-th power over n.
    for power, moment, variance in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]:
        assert abs((draws**power).mean() - moment) < 4 * (variance / n) ** 0.5
    # Samples are independent of their neighbours, though each has a generator of its own.
    assert abs((draws[1:] * draws[:-1]).mean()) < 4 / n**0.5


def test_noise_has_the_given_shape_and_may_be_empty() -> None:
    assert noise.normal((3, 8, 8), 0, range(5)).shape == (5, 3, 8, 8)
    assert noise.normal((3, 8, 8), 0, []).shape == (0, 3, 8, 8)
    assert noise.normal((2,), 0, range(1)).dtype == torch.float32


def test_noise_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    noise.normal((4,), 0, range(10))
    assert torch.equal(torch.get_rng_state(), before)


def test_seeds_of_different_keys_differ_and_fit_a_generator() -> None:
    keys: list[tuple[int | str, ...]] = [
        (seed, stream, index) for seed in range(10) for stream in ("prior", "step") for index in range(100)
    ]
    keys += [("1", 1), (1, "1"), (11,), (1, 1)]
    seeds = {noise.derive_seed(*key) for key in keys}
    assert len(seeds) == len(keys)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_derived_seeds_stay_as_they_are_from_release_to_release() -> None:
    # A picture is known by its seed, so these numbers may never change.
    assert noise.derive_seed(0, "prior", 0) == 592586378011656958


def test_uniform_noise_and_signs_are_fixed_per_sample_as_well() -> None:
    for draw in (noise.uniform, noise.signs):
        drawn = draw((3, 4), 5, range(6), "stream")
        assert drawn.shape == (6, 3, 4)
        assert torch.equal(draw((3, 4), 5, [4, 2], "stream"), drawn[[4, 2]])
        assert not torch.equal(draw((3, 4), 5, range(6), "other"), drawn)
        assert draw((3, 4), 5, [], "stream").shape == (0, 3, 4)


def test_uniform_noise_fills_a_cell_and_signs_are_fair() -> None:
    cells = noise.uniform((100,), 0, range(100), "stream")
    assert cells.min() >= -0.5
    assert cells.max() < 0.5
    assert abs(cells.mean()) < 4 / (12 * 10_000) ** 0.5
    signs = noise.signs((100,), 0, range(100), "stream")
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    assert abs(signs.mean()) < 4 / 100


def test_a_seeded_global_generator_draws_by_its_seed_and_comes_back_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    cpu, before = torch.device("cpu"), torch.get_rng_state()
    with noise.seeded_global_generator(cpu, 5):
        drawn = torch.rand(4)
    with pytest.raises(ZeroDivisionError), noise.seeded_global_generator(cpu, noise.derive_seed(5, "stream")):
        keyed = torch.rand(4)
        raise ZeroDivisionError
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(drawn, torch.rand(4, generator=torch.Generator().manual_seed(5)))
    assert torch.equal(keyed, torch.rand(4, generator=noise.generator(5, "stream")))
    assert not seeded, "the generators of other devices stay as they were"
