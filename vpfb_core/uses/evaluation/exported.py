"""Networks that torch.export has saved (.pt2), read without executing anything that a file could bring along.

torch.export.load is meant for files that one trusts: it unpickles parts of a file, evaluates expressions that are text,
and generates code with names from the file. Here a file is checked first. Tensors must be stored as plain numbers,
operations must be those of torch on tensors, and names and expressions may contain nothing that could be code. What
is only for debugging is left out.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vpfb_core.errors import CheckpointError, MissingError

_PARTS = (  # of the files that are needed
    r"archive_format|archive_version|byteorder|\.data/\w+|models/\w+\.json|"
    r"data/(weights|constants)/(\w+_config\.json|weight_\d+|tensor_\d+)|data/sample_inputs/\w+\.pt"
)
_OPERATIONS = (
    r"torch\.ops\.aten\.(?!from_file\b)\w+\.\w+|_operator\.(getitem|add|sub|mul|floordiv|mod|neg|eq|ne|lt|le|gt|ge)"
)
_SYMBOL = r"Symbol\('\w+'(, \w+=True)*\)"
# What is left of an expression of sizes without its symbols.
_EXPRESSION = r"(Mul|Add|Integer|Rational|Max|Min|Mod|PythonMod|FloorDiv|CleanDiv|\*(?!\*)|[\s\d(),/+\-])*"
_TEXT = r"[\w.+\-:/ ]*"
_STRUCTURES = {None, "builtins.tuple", "builtins.list", "builtins.dict"}


class _UnsafeError(Exception):
    """The file contains something else than a network of plain tensors. The message says what."""


@dataclass(frozen=True)
class Exported:
    """A network from a file.

    Attributes:
        network: maps images, float in [0, 1], (N, *shape), to features (N, F).
        shape: (C, H, W) of its images; None for a side of any length.
        count: the number of images that it takes at once; None for any number.
        digest: the SHA-256 of the file, in hexadecimal.
    """

    network: nn.Module
    shape: tuple[int | None, ...]
    count: int | None
    digest: str


def read(path: Path) -> Exported:
    """Read a network that takes a batch of images.

    Raises:
        MissingError: there is no such file.
        CheckpointError: the file cannot be read, is no network of torch.export, or contains more than one.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise MissingError(
            f"no file {path}", hint="torch.export.save(torch.export.export(network, (images,)), PATH) writes one"
        ) from error
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        program = torch.export.load(io.BytesIO(_cleaned(content)))
        sizes = _input_of(program)
        network = program.module()
    except _UnsafeError as error:
        raise CheckpointError(
            f"{path} is not read, since {error}", hint="export the network alone, in evaluation mode, on the CPU"
        ) from error
    except Exception as error:  # readers of damaged files raise nearly anything
        raise CheckpointError(
            f"{path} is damaged, or no network of this version of torch.export ({type(error).__name__})",
            hint="torch.export.save(torch.export.export(network, (images,)), PATH) writes one",
        ) from error
    return Exported(network, sizes[1:], sizes[0], hashlib.sha256(content).hexdigest())


def _input_of(program: torch.export.ExportedProgram) -> tuple[int | None, ...]:
    """The sizes of its only input, (N, C, H, W); None where any size is accepted."""
    inputs = [node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    value: Any = inputs[0].meta.get("val") if len(inputs) == 1 else None
    if not isinstance(value, Tensor) or value.ndim != 4 or not value.is_floating_point():
        raise _UnsafeError("its input is not one batch of images, (N, C, H, W) of floats")
    return tuple(size if isinstance(size, int) else None for size in value.shape)


def _cleaned(content: bytes) -> bytes:
    """The archive with what is needed of it, all of which is checked."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(buffer, "w") as cleaned:
        if len(set(archive.namelist())) < len(archive.namelist()):
            raise _UnsafeError("it contains a part twice")
        for entry in archive.infolist():
            root, _, name = entry.filename.partition("/")
            if not root or not re.fullmatch(_PARTS, name):
                raise _UnsafeError(f"it contains {name!r}, which is no part of a plain network")
            if entry.compress_type != zipfile.ZIP_STORED:
                raise _UnsafeError("it is compressed")
            part = archive.read(entry)
            if name.startswith("data/sample_inputs/"):
                _check_samples(part)
            elif name.startswith("models/"):
                part = _checked_model(part)
            elif name.endswith("_config.json"):
                _check_payloads(part)
            cleaned.writestr(entry.filename, part)
    return buffer.getvalue()


def _check_samples(content: bytes) -> None:
    """Raise _UnsafeError if torch would have to execute something to read these inputs."""
    try:
        torch.load(io.BytesIO(content), weights_only=True)
    except Exception as error:
        raise _UnsafeError("its example of an input is not made of tensors") from error


def _check_payloads(content: bytes) -> None:
    for name, payload in json.loads(content)["config"].items():
        _check(name, "")
        _check(payload, "")
        if payload["use_pickle"] or not re.fullmatch(r"(weight|tensor)_\d+", payload["path_name"]):
            raise _UnsafeError(f"{name!r} is not stored as plain numbers")


def _checked_model(content: bytes) -> bytes:
    """The description of the network, without what is only for debugging."""
    model = json.loads(content)
    model["guards_code"] = []
    _drop_metadata(model)
    _check(model, "")
    return json.dumps(model).encode()


def _drop_metadata(value: Any) -> None:
    if isinstance(value, dict):
        if "metadata" in value:
            value["metadata"] = {}
        for each in value.values():
            _drop_metadata(each)
    elif isinstance(value, list):
        for each in value:
            _drop_metadata(each)


def _check(value: Any, key: str) -> None:
    """Raise _UnsafeError if a text in a description could be code."""
    if isinstance(value, dict):
        for name, each in value.items():
            _check(name, "")
            _check(each, name)
    elif isinstance(value, list):
        for each in value:
            _check(each, key)
    elif isinstance(value, str):
        if key in ("in_spec", "out_spec"):
            _check_structure(json.loads(value))
            return
        if key == "target" and not re.fullmatch(_OPERATIONS, value):
            raise _UnsafeError(f"it uses {value!r}, which is no operation on tensors")
        if key == "expr_str":
            value = re.sub(_SYMBOL, "", value)
        if not re.fullmatch(_EXPRESSION if key == "expr_str" else _TEXT, value):
            raise _UnsafeError(f"it contains the text {value[:40]!r}")


def _check_structure(value: Any) -> None:
    """Raise _UnsafeError if a description of arguments has other types than tuples, lists and dictionaries."""
    if isinstance(value, dict):
        if value.get("type") not in _STRUCTURES or not re.fullmatch(r"null|[\w\[\], \"]*", str(value.get("context"))):
            raise _UnsafeError(f"its arguments have the type {str(value.get('type'))[:40]!r}")
        for each in value.get("children_spec", ()):
            _check_structure(each)
    elif isinstance(value, list):
        for each in value:
            _check_structure(each)
