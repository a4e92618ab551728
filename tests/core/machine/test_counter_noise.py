"""Random numbers from a counter: the published words of Philox, the distributions, and independence of the batch."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from vpfb_core.machine.counter_noise import AT_ONCE, ChainNoise, philox

# The test vectors of the Random123 library for philox4x32-10: counter, key, words.
PUBLISHED = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), PUBLISHED)
def test_philox_returns_the_published_words(
    counter: tuple[int, ...], key: tuple[int, int], words: tuple[int, ...]
) -> None:
    a, b, c, d = (torch.tensor([word]) for word in counter)
    assert tuple(int(word) for word in philox((a, b, c, d), key)) == words


def chains(n: int, *shape: int, first: int = 0, seed: int = 3, stream: str = "chain", steps: int = 1) -> ChainNoise:
    return ChainNoise(seed, stream, first, torch.empty(n, *shape), steps)


def test_normal_noise_is_normal_and_uniform_noise_is_uniform() -> None:
    noise = chains(200, 251)
    normal, uniform = noise.normal(7).flatten(), chains(20_000, 1).uniform(7)
    assert stats.kstest(normal.numpy(), "norm").pvalue > 1e-3
    assert stats.kstest(uniform.numpy(), "uniform").pvalue > 1e-3


def test_numbers_of_chains_steps_positions_streams_and_seeds_are_uncorrelated() -> None:
    noise = chains(400, 400)
    drawn = noise.normal(0)
    others = [
        drawn.roll(1, 0), drawn.roll(1, 1), drawn.roll(100, 1), drawn.roll(200, 1), noise.normal(1),
        chains(400, 400, stream="test").normal(0), chains(400, 400, seed=4).normal(0),
    ]  # fmt: skip
    for other in others:
        assert abs(float((drawn * other).mean())) < 4 / 400
        assert abs(float((drawn.square() * other.square()).mean()) - 1) < 4 * 8**0.5 / 400


def test_the_numbers_of_a_chain_do_not_depend_on_the_batch() -> None:
    whole, part = chains(6, 3, 5), chains(2, 3, 5, first=4)
    assert torch.equal(whole.normal(9)[4:], part.normal(9))
    assert torch.equal(whole.uniform(9)[4:], part.uniform(9))


def test_the_numbers_of_a_step_do_not_depend_on_how_many_steps_are_drawn_at_once() -> None:
    one_at_a_time, many_at_once = chains(AT_ONCE, 3, steps=50), chains(2, 3, first=4, steps=16)
    for step in (40, 0, 9, 10):
        assert torch.equal(one_at_a_time.normal(step)[4:6], many_at_once.normal(step))
        assert torch.equal(one_at_a_time.uniform(step)[4:6], many_at_once.uniform(step))


def test_chains_beyond_32_bits_are_chains_of_their_own() -> None:
    assert not torch.equal(chains(1, 4, first=1).normal(0), chains(1, 4, first=2**32 + 1).normal(0))


def test_noise_has_the_dtype_of_the_chains() -> None:
    noise = ChainNoise(0, "chain", 0, torch.empty(2, 3, dtype=torch.float64))
    assert noise.normal(0).dtype == noise.uniform(0).dtype == torch.float64
