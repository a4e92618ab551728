"""Folders whose sub-folders are the training, validation and test data of one data set.

A folder is divided if it contains sub-folders of two parts, such as `train` and `val`, and neither images nor an
`attributes.csv` beside them. If the parts have classes (sub-folders) in common, it is certainly divided, and other
images beside the parts are left out. Without common classes, other images beside them make it an ordinary folder, some
of whose classes happen to be called train and test.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from vpfb_core.data.decoding import ENDINGS
from vpfb_core.data.labelling import TABLE, listed
from vpfb_core.data.listing import has_images, is_foreign
from vpfb_core.data.own_files import is_own_picture
from vpfb_core.errors import DataError

_SPELLINGS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev", "eval"),
    "test": ("test", "testing"),
}
_PART_OF_SPELLING = {spelling: part for part, spellings in _SPELLINGS.items() for spelling in spellings}
_ENDING = re.compile(r"[ _-]?(set|data|images|split|\d{4})$")  # of training_set, test_images, val2017
_DEEPEST = 4  # levels of folders that hold one other folder and nothing else


@dataclass(frozen=True)
class Division:
    """A folder that is divided.

    Attributes:
        root: the folder.
        folders: the folder of each part, relative to root, in the order training, validation, test.
        beside: the sub-folders and images beside the parts, which are in none of them.
        doubt: the reason for which it is an ordinary folder after all; "" if it is divided.
    """

    root: Path
    folders: Mapping[str, str]
    beside: tuple[str, ...] = ()
    doubt: str = ""

    def part(self, wanted: str) -> str:
        """The name of the part that is used as training, validation or test data.

        Validation and test data can replace each other.

        Raises:
            DataError: there is no such part.
        """
        others = {"train": ("train",), "val": ("val", "test"), "test": ("test", "val")}[wanted]
        for part in others:
            if part in self.folders:
                return part
        raise DataError(
            f"'{self.root}' is divided into {_joined(list(self.folders))}, and has no part '{wanted}'",
            hint=f"there are: {', '.join(f'{self.root}:{part}' for part in (*self.folders, 'all'))}",
        )

    def note(self, used: str, validation: str | None = None) -> str:
        """A sentence about the parts that are used.

        Args:
            used: the part that is used.
            validation: the part that is used for validation as well; None if there is none.
        """
        rest = [f"'{self.root}:{part}'" for part in self.folders if part not in (used, validation)]
        what = f"this is {used}" if validation is None else f"training uses {used}, and validation {validation}"
        names = f"{_joined(rest)} name{'s the other' if len(rest) == 1 else ' the others'}"
        left = f"; left out beside them: {listed(self.beside)}" if self.beside else ""
        parts = _joined(list(self.folders))
        return f"'{self.root}' is divided into {parts}: {what}{f' ({names})' if rest else ''}{left}"


def part_of_name(name: str) -> str | None:
    """The part of a data set whose folder has this name: "train", "val" or "test"; None for any other name."""
    plain = name.casefold()
    return _PART_OF_SPELLING.get(plain) or _PART_OF_SPELLING.get(_ENDING.sub("", plain))


def sub_folder_of_part(root: Path, part: str) -> Path | None:
    """The sub-folder of a part in a folder that is not necessarily divided; None if there is none."""
    division = division_of(root)
    if division is not None and part in division.folders:
        return root / division.folders[part]
    found = [name for name in _look_into(root).folders if part_of_name(name) == part]
    return root / found[0] if found else None


def division_of(root: Path) -> Division | None:
    """The division of a folder; None if it does not contain two parts, or cannot be listed.

    A folder that contains only one other folder is replaced by that folder, since archives often have such folders.
    """
    within = ""
    for _ in range(_DEEPEST):
        inside = _look_into(root / within)
        parts: dict[str, str] = {}
        for name in inside.folders:
            if (part := part_of_name(name)) is not None:
                parts.setdefault(part, name)
        if len(parts) > 1:
            return None if inside.table else _divided(root, within, parts, inside)
        if parts or inside.table or any(inside.loose()):
            return None
        full = [name for name in inside.folders if has_images(root / within / name)]
        if len(full) != 1:
            return None
        within = f"{within}{full[0]}/"
    return None


@dataclass(frozen=True)
class _Inside:
    """The sub-folders that may contain data, the image files, and whether there is a table of labels."""

    folder: Path
    folders: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    table: bool = False

    def loose(self) -> Iterator[str]:
        """The images that vpfb did not write."""
        return (name for name in self.images if not is_own_picture(self.folder / name))


def _look_into(folder: Path) -> _Inside:
    try:
        with os.scandir(folder) as entries:
            names = {entry.name: _is_folder(entry) for entry in entries if not is_foreign(entry.name)}
    except OSError:
        return _Inside(folder)
    images = [name for name, is_dir in names.items() if not is_dir and Path(name).suffix.lower() in ENDINGS]
    folders = [name for name, is_dir in names.items() if is_dir]
    return _Inside(folder, tuple(sorted(folders)), tuple(sorted(images)), TABLE in names)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _divided(root: Path, within: str, parts: dict[str, str], inside: _Inside) -> Division:
    others = [name for name in inside.folders if name not in parts.values() and has_images(root / within / name)]
    beside = (*others, *inside.loose())
    classes = [set(_look_into(root / within / name).folders) for name in parts.values()]
    common = any(one & other for i, one in enumerate(classes) for other in classes[:i])
    ordered = {part: parts[part] for part in _SPELLINGS if part in parts}
    doubt = ""
    if beside and not common:
        names = listed(beside, 3)
        parts_named = _joined([repr(name) for name in ordered.values()])
        doubt = f"{parts_named} are taken as ordinary sub-folders, since there are images beside them: {names}"
    return Division(root, {part: f"{within}{name}" for part, name in ordered.items()}, beside, doubt)


def _joined(names: list[str]) -> str:
    """a, b and c."""
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)
