"""Square uint8 images in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from vpfb_core.data.image_statistics import ImageStatistics
from vpfb_core.data.in_memory import InMemory

TAKES = frozenset({"size", "channels"})


@dataclass(frozen=True, eq=False)
class ImageSet(InMemory):
    """A source whose images are in memory: uint8 (N, C, H, W), H == W, C in {1, 3}."""

    takes: ClassVar[frozenset[str]] = TAKES
    noun: ClassVar[str] = "images"
    fewest: ClassVar[int] = 1

    def __post_init__(self) -> None:
        images = self.data
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[2] != images.shape[3]:
            raise ValueError(f"images must be uint8 (N, C, S, S), not {images.dtype} {tuple(images.shape)}")
        super().__post_init__()

    @property
    def chosen(self) -> dict[str, Any]:
        return {"size": self.shape[-1], "channels": self.shape[0]}

    def statistics(self) -> ImageStatistics:
        return ImageStatistics.of(self.sample)
