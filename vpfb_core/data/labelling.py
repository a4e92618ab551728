"""Classes of the images of a folder: from `attributes.csv`, or from the names of its sub-folders."""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vpfb_core.data.source import ConditionGroup
from vpfb_core.errors import DataError, counted
from vpfb_core.machine.csv_files import csv_rows
from vpfb_core.machine.file_names import printable

TABLE = "attributes.csv"
MOST_ATTRIBUTES = 1_000
LARGEST_TABLE = 2**30  # bytes
_VALUES = {"0": 0, "1": 1, "-1": 0, "": -1, "0.0": 0, "1.0": 1, "-1.0": 0}  # pandas writes 1.0 beside empty fields
_EXAMPLE = "the first line looks like file,smiling,glasses and every other like a/001.jpg,1,0 (empty: unknown)"


@dataclass(frozen=True)
class Labels:
    """labels: int64 (N, G) for the G groups, −1 where unknown; notes: how they were found, in plain words."""

    labels: Tensor
    groups: tuple[ConditionGroup, ...]
    notes: tuple[str, ...]


def read_labels(root: Path, files: Sequence[str]) -> Labels:
    """The labels of files (paths relative to root, with slashes), from `attributes.csv` if the folder has one.

    Raises:
        DataError: there is neither a table nor two sub-folders, or the table is invalid (with the line).
    """
    table = root / TABLE
    return _from_table(table, files) if table.exists() else _from_folders(root, files)


def read_labels_like(groups: Sequence[ConditionGroup], root: Path, files: Sequence[str]) -> Labels:
    """The labels of files in the classes of other data, −1 where a file has none of them.

    Args:
        groups: the condition groups of the other data.
        root, files: as of `read_labels`.
    Raises:
        DataError: the table is invalid (with the line).
    """
    table = root / TABLE
    if table.exists():
        found = _from_table(table, files)
    else:
        names = sorted({file.split("/", 1)[0] for file in files if "/" in file}, key=natural)
        found = _by_folder(names, files)
    labels = torch.full((len(files), len(groups)), -1)
    unknown: list[str] = []
    for column, group in enumerate(groups):
        for theirs, other in enumerate(found.groups):
            if other.name == group.name:
                indices = [group.classes.index(name) if name in group.classes else -1 for name in other.classes]
                labels[:, column] = torch.tensor([*indices, -1])[found.labels[:, theirs]]
                unknown += [name for name in other.classes if name not in group.classes]
    notes = (f"classes of the validation images that training lacks: {listed(unknown)}",) if unknown else ()
    return Labels(labels, tuple(groups), notes)


def natural(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """A sort key in which 2 comes before 10."""
    parts = re.split(r"(\d+)", name.casefold())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part], name


def listed(names: Sequence[str], limit: int = 5) -> str:
    """The names in one printable line: "a, b, c, d, e, ... and 7 more"."""
    rest = len(names) - limit
    return ", ".join(map(printable, names[:limit])) + (f", ... and {rest:,} more" if rest > 0 else "")


def _from_folders(root: Path, files: Sequence[str]) -> Labels:
    names = sorted({file.split("/", 1)[0] for file in files if "/" in file}, key=natural)
    if len(names) < 2:
        found = f"only one sub-folder with images, '{printable(names[0])}'" if names else "no sub-folders with images"
        raise DataError(
            f"'{root}' has no classes: it has no {TABLE} and {found}",
            hint=f"put each class in its own sub-folder, add {TABLE}, or train without `conditional`",
        )
    return _by_folder(names, files)


def _by_folder(names: Sequence[str], files: Sequence[str]) -> Labels:
    """The labels of files by the first folder of their paths, of which `names` are all."""
    index = {name: i for i, name in enumerate(names)}
    parents = [file.split("/", 1)[0] if "/" in file else None for file in files]
    labels = torch.tensor([[-1 if parent is None else index[parent]] for parent in parents])
    notes = [f"{counted(len(names), 'classes')} from the sub-folder names: {listed(names, 12)}"]
    if loose := parents.count(None):
        notes.append(f"images outside any sub-folder, without a class: {loose:,}")
    return Labels(labels, (ConditionGroup("class", tuple(names)),), tuple(notes))


def _from_table(path: Path, files: Sequence[str]) -> Labels:
    attributes, rows = _parse(path)
    wanted = [_plain(file) for file in files]
    if not any(name in rows for name in wanted):
        raise DataError(
            f"{path}: no row names an image of the folder; the first row is '{printable(next(iter(rows)))}', "
            f"the first image '{printable(files[0])}'",
            hint="names in the first column are relative to the folder that holds the table",
        )
    unknown = [-1] * len(attributes)
    labels = torch.tensor([rows[name].values if name in rows else unknown for name in wanted])
    notes = [f"{counted(len(attributes), 'attributes')} from {TABLE}: {listed(attributes, 12)}"]
    on_disk = set(wanted)
    if absent := [name for name in rows if name not in on_disk]:
        notes.append(f"files in {TABLE} that do not exist: {len(absent):,} ({listed(absent)})")
    if missing := [file for file, name in zip(files, wanted, strict=True) if name not in rows]:
        notes.append(f"images not in {TABLE}, with unknown attributes: {len(missing):,} ({listed(missing)})")
    groups = tuple(ConditionGroup(name, (f"~{name}", name)) for name in attributes)
    return Labels(labels, groups, tuple(notes))


@dataclass(frozen=True)
class _Row:
    line: int
    values: list[int]


def _parse(path: Path) -> tuple[list[str], dict[str, _Row]]:
    """The names of the attributes and, by file, the line and the values (0, 1, or −1 for unknown)."""
    lines = csv_rows(path, LARGEST_TABLE)
    _, header = next(lines, (1, []))
    attributes = [cell.strip() for cell in header[1:]]
    if not attributes:
        raise DataError(f"{path}: line 1 names no attribute: '{','.join(header)[:80]}'", hint=_EXAMPLE)
    if len(attributes) > MOST_ATTRIBUTES:
        raise DataError(f"{path}: line 1 names {len(attributes):,} attributes, more than {MOST_ATTRIBUTES:,}")
    for name in attributes:
        if not name or name.startswith("~") or attributes.count(name) > 1:
            raise DataError(
                f"{path}: line 1: attribute name '{name}' is empty, starts with ~, or occurs twice", hint=_EXAMPLE
            )
    rows: dict[str, _Row] = {}
    minus: dict[str, int] = {}  # attribute → the first line with −1 (here) or 0 (below)
    zero: dict[str, int] = {}
    for line, cells in lines:
        if len(cells) != len(header):
            raise DataError(f"{path}: line {line} has {len(cells)} fields, line 1 has {len(header)}", hint=_EXAMPLE)
        file = _plain(cells[0])
        if file in ("", "."):
            raise DataError(f"{path}: line {line} names no file", hint=_EXAMPLE)
        if file in rows:
            raise DataError(f"{path}: line {line} names '{printable(file)}' again, after line {rows[file].line}")
        values = []
        for name, cell in zip(attributes, (cell.strip() for cell in cells[1:]), strict=True):
            if cell not in _VALUES:
                raise DataError(
                    f"{path}: line {line}: {name} is '{printable(cell[:40])}'",
                    hint="write 1, 0 (or -1), or leave the field empty",
                )
            if cell.startswith("-"):
                minus.setdefault(name, line)
            elif cell.startswith("0"):
                zero.setdefault(name, line)
            values.append(_VALUES[cell])
        rows[file] = _Row(line, values)
    for name in minus.keys() & zero.keys():
        raise DataError(
            f"{path}: {name} is -1 on line {minus[name]} and 0 on line {zero[name]}: both would mean absent",
            hint="leave the field empty where the attribute is unknown",
        )
    if not rows:
        raise DataError(f"{path} has no rows after its first line", hint=_EXAMPLE)
    return attributes, rows


def _plain(name: str) -> str:
    """The spelling by which a file is found: composed characters (macOS stores decomposed ones), no leading ./"""
    name = unicodedata.normalize("NFC", name.strip())
    return posixpath.normpath(name) if name else ""
