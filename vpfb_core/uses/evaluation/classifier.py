"""A small classifier that is trained on the labels of the data, as a feature extractor that needs no download.

It is trained in about a minute on two CPU cores and saved in the user's cache folder.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vpfb_core import data
from vpfb_core.data import InMemory, catalogue, split
from vpfb_core.errors import CheckpointError, DataError, counted
from vpfb_core.machine import container, noise
from vpfb_core.machine.files import cache_folder
from vpfb_core.uses.evaluation.weights import Weights

KIND = "classifier"
FEATURES = 128
LARGEST_SIDE = 32  # larger images are averaged down to this side, so that training always takes about a minute
STEPS, BATCH, RATE = 500, 128, 3e-3
HELD_OUT = 0.1
FEWEST_IMAGES = 20


class Classifier(nn.Module):
    """A network of four convolutions, the mean over positions, and a linear layer for each condition group."""

    def __init__(self, channels: int, size: int, classes: Sequence[int]) -> None:
        super().__init__()
        first = 2 if size > 16 else 1
        widths, strides = (channels, 32, 64, FEATURES, FEATURES), (first, 2, 2, 1)
        blocks: list[nn.Module] = []
        for before, after, stride in zip(widths, widths[1:], strides, strict=False):
            blocks += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.body = nn.Sequential(*blocks)
        self.heads = nn.ModuleList(nn.Linear(FEATURES, count) for count in classes)

    def features(self, images: Tensor) -> Tensor:
        """The inputs of the linear layers, (N, `FEATURES`), for images uint8 (N, C, S, S)."""
        x = images.float() / 127.5 - 1
        if x.shape[-1] > LARGEST_SIDE:
            x = nn.functional.adaptive_avg_pool2d(x, LARGEST_SIDE)
        return self.body(x).mean((2, 3))

    def forward(self, images: Tensor) -> list[Tensor]:
        """The logits of each condition group, for images uint8 (N, C, S, S)."""
        features = self.features(images)
        return [head(features) for head in self.heads]


@dataclass(frozen=True)
class Fitted:
    """A trained classifier.

    Attributes:
        network: the network in evaluation mode.
        path: the path of its file.
        weights: the SHA-256 of the content of the file.
        accuracy: the share of correct labels on its validation images.
        images, held_out: the number of its training and validation images.
        shape: the shape of the images, (C, S, S).
    """

    network: Classifier
    path: Path
    weights: str
    accuracy: float
    images: int
    held_out: int
    shape: tuple[int, ...]


def fit_source(
    source: str,
    *,
    shape: tuple[int, ...] | None = None,
    device: torch.device,
    seed: int = 0,
    on_images: Callable[[InMemory], None] | None = None,
    on_progress: Callable[[float], None] | None = None,
    **options: Any,
) -> Fitted:
    """Train a classifier on a data set, or on its training split if it has one, and save it for `find`.

    Args:
        source: the name of a data set, a folder or a file. A split in the name is left out.
        shape: the shape of the images, such as that of a model; None is that of the data.
        device, seed, on_progress: as in `fit`.
        on_images: called with the images before the training.
        options: root and download, as in `data.load`.
    Raises:
        DataError: the data cannot be read, or `fit` cannot be trained on them.
    """
    name, _ = catalogue.split_off(source)
    channels, size = (None, None) if shape is None else shape[:2]
    images = data.load(name, size=size, channels=channels, conditional=True, split="train", **options)
    if on_images is not None:
        on_images(images)
    return fit(images, catalogue.identity(name), device, seed=seed, on_progress=on_progress)


def fit(
    images: InMemory,
    identity: str,
    device: torch.device,
    *,
    seed: int = 0,
    on_progress: Callable[[float], None] | None = None,
) -> Fitted:
    """Train a classifier on labelled images and save it for `find`.

    Args:
        images: the training split with labels.
        identity: the identity of the data set (`catalogue.identity`).
        device: the device of the training.
        seed: the seed of the weights, of the order of the images, and of the choice of validation images.
        on_progress: called with the share of the steps that is done, in [0, 1].
    Raises:
        DataError: there are fewer than two classes or `FEWEST_IMAGES` images, or the file cannot be written.
    """
    if images.labels is None or max(len(group.classes) for group in images.groups) < 2:
        raise DataError(f"'{images.name}' has no two classes to tell apart", hint="`features=pixels` needs no classes")
    if len(images) < FEWEST_IMAGES:
        raise DataError(
            f"{counted(len(images), 'images')}: too few to fit features to", hint=f"take {FEWEST_IMAGES} or more"
        )
    classes = [len(group.classes) for group in images.groups]
    train, held_out = split(images, HELD_OUT, seed)
    with noise.seeded_global_generator(torch.device("cpu"), noise.derive_seed(seed, "classifier")):
        network = Classifier(images.shape[0], images.shape[1], classes).to(device)
    _train(network, images.subset(train), device, seed, on_progress)
    accuracy = _accuracy(network, images.subset(held_out), device)
    document = {
        "data": identity,
        "shape": images.shape,
        "classes": classes,
        "fingerprint": images.fingerprint(),
        "accuracy": accuracy,
        "images": len(train),
        "held_out": len(held_out),
        "seed": seed,
    }
    path = _folder() / f"{_key(identity, images.shape)}-{images.fingerprint()[:12]}.safetensors"
    container.write(path, KIND, network.state_dict(), document)
    return load(path, device)


def find(identity: str, shape: tuple[int, ...]) -> Path | None:
    """The path of the newest classifier for a data set with images of shape (C, S, S); None if there is none."""
    found = _folder().glob(f"{_key(identity, shape)}-*.safetensors")
    return max(found, key=lambda path: path.stat().st_mtime_ns, default=None)


def load(path: Path, device: torch.device) -> Fitted:
    """Load a classifier from its file.

    Raises:
        CheckpointError: the file is damaged or does not contain a classifier.
    """
    stored = container.read(path, KIND)
    about, digest = stored.document, stored.digest
    try:
        with torch.random.fork_rng(devices=[]):
            network = Classifier(about["shape"][0], about["shape"][1], about["classes"])
        shape = tuple(about["shape"])
        fitted = Fitted(network, path, digest, about["accuracy"], about["images"], about["held_out"], shape)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise CheckpointError(
            f"{path} describes no classifier: {error}", hint="fit it again: `fit_features`"
        ) from error
    Weights(path, stored.tensors, digest).load_into(network, "its own description")
    network.to(device).eval().requires_grad_(False)
    return fitted


def _folder() -> Path:
    return cache_folder() / "features"


def _key(identity: str, shape: tuple[int, ...]) -> str:
    digest = hashlib.sha256(repr((identity, tuple(shape))).encode()).hexdigest()
    return f"classifier-{digest[:16]}"


def _train(
    network: Classifier, images: InMemory, device: torch.device, seed: int, on_progress: Callable[[float], None] | None
) -> None:
    assert images.labels is not None
    optimizer = torch.optim.AdamW(network.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, STEPS)
    epochs = math.ceil(STEPS * BATCH / len(images))
    orders = [
        torch.randperm(len(images), generator=noise.generator(seed, "classifier order", epoch))
        for epoch in range(epochs)
    ]
    network.train()
    for step, rows in enumerate(torch.cat(orders)[: STEPS * BATCH].split(BATCH)):
        logits = network(images.images[rows].to(device))
        labels = images.labels[rows].to(device)
        losses = [
            # The mean over known labels would be 0/0 where a batch has none.
            nn.functional.cross_entropy(logit, label, ignore_index=-1, reduction="sum") / len(rows)
            for logit, label in zip(logits, labels.unbind(1), strict=True)
        ]
        optimizer.zero_grad(set_to_none=True)
        torch.stack(losses).sum().backward()
        optimizer.step()
        schedule.step()
        if on_progress is not None:
            on_progress((step + 1) / STEPS)
    network.eval()


@torch.no_grad()
def _accuracy(network: Classifier, images: InMemory, device: torch.device) -> float:
    """The share of correct labels among the known labels of all groups."""
    assert images.labels is not None
    right, known = 0, 0
    for batch, labels in zip(images.images.split(BATCH), images.labels.split(BATCH), strict=True):
        predicted = torch.stack([logit.argmax(1) for logit in network(batch.to(device))], 1).cpu()
        right += int(((predicted == labels) & (labels >= 0)).sum())
        known += int((labels >= 0).sum())
    return right / max(known, 1)
