"""Feature extractors for the comparison of images, with the hashes of their weights and their rules of resizing.

Only the features of `inception` give a FID. The others need no download: `pixels` are the images themselves;
`torchvision:ARCH` is the second-to-last layer of a torchvision classifier with weights from a file, and `PATH.pt2` a
network that torch.export has saved; `classifier` is a network that is trained on the labels of the data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from vpfb_core.errors import CheckpointError, ConfigError, FeatureError, MissingError, did_you_mean
from vpfb_core.machine.devices import placed
from vpfb_core.machine.packages import require_torchvision
from vpfb_core.uses.evaluation import classifier, exported, weights

INCEPTION, PIXELS, CLASSIFIER, TORCHVISION = "inception", "pixels", "classifier", "torchvision:"
EXPORTED = ".pt2"  # the ending of a network that torch.export has saved
COLUMNS = "columns"  # the only features of a table: its standardised columns
NAMES = (PIXELS, CLASSIFIER, f"{TORCHVISION}ARCH", f"PATH{EXPORTED}", INCEPTION)
TORCHVISION_SIZE = 224
ENLARGED_BATCH = 64  # the batch size of networks that enlarge images, which take much memory
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Extractor:
    """A feature extractor, which maps images to points with meaningful distances.

    Attributes:
        name: its name.
        weights: the SHA-256 of the file of its weights; None if it has none.
        resize: a description of how it resizes images.
        compute: maps images, uint8 (N, C, H, W) on its device, to features, float32 (N, F).
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
            device: the device of the extractor.
            batch_size: the number of images that are computed at once.
            on_batch: called with the number of images of each batch.
        Raises:
            FeatureError: a feature is not finite.
        """
        parts = []
        with torch.no_grad():
            for batch in images.split(batch_size):
                parts.append(self.compute(placed(batch, device)).float())
                if on_batch is not None:
                    on_batch(len(batch))
        features = torch.cat(parts)
        if len(lost := (~features.isfinite().flatten(1).all(1)).nonzero()):
            raise FeatureError(self.name, int(lost[0]))
        return features


def check_name(name: str) -> None:
    """Raise ConfigError unless there is an extractor of that name; the hint suggests the nearest one."""
    known = (PIXELS, CLASSIFIER, INCEPTION)
    if name in known or is_own(name):
        return
    raise ConfigError(f"unknown features {name!r}", hint=f"{did_you_mean(name, known)}features: {', '.join(NAMES)}")


def is_own(name: str) -> bool:
    """Whether a name is that of a network of one's own: torchvision:ARCH or PATH.pt2."""
    return (name.startswith(TORCHVISION) and name != TORCHVISION) or name.endswith(EXPORTED)


def choose(weights_path: Path | None, identity: str, shape: tuple[int, ...], *, fid_meant: bool) -> str:
    """The name of the default extractor.

    It is Inception if FID or a file of weights is requested, or if both the Inception weights and torch-fidelity are
    installed. Otherwise it is the classifier if there is one for the data, else pixels.
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
        name: the name of the extractor.
        weights_path: the file of its weights, for extractors that have one.
        identity: the identity of the data, for the classifier.
        shape: the shape of the images, (C, H, W).
        device: the device of the extractor.
        download: whether the Inception weights may be downloaded.
    Raises:
        ConfigError: there is no such extractor, or it takes no weights.
        MissingError: its weights or a package are not installed, or torchvision cannot be imported.
        CheckpointError: its weights are damaged or do not fit.
    """
    check_name(name)
    if weights_path is not None and (name in (PIXELS, CLASSIFIER) or name.endswith(EXPORTED)):
        raise ConfigError(f"`features={name}` takes no `weights_path`", hint="leave it out, or use other features")
    if name == PIXELS:
        return Extractor(PIXELS, None, "none", pixels)
    if name == CLASSIFIER:
        return _fitted(identity, shape, device)
    if name == INCEPTION:
        return _inception(weights_path, device, download)
    if name.endswith(EXPORTED):
        return _exported(name, device)
    return _torchvision(name.removeprefix(TORCHVISION), weights_path, device)


def pixels(images: Tensor) -> Tensor:
    """The pixels of images uint8 (N, C, H, W) as features in [0, 1], (N, C·H·W)."""
    return images.flatten(1).float() / 255


def has_torch_fidelity() -> bool:
    """Whether the extra `fid` is installed. It is not imported."""
    return find_spec("torch_fidelity") is not None


def _fitted(identity: str, shape: tuple[int, ...], device: torch.device) -> Extractor:
    path = classifier.find(identity, shape)
    if path is None:
        raise MissingError(
            f"no classifier is fitted to {identity!r} at {shape[1]}x{shape[2]} pixels, {shape[0]} channels",
            hint="vpfb eval --fit-features --data NAME -m MODEL fits one in about a minute",
        )
    found = classifier.load(path, device)
    side = classifier.LARGEST_SIDE
    resize = f"averaged to {side}×{side}" if shape[1] > side else "none"
    return Extractor(CLASSIFIER, found.weights, resize, found.network.features)


def _inception(path: Path | None, device: torch.device, download: bool) -> Extractor:
    if not has_torch_fidelity():
        raise MissingError("FID, KID and Inception's features need torch-fidelity", hint='pip install "vpfb[fid]"')
    require_torchvision()  # torch-fidelity imports it
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
    require_torchvision()
    from torchvision import models

    name = f"{TORCHVISION}{architecture}"
    known = models.list_models(module=models)
    if architecture not in known:
        near = did_you_mean(name, (f"{TORCHVISION}{each}" for each in known))
        raise ConfigError(
            f"torchvision has no classifier {architecture!r}", hint=near.strip() or f"for example {TORCHVISION}resnet18"
        )
    path = path or weights.torchvision_cached(architecture)
    if path is None:
        raise MissingError(
            f"`features={name}` needs its weights",
            hint=f"put {weights.torchvision_file(architecture)} into {weights.hub_folder()}, or name a state dict with "
            "`weights_path`",
        )
    with torch.random.fork_rng(devices=[]):
        network = models.get_model(architecture, weights=None)
    linear = [layer for layer, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ConfigError(f"{architecture} has no linear layer whose input could be used", hint="try resnet18")
    network.set_submodule(linear[-1], nn.Identity())  # the output is now the input of the last layer
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


def _exported(name: str, device: torch.device) -> Extractor:
    """A network from a file, which gets images in [0, 1] and normalises them itself."""
    found = exported.read(Path(name))
    network = found.network.to(device)
    channels, *sides = found.shape

    def compute(images: Tensor) -> Tensor:
        x = images.float() / 255
        if channels is not None and channels != x.shape[1]:
            x = x.expand(-1, channels, -1, -1) if x.shape[1] == 1 else x.mean(1, keepdim=True)
        size = [side or given for side, given in zip(sides, x.shape[2:], strict=True)]
        if size != list(x.shape[2:]):
            x = nn.functional.interpolate(x, size, mode="bilinear", antialias=True)
        return _in_batches_of(found.count, network, x, name)

    fixed = "×".join(str(side) for side in sides if side is not None)
    return Extractor(
        name, found.digest, f"bilinear, antialiased, to {fixed}" if fixed else "none", _in_small_batches(compute)
    )


def _in_batches_of(count: int | None, network: nn.Module, x: Tensor, name: str) -> Tensor:
    """The features of images, (N, F), from a network that takes a fixed number of them at once, or any (None)."""
    rows = torch.arange(len(x)) if count is None else torch.arange(-(-len(x) // count) * count) % len(x)
    try:
        parts = [network(x[some]) for some in rows.split(count or len(x))]
        return torch.cat([part.reshape(len(part), -1) for part in parts])[: len(x)]
    except Exception as error:  # whatever a network does with images of this size
        reason = str(error).split("\n")[0][:80]
        raise CheckpointError(
            f"{name} gives no features of images of {x.shape[1]}x{x.shape[2]}x{x.shape[3]}: {reason}",
            hint="it has to map a batch of images (N, C, H, W) to a tensor (N, F)",
        ) from error


def _in_small_batches(compute: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda images: torch.cat([compute(batch) for batch in images.split(ENLARGED_BATCH)])


def _colour(images: Tensor) -> Tensor:
    """Images (N, 3, H, W) from images in colour or in grey."""
    return images.expand(-1, 3, -1, -1)
