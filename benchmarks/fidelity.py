"""The distance of samples from the converged samples of the same noise, and the increase of their Fréchet distance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from vpfb_core.api import Model
from vpfb_core.data.statistics import Statistics

COMPONENTS = 16
BLOCKS = 16  # of the jackknife


@dataclass(frozen=True)
class Fidelity:
    """Converged samples and real images in the space of the leading principal components of the real pixels.

    Attributes:
        real: the features of the real images, (M, k).
        truth: the converged samples, (N, …), on the CPU.
    """

    statistics: Statistics
    mean: Tensor
    axes: Tensor  # (d, k)
    real: np.ndarray
    truth: Tensor

    @classmethod
    def of(cls, model: Model, images: Tensor, truth: Tensor) -> Fidelity:
        """The reference for real images, uint8 (M, C, H, W), and converged samples z."""
        z = model.statistics.standardise(images).flatten(1).double()
        mean = z.mean(0)
        axes = torch.linalg.eigh((z - mean).T @ (z - mean))[1][:, -COMPONENTS:]
        return cls(model.statistics, mean, axes, ((z - mean) @ axes).numpy(), truth.cpu())

    @property
    def truth_frechet(self) -> float:
        return frechet(self._features(self.truth), self.real)

    def figures(self, z: Tensor) -> dict[str, float]:
        """The mean and median distance of samples from `truth`, and the relative increase of their Fréchet distance.

        The samples come from the same noise as `truth`. The increase has a standard error.
        """
        each = (z.cpu() - self.truth).square().flatten(1).mean(1).double()
        ours, true = self._features(z.cpu()), self._features(self.truth)
        block = np.arange(len(ours)) % BLOCKS
        left_out = [self._excess(ours[block != i], true[block != i]) for i in range(BLOCKS)]
        return {
            "rms": float(each.mean().sqrt()),
            "median": float(each.sqrt().median()),
            "frechet_excess": self._excess(ours, true),
            "frechet_error": float(np.sqrt((BLOCKS - 1) * np.var(left_out))),
        }

    def _excess(self, ours: np.ndarray, true: np.ndarray) -> float:
        return frechet(ours, self.real) / frechet(true, self.real) - 1

    def _features(self, z: Tensor) -> np.ndarray:
        """Of the images that z is shown as, in their range."""
        shown = self.statistics.standardise(self.statistics.restore(z)).flatten(1).double()
        features: np.ndarray = ((shown - self.mean) @ self.axes).numpy()
        return features


def frechet(ours: np.ndarray, real: np.ndarray) -> float:
    """‖m − m′‖² + tr(C + C′ − 2 (C C′)^½) between the Gaussians of two sets of features, (N, k) and (M, k)."""
    shift = ours.mean(0) - real.mean(0)
    first, second = np.cov(ours.T), np.cov(real.T)
    return float(shift @ shift + np.trace(first + second - 2 * scipy.linalg.sqrtm(first @ second).real))
