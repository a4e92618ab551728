"""A cache of the features of real images, so that they are computed only once.

The key is a hash of everything that the features depend on: the pixels of the images, and the extractor with the hash
of its weights. The features of a damaged file are computed again.
"""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from pathlib import Path

from torch import Tensor

from vpfb_core.errors import CheckpointError, DataError
from vpfb_core.machine import container
from vpfb_core.machine.files import cache_folder
from vpfb_core.uses.evaluation.features import Extractor

KIND = "features"
KEPT = 20  # files; 10,000 images of Inception's take 80 MB


def find(extractor: Extractor, images: Tensor) -> Tensor | None:
    """The cached features, float32 (N, F), of images uint8 (N, C, H, W); None if there are none."""
    if extractor.weights is None:
        return None
    with contextlib.suppress(CheckpointError, KeyError):
        kept = container.read(_path(extractor, images), KIND).tensors["features"]
        if kept.ndim == 2 and len(kept) == len(images):
            return kept
    return None


def keep(extractor: Extractor, images: Tensor, features: Tensor) -> None:
    """Save the features of images for `find`. A failure only raises a warning.

    Features of an extractor without weights are not saved, since they are fast to compute.
    """
    if extractor.weights is None:
        return
    path = _path(extractor, images)
    about = {"extractor": extractor.name, "weights": extractor.weights, "resize": extractor.resize}
    try:
        container.write(path, KIND, {"features": features}, about)
    except DataError as error:
        warnings.warn(f"the features of the real images are not saved: {error}", stacklevel=2)
    else:
        _forget_the_oldest(path.parent)


def _path(extractor: Extractor, images: Tensor) -> Path:
    digest = hashlib.sha256(repr((tuple(images.shape), extractor.name, extractor.weights, extractor.resize)).encode())
    digest.update(images.contiguous().numpy().data)
    return cache_folder() / "features" / f"real-{digest.hexdigest()[:32]}.safetensors"


def _forget_the_oldest(folder: Path) -> None:
    with contextlib.suppress(OSError):  # another process may remove the same files
        files = sorted(folder.glob("real-*.safetensors"), key=lambda path: path.stat().st_mtime_ns)
        for path in files[:-KEPT]:
            path.unlink()
