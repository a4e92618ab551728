"""Random numbers of many chains and many steps at once, computed on the device from a counter.

Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") maps a key and a counter to four words
of 32 bits. Here the key is a hash of a seed and a stream, and the counter is (position, step, chain). So a number
depends only on these, not on the batch, and its words are the same on every device. Unlike the generators of
`noise.py`, it needs no loop over the chains and no copy from the host.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vpfb_core.machine.noise import derive_seed
from vpfb_core.settings import require_seed

ROUNDS = 10
# Steps are drawn in blocks of at most so many numbers, unless a single step has more, since Philox is some two hundred
# small operations, whatever the number of counters.
AT_ONCE = 2**16
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_INCREMENTS = 0x9E3779B9, 0xBB67AE85
_WORD = 0xFFFFFFFF


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """The four words of Philox4x32-10 for each counter, int64 tensors with values in [0, 2³²).

    Args:
        counter: four words, int64 tensors of one shape with values in [0, 2³²).
        key: two words.
    """
    a, b, c, d = counter
    for turn in range(ROUNDS):
        first, second = ((word + turn * step) & _WORD for word, step in zip(key, _INCREMENTS, strict=True))
        # Products of two words overflow int64 as products of two's complement do, so that their bits are right.
        left, right = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a, b, c, d = (right >> 32 & _WORD) ^ b ^ first, right & _WORD, (left >> 32 & _WORD) ^ d ^ second, left & _WORD
    return a, b, c, d


class ChainNoise:
    """The random numbers of N chains, fixed by (seed, stream, index of the chain, step).

    Args:
        seed: the seed of all chains.
        stream: the purpose of the noise; different streams are independent.
        first: the index of the first chain.
        like: the states of the chains, (N, …), whose shape, dtype and device the noise has.
        steps: how many steps will be drawn; no number depends on it.
    """

    def __init__(self, seed: int, stream: str, first: int, like: Tensor, steps: int = 1) -> None:
        key = derive_seed(require_seed(seed), stream)
        self._key = key >> 32, key & _WORD
        self._shape, self._dtype = like.shape, like.dtype
        self._chains = torch.arange(first, first + len(like), device=like.device)[:, None]
        self._steps = max(1, min(steps, AT_ONCE // max(1, like.numel())))
        self._begins = 0  # the first step of the block that is drawn
        self._normal, self._uniform = self._draw(0)

    def normal(self, step: int) -> Tensor:
        """Standard normal noise of one step, (N, …)."""
        self._reach(step)
        return self._normal[step - self._begins]

    def uniform(self, step: int) -> Tensor:
        """Numbers uniform in (0, 1] of one step, one per chain, (N,)."""
        self._reach(step)
        return self._uniform[step - self._begins]

    def _reach(self, step: int) -> None:
        """Draw the block of a step, unless it is the present one."""
        begins = step - step % self._steps
        if begins != self._begins:
            self._begins = begins
            self._normal, self._uniform = self._draw(begins)

    def _draw(self, first: int) -> tuple[Tensor, Tensor]:
        """Normal and uniform numbers of a block of steps, (steps, N, …) and (steps, N).

        The uniform ones are from position 0 of the counter, and the normal ones from the others, by the method of Box
        and Muller (1958).
        """
        numbers, device = math.prod(self._shape[1:]), self._chains.device
        step = torch.arange(first, first + self._steps, device=device)[:, None, None]
        position = torch.arange(1 + -(-numbers // 4), device=device)
        words = philox(
            torch.broadcast_tensors(position, step, self._chains & _WORD, self._chains >> 32), self._key
        )  # each (steps, N, positions)
        radius, turn = torch.cat([word[..., 1:] for word in words], 2).chunk(2, 2)
        radius = (-2 * _unit(radius).log()).sqrt()
        turn = 2 * math.pi * _unit(turn)
        normal = torch.cat([radius * turn.cos(), radius * turn.sin()], 2)[..., :numbers]
        return normal.reshape(self._steps, *self._shape).to(self._dtype), _unit(words[0][..., 0]).to(self._dtype)


def _unit(words: Tensor) -> Tensor:
    """Words as float32 numbers in (0, 1]."""
    return ((words >> 8).float() + 0.5) * 2.0**-24
