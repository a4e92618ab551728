"""The file format: one .safetensors file holds tensors and one JSON document. No pickle, and no knowledge of models.

The metadata keeps the document (`vpfb`) and a SHA-256 over the document and over every tensor's name, dtype, shape and
bytes (`sha256`), since safetensors has no checksum of its own and loads flipped bits silently.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpfb_core.errors import CheckpointError
from vpfb_core.machine.files import write_bytes

if TYPE_CHECKING:
    from torch import Tensor

FORMAT_VERSION = 2
_RESTORE = "restore the file from where it came, or train again"

Entry = tuple[str, str, list[int], Any]  # of a tensor: name, dtype as safetensors names it, shape, bytes


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Attributes:
        tensors: by name.
        document: JSON values.
        digest: the SHA-256 of both, the same wherever and however often they are written.
    """

    tensors: dict[str, Tensor]
    document: dict[str, Any]
    digest: str = field(default="", compare=False)


def write(path: Path, kind: str, tensors: dict[str, Tensor], document: dict[str, Any]) -> None:
    """Write a checkpoint so that `path` holds either the old file or the whole new one.

    Args:
        kind: what the file is for ("model", "state"); `read` asks for the same.
        tensors: on any device; stored contiguous.
        document: JSON values; non-finite floats are refused.
    Raises:
        DataError: the file cannot be written.
    """
    from safetensors.torch import save

    text = json.dumps({"format": FORMAT_VERSION, "kind": kind, **document}, allow_nan=False)
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    digest = _digest(text, [_entry(name, tensor) for name, tensor in stored.items()])
    write_bytes(path, save(stored, metadata={"vpfb": text, "sha256": digest}))


def read(path: Path, kind: str) -> Checkpoint:
    """Read and check a checkpoint. Nothing in the file is executed.

    Raises:
        CheckpointError: missing, foreign, truncated, damaged, of another kind, or written by a newer version.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    content, document, digest = _checked(path, kind)
    try:
        return Checkpoint(load(content), document, digest)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}", hint=_RESTORE) from error


def read_document(path: Path, kind: str) -> dict[str, Any]:
    """The JSON document alone, checked as by `read`, without torch."""
    return _checked(path, kind)[1]


def _checked(path: Path, kind: str) -> tuple[bytes, dict[str, Any], str]:
    """The bytes of a file, its document, and the digest that was found right."""
    from safetensors import SafetensorError, deserialize

    metadata = _metadata(path)
    if "vpfb" not in metadata:
        raise CheckpointError(f"{path} is a safetensors file, but not one that vpfb wrote")
    document = _document(metadata["vpfb"], path)
    try:
        content = path.read_bytes()
        entries = [(name, each["dtype"], each["shape"], each["data"]) for name, each in deserialize(content)]
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}", hint=_RESTORE) from error
    digest = _digest(metadata["vpfb"], entries)
    if digest != metadata.get("sha256"):
        raise CheckpointError(f"{path} is damaged: its checksum does not match its content", hint=_RESTORE)
    if document["kind"] != kind:
        raise CheckpointError(f"{path} holds a {document['kind']}, not a {kind}")
    return content, document, digest


def _metadata(path: Path) -> dict[str, str]:
    """The metadata in the header of a file; only the header is read, however large the file."""
    from safetensors import SafetensorError, safe_open

    try:
        if path.exists() and not path.is_file():
            raise CheckpointError(f"cannot read {path}: it is not a file")
        with safe_open(path, framework="numpy") as file:
            return file.metadata() or {}
    except FileNotFoundError as error:
        raise CheckpointError(f"no such file: {path}") from error
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise CheckpointError(_unreadable(path, str(error)), hint=_RESTORE) from error


def _unreadable(path: Path, reason: str) -> str:
    """What is wrong with a file that safetensors refuses."""
    with path.open("rb") as file:
        beginning = file.read(9)
    if len(beginning) < 9 or beginning[8:] != b"{":
        return f"{path} is not a model file (not in safetensors format)"
    if "InvalidHeaderLength" in reason or "MetadataIncompleteBuffer" in reason:
        return f"{path} is truncated, or damaged: {reason}"
    return f"{path} is damaged: its header cannot be read ({reason})"


def _document(text: str, path: Path) -> dict[str, Any]:
    try:
        document = json.loads(text)
        version = document["format"]
        document["kind"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: its description cannot be read", hint=_RESTORE) from error
    if type(version) is not int or version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} was written by a newer vpfb (format {version}; this one reads {FORMAT_VERSION})",
            hint="pip install --upgrade vpfb",
        )
    found: dict[str, Any] = document
    return found


def _entry(name: str, tensor: Tensor) -> Entry:
    """A contiguous tensor on the CPU as it is stored."""
    import torch

    names = {
        torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
        torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
        torch.bool: "BOOL",
    }  # fmt: skip
    data = tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b""
    return name, names[tensor.dtype], list(tensor.shape), data


def _digest(text: str, entries: Iterable[Entry]) -> str:
    """SHA-256 over the document, then over each tensor in the order of names: name, dtype, shape, bytes."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass"))  # damage can leave half a character
    for name, dtype, shape, data in sorted(entries, key=lambda entry: entry[0]):
        digest.update(json.dumps([name, dtype, list(shape)]).encode())
        digest.update(data)
    return digest.hexdigest()


def finite_or_none(value: float) -> float | None:
    """JSON has no NaN: a figure that is not finite is kept as null."""
    return value if math.isfinite(value) else None
