"""Files of network weights that come from elsewhere: read without running anything in them, checked, and hashed."""

from __future__ import annotations

import hashlib
import io
import urllib.request
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from vpfb_core.data.download import TIMEOUT
from vpfb_core.errors import CheckpointError, MissingError, VPFBError
from vpfb_core.machine.files import replacing

# The weights that FID is defined with, converted from TensorFlow: what their SHA-256 begins with, the names that
# libraries keep them under (pytorch-fid's, torch-fidelity's), and where torch-fidelity has them from.
INCEPTION_HASH = "6726825d"
INCEPTION_FILES = tuple(f"{kind}-2015-12-05-{INCEPTION_HASH}.pth" for kind in ("pt_inception", "weights-inception"))
INCEPTION_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION_FILES[1]}"
INSTEAD = "or compare other features: --features pixels, and ask for frechet and kernel"


@dataclass(frozen=True)
class Weights:
    """What a file holds.

    Attributes:
        path: of the file.
        tensors: by name.
        digest: SHA-256 of the file, hexadecimal.
    """

    path: Path
    tensors: dict[str, Tensor]
    digest: str

    def load_into(self, network: nn.Module, name: str) -> None:
        """Give the network these weights; every tensor of it must be there, with its shape, and no other.

        Args:
            name: of the architecture, for the error.
        Raises:
            CheckpointError: they are of another architecture.
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
                hint="it holds the weights of another architecture",
            )
        network.load_state_dict(self.tensors, strict=False)

    def without(self, prefix: str) -> Weights:
        """All but the tensors of the layer of that name."""
        kept = {name: tensor for name, tensor in self.tensors.items() if not name.startswith(f"{prefix}.")}
        return Weights(self.path, kept, self.digest)


def read(path: Path) -> Weights:
    """A state dict from a .pth or .safetensors file. Nothing in it is executed.

    Raises:
        MissingError: no such file.
        CheckpointError: it cannot be read, is damaged, or holds something else.
    """
    try:
        if path.exists() and not path.is_file():
            raise CheckpointError(f"cannot read {path}: it is not a file")
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise MissingError(f"no file of weights at {path}", hint="name one with --weights-path") from error
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load

            tensors = load(content)
        else:
            tensors = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # of unpickling damaged or foreign bytes: nearly anything
        raise CheckpointError(
            f"{path} is damaged, or no file of weights", hint="a state dict is expected, as .pth or .safetensors"
        ) from error
    named = isinstance(tensors, dict) and all(isinstance(tensor, Tensor) for tensor in tensors.values())
    if not named or not all(isinstance(name, str) for name in tensors):
        raise CheckpointError(f"{path} holds something else than named tensors", hint="a state dict is expected")
    return Weights(path, dict(tensors), hashlib.sha256(content).hexdigest())


def is_standard(digest: str | None) -> bool:
    """Whether a file's SHA-256 is that of the weights that FID is defined with."""
    return digest is not None and digest.startswith(INCEPTION_HASH)


def inception_cached() -> Path | None:
    """The FID weights in torch hub's cache, under any library's name for them, if they are there."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    return next((folder / name for name in INCEPTION_FILES if (folder / name).is_file()), None)


def find_inception(path: Path | None, *, download: bool) -> Path:
    """Where the FID weights are: the file named, else torch hub's cache, else downloaded into that.

    Raises:
        MissingError: they are nowhere; it says what to put where.
    """
    cache = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILES[0]
    return path or inception_cached() or _download(cache, download)


def read_inception(path: Path) -> Weights:
    """The FID weights from a file. Other weights than those that FID is defined with are warned about.

    Raises:
        CheckpointError: damaged, or not a file of weights.
    """
    weights = read(path)
    if not is_standard(weights.digest):
        found = f"its SHA-256 begins with {weights.digest[:8]}, not with {INCEPTION_HASH}"
        if path.name in INCEPTION_FILES:
            raise CheckpointError(f"{path} is damaged: {found}", hint="delete it, and let it be downloaded again")
        warnings.warn(f"{path} is not the file that FID is defined with ({found})", stacklevel=2)
    return weights


def _download(target: Path, allowed: bool) -> Path:
    by_hand = f"put {target.name} into {target.parent}, or name it with --weights-path; {INSTEAD}"
    if not allowed:
        raise MissingError("the Inception weights of FID are not here, and downloading is off", hint=by_hand)
    warnings.warn(f"downloading the Inception weights of FID, 91 MB, from {INCEPTION_URL}", stacklevel=3)
    digest = hashlib.sha256()
    try:
        with urllib.request.urlopen(INCEPTION_URL, timeout=TIMEOUT) as source, replacing(target) as file:
            while block := source.read(1 << 20):
                digest.update(block)
                file.write(block)
            if not is_standard(digest.hexdigest()):
                raise OSError("what came is not the file that was asked for")
    except (OSError, VPFBError) as error:  # urllib's errors are OSErrors too
        raise MissingError(
            f"the Inception weights of FID are not here and cannot be downloaded: {error}", hint=by_hand
        ) from error
    return target
