"""The recognition of files that vpfb wrote, pictures and run folders, among other files.

A picture is recognised by its content and not by its name. A picture that another program has converted or cropped is
not recognised.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from vpfb_core.machine.origin import KEYWORD, OURS

MARKED = frozenset({".png", ".gif"})  # endings of the pictures that vpfb writes
_NUMBERED = re.compile(r"\d{6,}\.png")  # the names of samples in a folder
_MARKS = {
    b"\x89PNG\r\n\x1a\n": re.compile(f"tEXt{KEYWORD}\0{OURS}".encode()),  # a chunk before the pixels
    b"GIF89a": re.compile(b"\x21\xfe." + OURS.encode() + b"[\0,]", re.DOTALL),  # a comment before the first frame
}
_HEAD = 4096  # bytes in which the mark is
_SETTINGS, _RESULTS = "config.toml", {"log.csv", "model.safetensors", "state.json"}


def is_own_picture(path: Path) -> bool:
    """Whether vpfb wrote a picture; False if it cannot be read or is not a regular file."""
    try:
        if not path.is_file():  # opening a pipe would wait for a program that writes to it
            return False
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return False
    return any(head.startswith(magic) and mark.search(head) is not None for magic, mark in _MARKS.items())


def is_sample_name(name: str) -> bool:
    """Whether a file has the name of a sample in a folder of samples, such as 000012.png."""
    return _NUMBERED.fullmatch(name) is not None


def is_run(names: Collection[str]) -> bool:
    """Whether a folder with entries of these names is a run folder."""
    return _SETTINGS in names and not _RESULTS.isdisjoint(names)
