"""Noise that belongs to a sample, not to a batch: fixed bit for bit by (seed, stream, index)."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor


def derive_seed(*key: int | str) -> int:
    """A 63-bit seed for a torch generator from any key, such as (seed, "prior", 12): a hash, so that no two meet."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of its own for a key."""
    return torch.Generator(device=device).manual_seed(derive_seed(*key))


def lent_global_generator(device: torch.device, *key: int | str) -> contextlib.AbstractContextManager[None]:
    """`seeded_global_generator` with the seed of a key."""
    return seeded_global_generator(device, derive_seed(*key))


@contextlib.contextmanager
def seeded_global_generator(device: torch.device, seed: int) -> Iterator[None]:
    """Seed the device's global generator inside the context, and restore it afterwards.

    This is for code of torch that draws from nothing else, such as dropout layers and the initialisation of weights.
    The generators of other devices stay untouched, whereas `torch.manual_seed` seeds all of them.
    """
    if device.type == "mps":
        state = torch.mps.get_rng_state()
        torch.mps.manual_seed(seed)
        try:
            yield
        finally:
            torch.mps.set_rng_state(state)
        return
    cuda = device.type == "cuda"
    generator = torch.cuda.default_generators[device.index or 0] if cuda else torch.default_generator
    state = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(state)


def normal(shape: Sequence[int], seed: int, indices: Iterable[int], stream: str = "prior") -> Tensor:
    """Standard normal noise for the samples `indices`, float32 (len(indices), *shape), on the CPU.

    Sample i gets the same noise whatever the batch that it is drawn in; `stream` keeps the noise of different uses
    (prior, Langevin, …) apart. Drawn one sample at a time: prefixes of one large draw change with its size.
    """
    draws = [torch.randn(tuple(shape), generator=generator(seed, stream, index)) for index in indices]
    return torch.stack(draws) if draws else torch.empty(0, *shape)


def uniform(shape: Sequence[int], seed: int, indices: Iterable[int], stream: str) -> Tensor:
    """Noise uniform on [−½, ½), as `normal` draws it: dequantisation, in grey levels."""
    draws = [torch.rand(tuple(shape), generator=generator(seed, stream, index)) - 0.5 for index in indices]
    return torch.stack(draws) if draws else torch.empty(0, *shape)


def signs(shape: Sequence[int], seed: int, indices: Iterable[int], stream: str) -> Tensor:
    """Random signs ±1, as `normal` draws noise: the probes of Hutchinson's estimator."""
    draws = [torch.randint(2, tuple(shape), generator=generator(seed, stream, index)) for index in indices]
    return 2.0 * torch.stack(draws) - 1.0 if draws else torch.empty(0, *shape)
