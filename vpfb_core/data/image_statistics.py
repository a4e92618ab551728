"""The statistics of images: the mean of each channel, and one standard deviation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from vpfb_core.data.statistics import Draw, Statistics, as_tensor
from vpfb_core.errors import ConfigError
from vpfb_core.machine import noise

LEVELS = 256  # grey levels of an image of uint8
GREY_LEVEL = 1 / 255
DEQUANTISATION = 1 / math.sqrt(12)  # the standard deviation of a uniform draw, in grey levels
EXPECTED = "images are uint8 in 0 to 255, or floats in 0 to 1"
_TOLERANCE = 0.501 / 255  # half a grey level, and some rounding
_PART = 2**26  # the largest number of values that are counted at once


@dataclass(frozen=True)
class ImageStatistics(Statistics):
    """The mean of each channel and one standard deviation of the training images, in units of [0, 1].

    All channels share one standard deviation, so that their covariance keeps its shape. Values are images
    (N, C, H, W), uint8 or in [0, 1].
    """

    kind: ClassVar[str] = "images"
    noun: ClassVar[str] = "images"

    mean: tuple[float, ...]
    std: float

    @classmethod
    def of(cls, images: Tensor) -> ImageStatistics:
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

    def standardise(self, values: Tensor, device: torch.device | None = None) -> Tensor:
        images = in_unit_range(values.to(device))
        return (images - self._mean(images)) / self.std

    def restore(self, z: Tensor) -> Tensor:
        """Images, float32 in [0, 1], from standardised data z (…, C, H, W)."""
        return self.unrounded(z).clamp(0, 1)

    def unrounded(self, z: Tensor) -> Tensor:
        """Images, float32, whose values may be outside [0, 1]."""
        return z * self.std + self._mean(z)

    def public(self, values: Tensor) -> Tensor:
        """Images as floats in [0, 1]."""
        return in_unit_range(values)

    def stored(self, values: Tensor) -> Tensor:
        """Images as uint8, rounded."""
        return to_bytes(values)

    def dequantise(self, values: Tensor, seed: int, first: int = 0) -> Tensor:
        """Images with each pixel drawn uniformly from the cell of its grey level, float32 on the CPU.

        Images in [0, 1] are first rounded to grey levels, as in an image file.
        """
        values = values.cpu()
        levels = values.float() if values.dtype == torch.uint8 else (values.float() / GREY_LEVEL).round()
        cells = noise.uniform(values.shape[1:], seed, range(first, first + len(values)), "dequantisation")
        return (levels + cells) * GREY_LEVEL

    def for_training(self, values: Tensor, draw: Draw) -> Tensor:
        """The images as they are: the least noise of training is about as wide as a grey level."""
        del draw
        return values

    @property
    def learned_width(self) -> float:
        return DEQUANTISATION * GREY_LEVEL / self.std

    def log_volume(self, shape: tuple[int, ...]) -> float:
        return -math.prod(shape) * math.log(self.std)

    def features(self, values: Tensor) -> Tensor:
        """The pixels in [0, 1]."""
        return in_unit_range(values).flatten(1)

    @property
    def unit(self) -> tuple[float, str]:
        return self.std / GREY_LEVEL, "grey levels"

    def require(self, values: Tensor, shape: tuple[int, ...]) -> None:
        """Refuse images of another shape, dtype or range than (N, C, H, W), uint8 or in [0, 1].

        Values up to half a grey level outside [0, 1] are accepted, since dequantised images have them.
        """
        if values.ndim != 1 + len(shape) or tuple(values.shape[1:]) != tuple(shape):
            last = tuple(values.shape[1:]) == (*shape[1:], shape[0])
            one = tuple(values.shape) == tuple(shape)
            how = ": transpose (0, 3, 1, 2)" if last else ": one image is images[None]" if one else ""
            raise ConfigError(
                f"images of shape {tuple(values.shape)} do not fit a model of {tuple(shape)}",
                hint=f"the shape is (N, channels, height, width){how}",
            )
        if values.dtype == torch.uint8 or not values.numel():
            return
        if not values.is_floating_point():
            raise ConfigError(f"images have dtype {values.dtype}", hint=EXPECTED)
        lowest, highest = map(float, values.detach().aminmax())  # NaN if there is one among the values
        if not (math.isfinite(lowest) and math.isfinite(highest)):
            raise ConfigError("images contain values that are NaN or infinite", hint=EXPECTED)
        if lowest < -_TOLERANCE or highest > 1 + _TOLERANCE:
            raise ConfigError(
                f"images of dtype {values.dtype} have values from {lowest:g} to {highest:g}", hint=EXPECTED
            )

    def require_shape(self, shape: tuple[int, ...]) -> None:
        if len(shape) != 3 or len(self.mean) != shape[0]:
            raise ValueError(f"data of shape {shape} do not have {len(self.mean)} means")

    def reading(self, shape: tuple[int, ...]) -> dict[str, Any]:
        return {"kind": self.noun, "size": shape[-1], "channels": shape[0]}

    def reading_in_words(self, shape: tuple[int, ...]) -> str:
        size = shape[-1]
        return f"centre square, Lanczos to {size}×{size}, {'grey' if shape[0] == 1 else 'colour'}"

    def distance(self, other: Statistics) -> float:
        if not isinstance(other, ImageStatistics) or len(other.mean) != len(self.mean):
            return math.inf
        apart = [abs(a - b) for a, b in zip((*self.mean, self.std), (*other.mean, other.std), strict=True)]
        return max(apart) / max(self.std, other.std)

    def in_words(self) -> str:
        return f"{'/'.join(f'{mean:.3f}' for mean in self.mean)} (std {self.std:.3f})"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)  # without the kind, as in the files of versions that knew only images

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> ImageStatistics:
        return cls(tuple(document["mean"]), document["std"])

    def _mean(self, like: Tensor) -> Tensor:
        """The means, (C, 1, 1), on the device of `like`."""
        return as_tensor(self.mean, like.device, torch.float32)[:, None, None]


def in_unit_range(images: Tensor) -> Tensor:
    """Images as floats in [0, 1], from uint8 or from floats."""
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


def to_bytes(images: Tensor) -> Tensor:
    """Images in [0, 1] as uint8, rounded. Images that are uint8 are not changed."""
    return images if images.dtype == torch.uint8 else (images.clamp(0, 1) * 255).round().to(torch.uint8)
