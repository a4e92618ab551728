"""The file format: one .safetensors file holds tensors and one JSON document. No pickle, and no knowledge of models.

The metadata keeps the document (`vpfb`) and a SHA-256 over the document and over every tensor's name, dtype, shape and
bytes (`sha256`), since safetensors has no checksum of its own and loads flipped bits silently.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpfb_core.errors import CheckpointError
from vpfb_core.machine.files import write_bytes

if TYPE_CHECKING:
    from torch import Tensor

FORMAT_VERSION = 2
# What safetensors itself allows for a header.
_LARGEST_HEADER = 100_000_000
_BEGINNING = 9  # bytes: the length of the header and its first character


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Attributes:
        digest: the SHA-256 of both, the same wherever and however often they are written.
    """

    tensors: dict[str, Tensor]
    document: dict[str, Any]
    digest: str = field(default="", compare=False)


def write(path: Path, kind: str, tensors: dict[str, Tensor], document: dict[str, Any]) -> None:
    """Write a checkpoint so that `path` holds either the old file or the whole new one.

    Args:
        kind: what the file is for ("model", "state"); `read` asks for the same.
        tensors: any device; stored contiguous.
        document: JSON values; non-finite floats are refused.
    Raises:
        DataError: the file cannot be written.
    """
    from safetensors.torch import save

    text = json.dumps({"format": FORMAT_VERSION, "kind": kind, **document}, allow_nan=False)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # The digest reads the layout that safetensors chooses, so the file is laid out once without it.
    header, data = _split(save(tensors), path)
    digest = _digest(text, header, data)
    write_bytes(path, save(tensors, metadata={"vpfb": text, "sha256": digest}))


def read(path: Path, kind: str) -> Checkpoint:
    """Read and check a checkpoint. Nothing in the file is executed.

    Raises:
        CheckpointError: missing, foreign, truncated, damaged, of another kind, or written by a newer version.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    content = _content(path)
    document, digest = _checked_document(content, path, kind)
    try:
        return Checkpoint(load(content), document, digest)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}", hint=_RESTORE) from error


def read_document(path: Path, kind: str) -> dict[str, Any]:
    """The JSON document alone, checked as by `read`, without torch."""
    return _checked_document(_content(path), path, kind)[0]


_RESTORE = "restore the file from where it came, or train again"


def _content(path: Path) -> bytes:
    """The bytes of a file that begins as the format does: others are refused by their first few, however large."""
    try:
        if path.exists() and not path.is_file():
            raise CheckpointError(f"cannot read {path}: it is not a file")
        with path.open("rb") as file:
            beginning = file.read(_BEGINNING)
            _header_size(beginning, path)
            return beginning + file.read()
    except FileNotFoundError as error:
        raise CheckpointError(f"no such file: {path}") from error
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error


def _checked_document(content: bytes, path: Path, kind: str) -> tuple[dict[str, Any], str]:
    """The document, and the digest that was found right."""
    header, data = _split(content, path)
    metadata = header.get("__metadata__")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("vpfb"), str):
        raise CheckpointError(f"{path} is a safetensors file, but not one that vpfb wrote")
    text = metadata["vpfb"]
    try:
        document = json.loads(text)
        version, found_kind = document["format"], document["kind"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: its description cannot be read", hint=_RESTORE) from error
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} was written by a newer vpfb (format {version}; this one reads {FORMAT_VERSION})",
            hint="pip install --upgrade vpfb",
        )
    digest = _digest(text, header, data)
    if digest != metadata.get("sha256"):
        raise CheckpointError(f"{path} is damaged: its checksum does not match its content", hint=_RESTORE)
    if found_kind != kind:
        raise CheckpointError(f"{path} holds a {found_kind}, not a {kind}")
    return document, digest


def _split(content: bytes, path: Path) -> tuple[dict[str, Any], memoryview]:
    """(header, tensor bytes) of a safetensors file: 8 bytes of length, a JSON header, the data."""
    size = _header_size(content, path)
    if len(content) < 8 + size:
        raise CheckpointError(f"{path} is truncated: it ends inside its header", hint=_RESTORE)
    try:
        header = json.loads(content[8 : 8 + size])
        entries = [entry for name, entry in header.items() if name != "__metadata__"]
        expected = max((entry["data_offsets"][1] for entry in entries), default=0)
        well_formed = all(_is_entry(entry) for entry in entries)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: its header cannot be read", hint=_RESTORE) from error
    data = memoryview(content)[8 + size :]
    if not well_formed:
        raise CheckpointError(f"{path} is damaged: its header does not describe tensors", hint=_RESTORE)
    if len(data) < expected:
        raise CheckpointError(f"{path} is truncated: {len(data)} of {expected} bytes of tensors", hint=_RESTORE)
    return header, data


def _header_size(content: bytes, path: Path) -> int:
    size = int.from_bytes(content[:8], "little")
    if len(content) < _BEGINNING or not 2 <= size <= _LARGEST_HEADER or content[8:_BEGINNING] != b"{":
        raise CheckpointError(f"{path} is not a model file (not in safetensors format)")
    return size


def _is_entry(entry: dict[str, Any]) -> bool:
    start, end = entry["data_offsets"]
    sizes = [start, end, *entry["shape"]]
    return isinstance(entry["dtype"], str) and all(type(size) is int and size >= 0 for size in sizes) and start <= end


def _digest(text: str, header: dict[str, Any], data: memoryview) -> str:
    """SHA-256 over the document, then over each tensor in the order of names: name, dtype, shape, bytes."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass"))  # damage can leave half a character
    for name in sorted(header):
        if name != "__metadata__":
            entry = header[name]
            digest.update(json.dumps([name, entry["dtype"], entry["shape"]]).encode())
            digest.update(data[slice(*entry["data_offsets"])])
    return digest.hexdigest()


def finite_or_none(value: float) -> float | None:
    """JSON has no NaN: a figure that is not finite is kept as null."""
    return value if math.isfinite(value) else None
