"""A detector of alterations: a small network that says where an image was altered.

It estimates the log ratio of the density of altered images to that of images as they are, so it needs no energy. There
are two of them. An image belongs to one of two halves by its values, each detector is trained on the images of one
half, and every image is assessed by the detector of the other half. So images that were trained on are assessed like
new ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vpfb_core.data.image_statistics import in_unit_range, to_bytes
from vpfb_core.errors import CheckpointError
from vpfb_core.model.identities import identities_of
from vpfb_core.model.neighbourhood import Neighbours, NullDistribution

SIZE = 32  # larger images are first reduced to this size
HALVES = 2
_WIDTH = 16  # of the first layers
_CELLS = 8  # along a side, approximately
_BATCH = 256


class Detector(nn.Module):
    """Logits of an alteration in each cell of images, uint8 (N, C, H, W) → (N, h, w).

    Sides of 8 to 32 pixels have 6 to 11 cells, and shorter ones a cell per pixel. The logits are the sums of those of a
    fine map and of one of half its resolution.
    """

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        halvings = max(0, round(math.log2(side / _CELLS)))
        layers: list[nn.Module] = []
        for level, width in enumerate((_WIDTH, 2 * _WIDTH, 4 * _WIDTH)):
            layers += [*_block(channels, width), *_block(width, width)]
            channels = width
            if level < halvings:
                layers.append(nn.MaxPool2d(2, ceil_mode=True))
        self.fine = nn.Sequential(*layers)
        self.coarse = nn.Sequential(
            nn.MaxPool2d(2, ceil_mode=True), *_block(channels, channels), *_block(channels, channels)
        )
        self.fine_head, self.coarse_head = nn.Conv2d(channels, 1, 1), nn.Conv2d(channels, 1, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        fine = self.fine(in_unit_range(pictures) - 0.5)
        coarse = self.coarse_head(self.coarse(fine))
        return (self.fine_head(fine) + F.interpolate(coarse, fine.shape[2:]))[:, 0].float()


def _block(before: int, after: int) -> list[nn.Module]:
    return [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]


@dataclass(frozen=True, eq=False)
class Alterations:
    """What a reference of M images knows of alterations.

    Attributes:
        detectors: one for each half of the images.
        shape: the shape (C, H, W) of the pictures that they are given.
        values: the statistic of each reference image, (M,).
    """

    detectors: Sequence[Detector]
    shape: tuple[int, int, int]
    values: Tensor

    @classmethod
    def of(cls, detectors: Sequence[Detector], pictures: Tensor) -> Alterations:
        """What detectors say of the pictures (M, C, H, W) of reference images (`pictures_of`).

        The detectors are rounded as in a file, and moved to the CPU.
        """
        for one in detectors:
            one.load_state_dict({name: tensor.half() for name, tensor in one.state_dict().items()})
        channels, height, width = pictures.shape[1:]
        empty = cls([_ready(one) for one in detectors], (channels, height, width), torch.empty(0))
        return replace(empty, values=empty._statistic(pictures))

    def __len__(self) -> int:
        return len(self.values)

    @cached_property
    def null(self) -> NullDistribution:
        """The distribution of the statistic among reference images."""
        return NullDistribution(self.values)

    def neighbours(self, descriptors: Tensor, own: Tensor) -> Neighbours:
        """The statistics of images, and no neighbours.

        Args:
            descriptors: the pictures of the images, (N, C, H, W).
            own: (N,), of which nothing is used.
        Raises:
            CheckpointError: the pictures have another shape than those of the reference.
        """
        if tuple(descriptors.shape[1:]) != self.shape:
            raise CheckpointError(
                f"pictures have the shape {tuple(descriptors.shape[1:])}, but those of the reference {self.shape}",
                hint="fit the reference again with vpfb info --calibrate MODEL",
            )
        return Neighbours(self._statistic(descriptors), own.new_empty(len(own), 0))

    @torch.no_grad()
    def _statistic(self, pictures: Tensor) -> Tensor:
        """The log of the sum over all cells of the odds of an alteration there, (N,)."""
        halves, found = halves_of(pictures), torch.zeros(len(pictures))
        for half, one in enumerate(self.detectors):
            for rows in (halves != half).nonzero()[:, 0].split(_BATCH):
                found[rows] = one(pictures[rows]).flatten(1).logsumexp(1)
        return found

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name, for a model file."""
        found = {"shape": torch.tensor(self.shape), "values": self.values}
        for half, one in enumerate(self.detectors):
            found |= {f"{half}.{name}": tensor.half() for name, tensor in _weights(one).items()}
        return found

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Alterations:
        """The alterations with these tensors.

        Raises:
            KeyError, ValueError: a tensor is missing or does not fit the others.
        """
        values, shape = tensors["values"].float(), tensors["shape"]
        if values.ndim != 1 or len(values) < 2 or shape.dtype != torch.int64 or shape.shape != (3,):
            raise ValueError("the detectors of the reference do not fit its images")
        channels, height, width = shape.tolist()
        if channels < 1 or not (1 <= height <= SIZE and 1 <= width <= SIZE):
            raise ValueError("the pictures of the detectors have an impossible shape")
        detectors = [Detector(channels, min(height, width)) for _ in range(HALVES)]
        for half, one in enumerate(detectors):
            weights = {name: tensors[f"{half}.{name}"] for name in _weights(one)}
            if any(
                weights[name].shape != tensor.shape or (name.endswith("running_var") and (weights[name] < 0).any())
                for name, tensor in _weights(one).items()
            ):
                raise ValueError("the tensors of a detector do not fit it")
            one.load_state_dict(weights, strict=False)
        return cls([_ready(one) for one in detectors], (channels, height, width), values)


def _weights(detector: Detector) -> dict[str, Tensor]:
    """The parameters and the means and variances of normalisations, by name."""
    return {name: tensor for name, tensor in detector.state_dict().items() if tensor.is_floating_point()}


def _ready(detector: Detector) -> Detector:
    """The detector on the CPU for evaluation only."""
    return detector.cpu().to(memory_format=torch.channels_last).eval().requires_grad_(False)


def halves_of(pictures: Tensor) -> Tensor:
    """The half, 0 or 1, of each of N pictures, which depends on its values alone, int64 (N,)."""
    return identities_of(pictures) >> 62 & 1


def reduced(images: Tensor) -> Tensor:
    """Images (N, C, H, W), uint8 or in [0, 1], as floats of at most `SIZE` pixels a side, on their device."""
    pictures = in_unit_range(images)
    if max(pictures.shape[2:]) > SIZE:
        pictures = F.interpolate(pictures, (SIZE, SIZE), mode="bilinear", antialias=True)
    return pictures


def pictures_of(images: Tensor) -> Tensor:
    """What detectors are given of images (N, C, H, W), uint8 or in [0, 1]: uint8 of at most `SIZE` pixels a side."""
    return torch.cat([to_bytes(reduced(some)).cpu() for some in images.split(_BATCH)])
