"""The built-in model with a reference, a compiler that has seen nothing, and folders that are soon too large."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import vpfb_core as vpfb
from vpfb_core.api import Model
from vpfb_core.data import InMemory, split, streaming
from vpfb_core.networks import autograd_functions
from vpfb_core.uses import ood


@pytest.fixture(scope="session")
def digits() -> tuple[Model, InMemory]:
    """The built-in model with a reference, and digits that its training held out."""
    model, images = vpfb.load("digits", device="cpu"), vpfb.data.load("digits")
    rows, held_out = split(images, 0.1, 0)
    if model.reference is None:
        model.reference = ood.fit_reference(model, images.images[rows], count=200)
    return model, images.subset(held_out)


@pytest.fixture
def untold(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The compiler as it is before anybody has told it of our layers, and after the test again."""
    monkeypatch.setattr(autograd_functions, "_told", False)
    yield
    torch._dynamo.reset()


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders of more than 50 files are streamed, after a look at 20 of them, and 8 of them are held out."""
    monkeypatch.setattr(streaming, "STREAMED_FILES", 50)
    monkeypatch.setattr(streaming, "SAMPLE", 20)
    monkeypatch.setattr(streaming, "MOST_HELD_OUT", 8)
