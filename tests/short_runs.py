"""Checks, grids, curves and calibrations take longer than the short runs of the tests, and so does the disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any


def shorten(setattr: Callable[[Any, str, Any], object] = setattr) -> None:
    """Make them short in this process. Their own tests take them as they are.

    A run flushes dozens of files, which matters after a power failure only. Tests of flushing count the calls.
    """
    from vpfb_core.training import agenda, checks, record
    from vpfb_core.uses import calibration

    setattr(record, "curves", lambda _logs, _origin: b"curves")
    setattr(checks, "GRID_IMAGES", 4)
    setattr(checks, "GRID_NFE", 2)
    setattr(agenda, "CHECKS", 1)
    setattr(calibration, "IMAGES", 128)
    setattr(os, "fsync", lambda _file: None)
