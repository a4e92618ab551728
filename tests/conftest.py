"""One thread per process: the networks of the tests are too small for more, and busy machines make threads wait."""

from __future__ import annotations

import os
from collections.abc import Iterator

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by torch and by numpy's BLAS when they are imported

import pytest
from short_runs import shorten


@pytest.fixture(autouse=True, scope="session")
def _runs_are_short() -> Iterator[None]:
    import torch  # not by the process that only hands out the tests to others

    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch.setattr)
        yield
