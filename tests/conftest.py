"""One thread a process: the networks of the tests are too small for more, and busy machines make threads wait."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from vpfb_core.training import record

torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _curves_are_not_drawn() -> Iterator[None]:
    """Drawing takes longer than the short runs of the tests. The tests of the curves draw them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record, "curves", lambda logs: b"curves")
        yield
