"""`noise` and `constant`, which no model should find likely: controls for out-of-distribution scores.

Image i is fixed by i alone: the seed is a constant.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vpfb_core.data.images import ImageSet
from vpfb_core.data.load_options import LoadOptions
from vpfb_core.data.named_set import NamedSet
from vpfb_core.errors import DataError, counted
from vpfb_core.machine.noise import generator

COUNT = 1_000
_SEED, _SIZE, _CHANNELS = 0, 32, 3


def load_noise(options: LoadOptions) -> ImageSet:
    """Independent bytes, uniformly distributed; uint8 (1000, 3, 32, 32) unless the options say otherwise."""

    def draw(i: int, shape: tuple[int, int, int]) -> Tensor:
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator(_SEED, "noise", i))

    return _drawn("noise", draw, options)


def load_constant(options: LoadOptions) -> ImageSet:
    """One random colour (or grey level) per image, equal at all pixels; shaped as `load_noise`."""

    def draw(i: int, shape: tuple[int, int, int]) -> Tensor:
        colour = torch.randint(0, 256, (shape[0], 1, 1), dtype=torch.uint8, generator=generator(_SEED, "constant", i))
        return colour.expand(shape)

    return _drawn("constant", draw, options)


def _drawn(name: str, draw: Callable[[int, tuple[int, int, int]], Tensor], options: LoadOptions) -> ImageSet:
    if options.conditional:
        raise DataError(f"'{name}' has no classes", hint="train without `conditional`")
    size = options.size or min(_SIZE, options.max_size or _SIZE)
    shape = (options.channels or _CHANNELS, size, size)
    images = torch.stack([draw(i, shape) for i in range(min(COUNT, options.limit or COUNT))])
    kind = "colour" if shape[0] == 3 else "grey"
    note = f"{counted(len(images), f'{kind} images')} of {size}x{size}, drawn from a fixed seed"
    return ImageSet(name, images, notes=(note, *options.cut(COUNT)))


SETS = (
    NamedSet(
        "noise", "control: independent random pixels, of any size", load_noise, COUNT, classes=(), control=True
    ),
    NamedSet(
        "constant", "control: one colour per image, of any size", load_constant, COUNT, classes=(), control=True
    ),
)  # fmt: skip
