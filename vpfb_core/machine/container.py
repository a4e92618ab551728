"""The container format: a .safetensors file with tensors and one JSON document. It contains no pickle.

The metadata of the file has two entries: `vpfb` is the document, and `sha256` is a SHA-256 over the document and over
the name, dtype, shape and bytes of every tensor. safetensors has no checksum and would load flipped bits silently.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpfb_core.errors import CheckpointError
from vpfb_core.machine.files import write_bytes

if TYPE_CHECKING:
    from torch import Tensor

FORMAT_VERSION = 2
LARGEST = 1e300  # the limit of numbers in a document, which excludes NaN, infinity and integers that no float can hold
_RESTORE = "restore the file from a copy, or train again"

Entry = tuple[str, str, list[int], Any]  # a tensor: its name, its dtype as safetensors spells it, its shape, its bytes


@dataclass(frozen=True)
class Checkpoint:
    """The content of a file.

    Attributes:
        tensors: the tensors by name.
        document: JSON values by name.
        digest: the SHA-256 of both. It does not depend on where or when they were written.
    """

    tensors: dict[str, Tensor]
    document: dict[str, Any]
    digest: str = field(default="", compare=False)


def write(path: Path, kind: str, tensors: dict[str, Tensor], document: dict[str, Any]) -> None:
    """Write a checkpoint. If writing fails, the file that was at `path` before stays as it was.

    Args:
        kind: the purpose of the file, "model" or "state"; `read` checks it.
        tensors: tensors on any device; they are stored as contiguous.
        document: JSON values by name, without "format" and "kind".
    Raises:
        DataError: the file cannot be written.
        ValueError: a float in the document is not finite.
    """
    from safetensors.torch import save

    text = json.dumps({"format": FORMAT_VERSION, "kind": kind, **document}, allow_nan=False)
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    digest = _digest(text, [_entry(name, tensor) for name, tensor in stored.items()])
    write_bytes(path, save(stored, metadata={"vpfb": text, "sha256": digest}))


def read(path: Path, kind: str) -> Checkpoint:
    """Read a checkpoint and verify its checksum. Nothing in the file is executed.

    Args:
        kind: the purpose that the file must have, "model" or "state".
    Raises:
        CheckpointError: the file is missing, truncated, damaged or of another kind, or another program or a newer
            version of vpfb wrote it.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    content, document, digest = _checked(path, kind)
    try:
        return Checkpoint(load(content), document, digest)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}", hint=_RESTORE) from error


def read_header(path: Path, kind: str) -> dict[str, Any]:
    """The JSON document of a file, from its header alone: the tensors are not read, so their checksum is not verified.

    torch is not imported. Errors are those of `read`, except that damaged tensors are not noticed.
    """
    return _described(path, kind)[1]


def read_names(path: Path) -> frozenset[str]:
    """The names of the tensors of a file, from its header alone. Errors are those of `read_header`."""
    with _header(path) as file:
        return frozenset(file.keys())


def read_document(path: Path, kind: str) -> dict[str, Any]:
    """The JSON document of a file, checked as by `read`. torch is not imported."""
    return _checked(path, kind)[1]


def _checked(path: Path, kind: str) -> tuple[bytes, dict[str, Any], str]:
    """The bytes of a file, its document, and its verified digest."""
    from safetensors import SafetensorError, deserialize

    metadata, document = _described(path, kind)
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
    return content, document, digest


def _described(path: Path, kind: str) -> tuple[dict[str, str], dict[str, Any]]:
    """The metadata of a file of this kind, and the document in them."""
    metadata = _metadata(path)
    if "vpfb" not in metadata:
        raise CheckpointError(f"{path} is a safetensors file, but not one that vpfb wrote")
    document = _document(metadata["vpfb"], path)
    if document["kind"] != kind:
        raise CheckpointError(f"{path} holds a {document['kind']}, not a {kind}")
    return metadata, document


def _metadata(path: Path) -> dict[str, str]:
    """The metadata in the header of a file."""
    with _header(path) as file:
        return file.metadata() or {}


@contextlib.contextmanager
def _header(path: Path) -> Iterator[Any]:
    """A file of which only the header is read, so that another large file is refused at once."""
    from safetensors import SafetensorError, safe_open

    try:
        if path.exists() and not path.is_file():
            raise CheckpointError(f"cannot read {path}: it is not a file")
        _require_beginning(path)  # safetensors maps the whole file into memory, which not every size allows
        with safe_open(path, framework="numpy") as file:
            yield file
    except FileNotFoundError as error:
        raise CheckpointError(f"no such file: {path}") from error
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise CheckpointError(_unreadable(path, str(error)), hint=_RESTORE) from error


def _require_beginning(path: Path) -> None:
    """Refuse a file whose first bytes are not those of the format: the length of the header, and a brace."""
    with path.open("rb") as file:
        beginning = file.read(9)
    if len(beginning) < 9 or beginning[8:] != b"{":
        raise CheckpointError(f"{path} is not a model file (not in safetensors format)")


# What safetensors says of a file that ends too early: its older versions name the error, newer ones describe it.
_TRUNCATED = ("InvalidHeaderLength", "MetadataIncompleteBuffer", "invalid header length", "incomplete metadata")


def _unreadable(path: Path, reason: str) -> str:
    """The message for a file that safetensors cannot read."""
    if any(each in reason for each in _TRUNCATED):
        return f"{path} is truncated, or damaged: {reason}"
    return f"{path} is damaged: its header cannot be read ({reason})"


def _document(text: str, path: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(text)
        version = document["format"]
        document["kind"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: its description cannot be read", hint=_RESTORE) from error
    if type(version) is not int or version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} was written by a newer vpfb (format {version}; this one reads {FORMAT_VERSION})",
            hint="pip install --upgrade vpfb",
        )
    return document


def _entry(name: str, tensor: Tensor) -> Entry:
    """The entry of a contiguous tensor on the CPU, as safetensors stores it."""
    import torch

    names = {
        torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
        torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
        torch.bool: "BOOL",
    }  # fmt: skip
    data = tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b""
    return name, names[tensor.dtype], list(tensor.shape), data


def _digest(text: str, entries: Iterable[Entry]) -> str:
    """The SHA-256 of the document followed by each tensor's name, dtype, shape and bytes, sorted by name."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass"))  # a damaged document may contain half a character
    for name, dtype, shape, data in sorted(entries, key=lambda entry: entry[0]):
        digest.update(json.dumps([name, dtype, list(shape)]).encode())
        digest.update(data)
    return digest.hexdigest()


def finite_number(value: object) -> float:
    """A number of a document as a float.

    Raises:
        ValueError: the value is not a number, or it is not below `LARGEST`, as NaN and infinity are not.
    """
    if type(value) not in (int, float) or not abs(value) < LARGEST:  # type: ignore[arg-type]
        raise ValueError("its figures are not finite numbers")
    return float(value)  # type: ignore[arg-type]


def finite_or_none(value: float) -> float | None:
    """The value, or None if it is not finite, since JSON has no NaN and no infinity."""
    return value if math.isfinite(value) else None
