"""TensorBoard events of a run, which need the extra `tensorboard`. It is imported only if it is asked for."""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from vpfb_core.errors import MissingError


def require() -> None:
    """Raise MissingError unless tensorboard is installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise MissingError(
            "`log=tensorboard` needs the package tensorboard, which is not installed",
            hint='pip install "vpfb[tensorboard]", or leave out `log`; log.csv and curves.png are always written',
        )


class Events:
    """The events of a session, written to a folder that TensorBoard reads.

    Args:
        folder: the folder of the events of all sessions.
        step: the step at which the session begins. TensorBoard hides the events of earlier sessions after it.
    """

    def __init__(self, folder: Path, step: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tensorboard's own use of deprecated functions
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder), purge_step=step + 1)

    def line(self, step: int, figures: Mapping[str, float]) -> None:
        """Add the figures of a step that are finite."""
        for name, value in figures.items():
            if name != "step" and math.isfinite(value):
                self._writer.add_scalar(name, value, step)

    def grid(self, step: int, grid: Tensor) -> None:
        """Add a picture, (C, H, W) in [0, 1] or uint8."""
        self._writer.add_image("samples", grid, step)

    def close(self) -> None:
        """Write what is left and close the file."""
        self._writer.close()
