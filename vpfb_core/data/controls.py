"""Sets that no model should find likely, to check out-of-distribution scores with.

Image i is fixed by i alone: the seed is a constant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from vpfb_core.data.images import ImageSet
from vpfb_core.data.load_options import LoadOptions
from vpfb_core.data.source import Source
from vpfb_core.errors import DataError
from vpfb_core.machine.noise import generator

COUNT = 1_000
_SEED, _SIZE, _CHANNELS = 0, 32, 3


def load_noise(options: LoadOptions) -> ImageSet:
    """Independent bytes, each value equally likely; uint8 (1000, 3, 32, 32) unless the options say otherwise."""

    def draw(i: int, shape: tuple[int, int, int]) -> Tensor:
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator(_SEED, "noise", i))

    return _drawn("noise", draw, options)


def load_constant(options: LoadOptions) -> ImageSet:
    """One random colour (or grey) an image, everywhere in it; shaped as `load_noise`."""

    def draw(i: int, shape: tuple[int, int, int]) -> Tensor:
        colour = torch.randint(0, 256, (shape[0], 1, 1), dtype=torch.uint8, generator=generator(_SEED, "constant", i))
        return colour.expand(shape)

    return _drawn("constant", draw, options)


def load_shuffled(load: Callable[[LoadOptions], Source], options: LoadOptions) -> ImageSet:
    """The images of another set, the pixels of each in a random order of its own: the same colours, no structure."""
    original = load(options).in_memory()
    images = original.images.clone()
    for i, image in enumerate(images):
        pixels = image.flatten(1)
        pixels[:] = pixels[:, torch.randperm(pixels.shape[1], generator=generator(_SEED, "shuffled", i))]
    return replace(original, images=images, notes=(*original.notes, "the pixels of each image shuffled"))


def _drawn(name: str, draw: Callable[[int, tuple[int, int, int]], Tensor], options: LoadOptions) -> ImageSet:
    if options.conditional:
        raise DataError(f"'{name}' has no classes", hint="leave --conditional out")
    size = options.size or min(_SIZE, options.max_size or _SIZE)
    shape = (options.channels or _CHANNELS, size, size)
    images = torch.stack([draw(i, shape) for i in range(options.limit or COUNT)])
    kind = "colour" if shape[0] == 3 else "grey"
    return ImageSet(name, images, notes=(f"{len(images):,} {kind} images of {size}×{size}, drawn from a fixed seed",))
