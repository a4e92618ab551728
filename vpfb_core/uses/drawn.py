"""Samples of a model, with the statistics of their solves."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vpfb_core.dynamics.ode import Solution


@dataclass(frozen=True)
class Drawn:
    """N samples and the statistics of their solves, on the CPU.

    Attributes:
        images: the samples: images, float32 (N, C, H, W) in [0, 1], or rows of a table, float64 (N, d); for a sample
            that failed, its last finite state.
        solution: the solution of each sample, in the coordinates of the model.
        path: the images at every step, (steps + 1, N, C, H, W); only with `keep_path`.
    """

    images: Tensor
    solution: Solution
    path: Tensor | None = None

    @property
    def data(self) -> Tensor:
        """The samples, of images or of a table, which are the same as `images`."""
        return self.images

    @property
    def nfe(self) -> Tensor:
        """Gradient evaluations per sample, (N,) int64."""
        return self.solution.nfe

    @property
    def status(self) -> Tensor:
        """The `ode.Status` of each sample, (N,) int64; 0 is success."""
        return self.solution.status

    def require_success(self) -> Drawn:
        """Return these samples if all of them reached the end of the flow.

        Raises:
            SolverError: a sample did not. The message says how many and why, the hint what to do.
        """
        self.solution.require_success()
        return self
