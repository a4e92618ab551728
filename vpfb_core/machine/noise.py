"""Random numbers per sample, fixed bit for bit by (seed, stream, index) and independent of the batch size."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from vpfb_core.settings import require_seed


def derive_seed(*key: int | str) -> int:
    """A 63-bit seed for a torch generator from a key such as (seed, "prior", 12).

    The seed is a hash of the key, so that different keys have different seeds. Whole numbers of NumPy and torch give
    the same seed as those of Python.

    Raises:
        ConfigError: a number of the key, a seed or an index, is not a whole number from 0 to `LARGEST_SEED`.
    """
    parts = tuple(part if isinstance(part, str) else require_seed(part) for part in key)
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator seeded by a key."""
    return torch.Generator(device=device).manual_seed(derive_seed(*key))


@contextlib.contextmanager
def seeded_global_generator(device: torch.device, seed: int) -> Iterator[None]:
    """Inside this context, the global generator of a device is seeded. Its state is restored at the end.

    Code of torch that takes no generator needs this, such as dropout and the initialisation of weights. The generators
    of other devices are left alone, whereas `torch.manual_seed` seeds all of them.

    Raises:
        ConfigError: the seed is not a whole number from 0 to `LARGEST_SEED`.
    """
    seed = require_seed(seed)
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
    """Standard normal noise for the samples `indices`.

    Each sample is drawn with a generator of its own, since the beginning of one large draw depends on its size.

    Args:
        shape: the shape of one sample.
        seed: the seed of the whole set of samples.
        indices: the numbers of the samples.
        stream: the purpose of the noise, such as "prior"; different streams are independent.
    Returns:
        (len(indices), *shape), float32 on the CPU.
    """
    return _drawn(functools.partial(torch.randn, dtype=torch.float32), shape, seed, indices, stream)


def uniform(shape: Sequence[int], seed: int, indices: Iterable[int], stream: str) -> Tensor:
    """Noise uniform on [−½, ½), drawn as by `normal`. It dequantises images, in units of grey levels."""
    return _drawn(functools.partial(torch.rand, dtype=torch.float32), shape, seed, indices, stream) - 0.5


def signs(shape: Sequence[int], seed: int, indices: Iterable[int], stream: str) -> Tensor:
    """Random signs ±1, drawn as by `normal`: the probes of Hutchinson's estimator of a trace."""
    return 2.0 * _drawn(functools.partial(torch.randint, 2), shape, seed, indices, stream).float() - 1.0


def _drawn(draw: Callable[..., Tensor], shape: Sequence[int], seed: int, indices: Iterable[int], stream: str) -> Tensor:
    seed = require_seed(seed)
    draws = [draw(tuple(shape), generator=generator(seed, stream, index)) for index in indices]
    return torch.stack(draws) if draws else torch.empty(0, *shape, dtype=torch.float32)
