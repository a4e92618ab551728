"""One thread a process: the networks of the tests are too small for more, and busy machines make threads wait."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from vpfb_core.training import checks, record

torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _checks_of_runs_are_short() -> Iterator[None]:
    """Grids and curves take longer than the short runs of the tests. The tests of them draw them as they are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record, "curves", lambda logs: b"curves")
        patch.setattr(checks, "GRID_IMAGES", 4)
        patch.setattr(checks, "GRID_NFE", 2)
        yield
