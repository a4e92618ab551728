"""Features of real images are computed once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from vpfb_core.uses.evaluation import cache as kept
from vpfb_core.uses.evaluation.features import Extractor

EXTRACTOR = Extractor("torchvision:resnet18", "abc", "to 224", lambda images: images.flatten(1).float())
IMAGES = torch.arange(5 * 4, dtype=torch.uint8).view(5, 1, 2, 2)


def cached(extractor: Extractor = EXTRACTOR, images: Tensor = IMAGES) -> tuple[Tensor, bool]:
    """The features, and whether they were found; else they are kept."""
    if (found := kept.find(extractor, images)) is not None:
        return found, True
    features = extractor.compute(images)
    kept.keep(extractor, images, features)
    return features, False


def files(cache: Path) -> list[Path]:
    return sorted((cache / "vpfb").rglob("real-*"))


def test_cached_features_are_not_computed_again(cache: Path) -> None:
    first, found = cached()
    assert not found
    again = kept.find(EXTRACTOR, IMAGES.clone())
    assert again is not None
    assert torch.equal(again, first)
    assert len(files(cache)) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"extractor": replace(EXTRACTOR, weights="abd")},
        {"extractor": replace(EXTRACTOR, name="torchvision:resnet34")},
        {"extractor": replace(EXTRACTOR, resize="to 299")},
        {"images": IMAGES[:4]},
        {"images": IMAGES.flip(0)},
        {"images": IMAGES.view(5, 1, 4, 1)},
    ],
)
def test_other_images_or_another_extractor_are_another_key(cache: Path, other: dict[str, Any]) -> None:
    cached()
    _, found = cached(**other)
    assert not found
    assert len(files(cache)) == 2


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped"])
def test_the_features_of_a_damaged_file_are_computed_again(cache: Path, damage: str) -> None:
    first, _ = cached()
    (path,) = files(cache)
    content = path.read_bytes()
    flipped = content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]
    path.write_bytes({"truncated": content[:-5], "empty": b"", "flipped": flipped}[damage])
    again, found = cached()
    assert not found
    assert torch.equal(again, first)
    assert cached()[1], "and kept again"


def test_pixels_are_not_cached(cache: Path) -> None:
    assert not cached(replace(EXTRACTOR, weights=None))[1]
    assert files(cache) == []


def test_a_cache_that_cannot_be_written_is_no_error(cache: Path) -> None:
    cache.mkdir()
    (cache / "vpfb").write_text("in the way")
    with pytest.warns(UserWarning, match="not saved"):
        features, found = cached()
    assert not found
    assert torch.equal(features, EXTRACTOR.compute(IMAGES))


def test_the_oldest_files_of_a_full_cache_are_removed(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "KEPT", 3)
    for count in range(1, 6):
        cached(images=IMAGES[:count])
    assert len(files(cache)) == 3
    assert cached(images=IMAGES[:5])[1]
    assert not cached(images=IMAGES[:1])[1]
