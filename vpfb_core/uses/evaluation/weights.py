"""Files of network weights from other sources, which are read without executing anything, checked and hashed."""

from __future__ import annotations

import hashlib
import io
import os
import urllib.request
import warnings
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import torch
from torch import Tensor, nn

from vpfb_core.data.download import TIMEOUT, Notes
from vpfb_core.errors import CheckpointError, MissingError, VPFBError
from vpfb_core.machine.file_names import home
from vpfb_core.machine.files import cache_folder, replacing

# The weights in the definition of FID, converted from TensorFlow: the beginning of their SHA-256, their file names in
# pytorch-fid and torch-fidelity, and the address from which torch-fidelity downloads them.
INCEPTION_HASH = "6726825d"
INCEPTION_FILES = tuple(f"{kind}-2015-12-05-{INCEPTION_HASH}.pth" for kind in ("pt_inception", "weights-inception"))
INCEPTION_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION_FILES[1]}"
INSTEAD = "or use other features: `features=pixels` with the metrics frechet and kernel"


@dataclass(frozen=True)
class Weights:
    """The weights in a file.

    Attributes:
        path: the path of the file.
        tensors: the tensors by name.
        digest: the SHA-256 of the file, in hexadecimal.
    """

    path: Path
    tensors: dict[str, Tensor]
    digest: str

    def load_into(self, network: nn.Module, name: str) -> None:
        """Load these weights into a network, whose tensors must have exactly these names and shapes.

        Args:
            network: the network.
            name: the name of the architecture, for messages.
        Raises:
            CheckpointError: the weights belong to another architecture.
        """
        expected = network.state_dict()
        counters = {key for key in expected if key.endswith("num_batches_tracked")}  # which old files lack
        wrong = sorted((expected.keys() ^ self.tensors.keys()) - counters)
        wrong += [
            key for key in expected.keys() & self.tensors.keys() if expected[key].shape != self.tensors[key].shape
        ]
        if wrong:
            others = f" and {len(wrong) - 1:,} others" if len(wrong) > 1 else ""
            raise CheckpointError(
                f"{self.path} does not fit {name}: {wrong[0]!r}{others} missing, unknown or of another shape",
                hint="it contains the weights of another architecture",
            )
        network.load_state_dict(self.tensors, strict=False)

    def without(self, prefix: str) -> Weights:
        """The weights without the tensors of the layer of that name."""
        kept = {name: tensor for name, tensor in self.tensors.items() if not name.startswith(f"{prefix}.")}
        return Weights(self.path, kept, self.digest)


def read(path: Path) -> Weights:
    """Read a state dict from a .pth or .safetensors file. Nothing in it is executed.

    Raises:
        MissingError: there is no such file.
        CheckpointError: the file cannot be read, is damaged, or contains something else.
    """
    try:
        if path.exists() and not path.is_file():
            raise CheckpointError(f"cannot read {path}: it is not a file")
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise MissingError(f"no file of weights at {path}", hint="name one with `weights_path`") from error
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load

            tensors = load(content)
        else:
            tensors = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling damaged or other data can raise nearly any exception
        raise CheckpointError(
            f"{path} is damaged, or no file of weights", hint="a state dict is expected, as .pth or .safetensors"
        ) from error
    named = isinstance(tensors, dict) and all(isinstance(tensor, Tensor) for tensor in tensors.values())
    if not named or not all(isinstance(name, str) for name in tensors):
        raise CheckpointError(f"{path} does not contain named tensors", hint="a state dict is expected")
    return Weights(path, dict(tensors), hashlib.sha256(content).hexdigest())


def is_standard(digest: str | None) -> bool:
    """Whether a SHA-256 is that of the weights in the definition of FID."""
    return digest is not None and digest.startswith(INCEPTION_HASH)


def inception_cached() -> Path | None:
    """The path of the FID weights in the cache of torch hub, under any of their names; None if they are missing."""
    folder = hub_folder()
    return next((folder / name for name in INCEPTION_FILES if (folder / name).is_file()), None)


def find_inception(path: Path | None, *, download: bool) -> Path:
    """The path of the FID weights: the given file, else the one in torch hub's cache, which may be downloaded.

    Raises:
        MissingError: there are no such weights; the hint says where to put them.
    """
    cache = hub_folder() / INCEPTION_FILES[0]
    return path or inception_cached() or _download(cache, download)


def hub_folder() -> Path:
    """The folder in which torch hub keeps weights; for a user without a home folder, one in our cache."""
    if home() is None and not any(os.environ.get(name) for name in ("TORCH_HOME", "XDG_CACHE_HOME")):
        return cache_folder() / "weights"
    return Path(torch.hub.get_dir()) / "checkpoints"


def torchvision_file(architecture: str) -> str:
    """The name of the file in which torchvision keeps its default weights of an architecture."""
    return _torchvision_files(architecture)[0]


def torchvision_cached(architecture: str) -> Path | None:
    """The weights of a torchvision architecture in the cache of torch hub, the default ones first; None if missing.

    Raises:
        CheckpointError: the file is damaged: its name has the beginning of another SHA-256.
    """
    found = next(
        (hub_folder() / name for name in _torchvision_files(architecture) if (hub_folder() / name).is_file()), None
    )
    if found is None:
        return None
    expected, digest = found.stem.rpartition("-")[2], hashlib.sha256(found.read_bytes()).hexdigest()
    if not digest.startswith(expected):
        raise CheckpointError(
            f"{found} is damaged: its SHA-256 begins with {digest[:8]}", hint="delete it, and download it again"
        )
    return found


def _torchvision_files(architecture: str) -> list[str]:
    from torchvision.models import get_model_weights

    known = get_model_weights(architecture)
    ordered = [known.DEFAULT, *(each for each in known if each != known.DEFAULT)]
    return [each.url.rpartition("/")[2] for each in ordered]


def read_inception(path: Path) -> Weights:
    """Read the FID weights from a file, with a warning if they are not those in the definition of FID.

    Raises:
        CheckpointError: the file is damaged, or it is not a file of weights.
    """
    weights = read(path)
    if not is_standard(weights.digest):
        found = f"its SHA-256 begins with {weights.digest[:8]}, not with {INCEPTION_HASH}"
        if path.name in INCEPTION_FILES:
            raise CheckpointError(f"{path} is damaged: {found}", hint="delete it, and let it be downloaded again")
        warnings.warn(f"{path} is not the file that FID is defined with ({found})", stacklevel=2)
    return weights


def _download(target: Path, allowed: bool) -> Path:
    by_hand = f"put {target.name} into {target.parent}, or name it with `weights_path`; {INSTEAD}"
    if not allowed:
        raise MissingError("the Inception weights of FID are not here, and downloading is off", hint=by_hand)
    warnings.warn(f"downloading the Inception weights of FID, 91 MB, from {INCEPTION_URL}", stacklevel=3)
    digest, notes, size = hashlib.sha256(), Notes("the Inception weights"), 0
    try:
        with urllib.request.urlopen(INCEPTION_URL, timeout=TIMEOUT) as source, replacing(target) as file:
            while block := source.read(1 << 20):
                digest.update(block)
                file.write(block)
                size += len(block)
                notes.update(size)
            if not is_standard(digest.hexdigest()):
                raise OSError("the downloaded file is not that of the standard weights")
    except (OSError, HTTPException, VPFBError) as error:  # urllib's errors are OSErrors too
        raise MissingError(
            f"the Inception weights of FID are not here and cannot be downloaded: {error}", hint=by_hand
        ) from error
    return target
