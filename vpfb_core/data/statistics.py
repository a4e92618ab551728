"""The statistics that standardise data, computed once from the training images.

Every method works on data of mean 0 and standard deviation 1, whereas images are in [0, 1]. This module is the only one
that converts between them.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

LEVELS = 256  # grey levels of an image of uint8
_PART = 2**26  # the largest number of values that are counted at once


@dataclass(frozen=True)
class Statistics:
    """The mean of each channel and one standard deviation of the training images, in units of [0, 1].

    All channels share one standard deviation, so that their covariance keeps its shape.
    """

    mean: tuple[float, ...]
    std: float

    @classmethod
    def of(cls, images: Tensor) -> Statistics:
        """The statistics of uint8 images (N, C, H, W).

        They are computed from a histogram of each channel. Images without contrast get the deviation of one grey level.
        """
        channels = images.shape[1]
        counts = torch.zeros(channels, LEVELS, dtype=torch.int64)
        for part in images.split(max(1, _PART // images[0].numel())):
            counts += torch.stack([part[:, c].flatten().bincount(minlength=LEVELS).cpu() for c in range(channels)])
        grey = torch.arange(LEVELS, dtype=torch.float64)
        mean = (counts * grey).sum(1) / counts.sum(1)  # the sums are whole numbers, and exact
        squares = (counts * (grey - mean[:, None]).square()).sum()
        std = max(float(squares / counts.sum()) ** 0.5, 1.0)
        return cls(tuple((mean / 255).tolist()), std / 255)

    def standardise(self, images: Tensor) -> Tensor:
        """Data of mean 0 and standard deviation 1, float32, from images (N, C, H, W), uint8 or in [0, 1]."""
        images = images.float() / 255 if images.dtype == torch.uint8 else images.float()
        return (images - self._mean(images)) / self.std

    def to_images(self, z: Tensor) -> Tensor:
        """Images, float32 in [0, 1], from standardised data z (…, C, H, W)."""
        return (z * self.std + self._mean(z)).clamp(0, 1)

    def _mean(self, like: Tensor) -> Tensor:
        """The means, (C, 1, 1), on the device of `like`."""
        return _as_tensor(self.mean, like.device)[:, None, None]


@functools.cache  # a copy to the device at every step would wait for it
def _as_tensor(values: tuple[float, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float32, device=device)
