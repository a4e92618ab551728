"""One thread per process: the networks of the tests are too small for more, and busy machines make threads wait."""

from __future__ import annotations

import os
from collections.abc import Iterator

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by torch and by numpy's BLAS when they are imported

import pytest
import torch

from vpfb_core.training import agenda, checks, record

torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _checks_of_runs_are_short() -> Iterator[None]:
    """Checks, grids and curves take longer than the short runs of the tests. Their own tests take them as they are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record, "curves", lambda logs: b"curves")
        patch.setattr(checks, "GRID_IMAGES", 4)
        patch.setattr(checks, "GRID_NFE", 2)
        patch.setattr(agenda, "CHECKS", 2)
        yield


@pytest.fixture(autouse=True, scope="session")
def _no_test_waits_for_the_disk() -> Iterator[None]:
    """A run flushes dozens of files, which matters after a power failure only. Tests of flushing count the calls."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _file: None)
        yield
