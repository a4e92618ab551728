"""What images are compared by: extractors, each a network or none, with its weights' hash and its rule of resizing.

Only the features of `inception` make a FID. The others need no download: `pixels`; `torchvision:ARCH`, the layer below
the last of any torchvision classifier with weights from a file; `classifier`, fitted to the data's own labels.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from vpfb_core.errors import CheckpointError, ConfigError, MissingError
from vpfb_core.uses.evaluation import classifier, weights

INCEPTION, PIXELS, CLASSIFIER, TORCHVISION = "inception", "pixels", "classifier", "torchvision:"
NAMES = (PIXELS, CLASSIFIER, f"{TORCHVISION}ARCH", INCEPTION)
TORCHVISION_SIZE = 224
ENLARGED_BATCH = 64  # images at once that a network sees enlarged, which takes the memory of hundreds of small ones
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Extractor:
    """Images as points between which distances mean something.

    Attributes:
        name: as people type it.
        weights: SHA-256 of the file of its weights; None where it has none.
        resize: what it does to an image's size, in words.
        compute: uint8 (N, C, H, W) on its device → float32 (N, F).
    """

    name: str
    weights: str | None
    resize: str
    compute: Callable[[Tensor], Tensor]

    def features(
        self,
        images: Tensor,
        device: torch.device,
        *,
        batch_size: int,
        on_batch: Callable[[int], None] | None = None,
    ) -> Tensor:
        """The features of images, float32 (N, F) on the device.

        Args:
            images: uint8 (N, C, H, W).
            on_batch: hears how many images were added.
        Raises:
            CheckpointError: they are not finite.
        """
        parts = []
        with torch.no_grad():
            for batch in images.split(batch_size):
                parts.append(self.compute(batch.to(device)).float())
                if on_batch is not None:
                    on_batch(len(batch))
        features = torch.cat(parts)
        if not features.isfinite().all():
            raise CheckpointError(f"the features of {self.name!r} are not finite", hint="its weights may be damaged")
        return features


def check_name(name: str) -> None:
    """Refuse what is no extractor's name. Raises ConfigError with the nearest one and all of them."""
    known = (PIXELS, CLASSIFIER, INCEPTION)
    if name in known or (name.startswith(TORCHVISION) and name != TORCHVISION):
        return
    near = difflib.get_close_matches(name, known, n=1)
    guess = f"did you mean {near[0]!r}? " if near else ""
    raise ConfigError(f"no features {name!r}", hint=f"{guess}features: {', '.join(NAMES)}")


def choose(weights_path: Path | None, identity: str, shape: tuple[int, ...], *, fid_meant: bool) -> str:
    """The name of the extractor when nobody named one.

    Inception where FID or its weights are named, or both they and torch-fidelity are on this machine; else the
    classifier if it is fitted to the data; else pixels.
    """
    if fid_meant or weights_path is not None or (weights.inception_cached() and has_torch_fidelity()):
        return INCEPTION
    return CLASSIFIER if classifier.find(identity, shape) else PIXELS


def find(
    name: str,
    weights_path: Path | None,
    identity: str,
    shape: tuple[int, ...],
    device: torch.device,
    *,
    download: bool,
) -> Extractor:
    """The extractor of that name, with its weights on the device.

    Args:
        weights_path: of the file of weights, for those that have one.
        identity: of the data, for the classifier.
        shape: (C, H, W) of the images.
        download: whether Inception's weights may be fetched.
    Raises:
        ConfigError: unknown, or weights for an extractor that takes none.
        MissingError: its weights, or the package that it needs, are not on this machine.
        CheckpointError: its weights are damaged or do not fit.
    """
    check_name(name)
    if weights_path is not None and name in (PIXELS, CLASSIFIER):
        raise ConfigError(f"--features {name} takes no --weights-path", hint="leave it out, or name other features")
    if name == PIXELS:
        return Extractor(PIXELS, None, "none", pixels)
    if name == CLASSIFIER:
        return _fitted(identity, shape, device)
    if name == INCEPTION:
        return _inception(weights_path, device, download)
    return _torchvision(name.removeprefix(TORCHVISION), weights_path, device)


def pixels(images: Tensor) -> Tensor:
    """uint8 (N, C, H, W) → (N, C·H·W) in [0, 1]."""
    return images.flatten(1).float() / 255


def has_torch_fidelity() -> bool:
    """Whether the extra `fid` is installed; it is not imported."""
    from importlib.util import find_spec

    return find_spec("torch_fidelity") is not None


def _fitted(identity: str, shape: tuple[int, ...], device: torch.device) -> Extractor:
    path = classifier.find(identity, shape)
    if path is None:
        raise MissingError(
            f"no classifier is fitted to {identity!r} at {shape[1]}×{shape[2]} pixels, {shape[0]} channels",
            hint="vpfb eval --fit-features --data NAME -m MODEL fits one, in about a minute",
        )
    found = classifier.load(path, device)
    side = classifier.LARGEST_SIDE
    resize = f"averaged to {side}×{side}" if shape[1] > side else "none"
    return Extractor(CLASSIFIER, found.weights, resize, found.network.features)


def _inception(path: Path | None, device: torch.device, download: bool) -> Extractor:
    if not has_torch_fidelity():
        raise MissingError("FID, KID and Inception's features need torch-fidelity", hint='pip install "vpfb[fid]"')
    from torch_fidelity.utils import create_feature_extractor

    from vpfb_core.uses.evaluation import inception

    path = weights.find_inception(path, download=download)
    with torch.random.fork_rng(devices=[]):
        network = create_feature_extractor(
            inception.NAME, [inception.LAYER], cuda=False, feature_extractor_weights_path=path, verbose=False
        )
    network.to(device)
    return Extractor(
        INCEPTION,
        network.weights.digest,
        "bilinear to 299×299 as in TensorFlow 1",
        _in_small_batches(lambda images: network(_colour(images))[0]),
    )


def _torchvision(architecture: str, path: Path | None, device: torch.device) -> Extractor:
    from torchvision import models

    name = f"{TORCHVISION}{architecture}"
    known = models.list_models(module=models)
    if architecture not in known:
        near = difflib.get_close_matches(architecture, known, n=1)
        raise ConfigError(
            f"torchvision has no classifier {architecture!r}",
            hint=f"did you mean {TORCHVISION}{near[0]}?" if near else f"for example {TORCHVISION}resnet18",
        )
    if path is None:
        raise MissingError(f"--features {name} needs its weights", hint="--weights-path FILE, a state dict of it")
    with torch.random.fork_rng(devices=[]):
        network = models.get_model(architecture, weights=None)
    linear = [layer for layer, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ConfigError(f"{architecture} has no last linear layer, so no features below it", hint="try resnet18")
    network.set_submodule(linear[-1], nn.Identity())  # what it saw is then what comes out; its classes do not matter
    found = weights.read(path)
    found.without(linear[-1]).load_into(network, architecture)
    network.to(device).eval().requires_grad_(False)
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (_IMAGENET_MEAN, _IMAGENET_STD))

    def compute(images: Tensor) -> Tensor:
        size = (TORCHVISION_SIZE, TORCHVISION_SIZE)
        x = nn.functional.interpolate(_colour(images).float() / 255, size, mode="bilinear", antialias=True)
        return network((x - mean) / std)

    resize = f"bilinear, antialiased, to {TORCHVISION_SIZE}×{TORCHVISION_SIZE}"
    return Extractor(name, found.digest, resize, _in_small_batches(compute))


def _in_small_batches(compute: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda images: torch.cat([compute(batch) for batch in images.split(ENLARGED_BATCH)])


def _colour(images: Tensor) -> Tensor:
    """Images (N, C, H, W) with three channels: grey in each."""
    return images.expand(-1, 3, -1, -1)
