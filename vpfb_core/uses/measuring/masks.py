"""Masks: image files that weigh the pixels of a statistic, in the texts that people type and in run folders."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from vpfb_core.machine.files import write_bytes

IN_MASK = "brightness:"  # before the name of a file


def has_mask(name: str) -> bool:
    """Whether a statistic is the brightness in a mask, whose file its name contains."""
    return name.startswith(IN_MASK)


def has_value(text: str) -> bool:
    """Whether a text is a statistic with a value. The name of a file may contain "=" as well."""
    _, equals, value = text.rpartition("=")
    return bool(equals) and (not has_mask(text) or _is_number(value))


def statistics_in(text: str, kept: Path | None = None) -> list[str]:
    """The statistics of a text that are separated by commas. A comma in the name of an existing mask separates nothing.

    A statistic may have a value, such as "brightness=0.4".

    Args:
        text: the text.
        kept: a folder of `keep_masks`, whose masks exist as well.
    """
    rest, found = text.split(","), []
    while rest:
        count = 1
        if has_mask(rest[0].strip()):
            lengths = range(1, len(rest) + 1)
            count = next((count for count in lengths if _exists(",".join(rest[:count]).strip(), kept)), 1)
        found.append(",".join(rest[:count]).strip())
        rest = rest[count:]
    return found


def mask_file(name: str, kept: Path | None = None) -> Path:
    """The file of the mask of a statistic.

    Args:
        name: a statistic of `has_mask`.
        kept: a folder of `keep_masks`, whose copy is preferred.
    """
    copy = None if kept is None else kept / _copy(name)
    return copy if copy is not None and copy.is_file() else Path(name.removeprefix(IN_MASK))


def keep_masks(kept: Path, texts: Iterable[str]) -> None:
    """Copy the files of the masks of some statistics to a folder, unless they are there.

    Args:
        kept: the folder, which is made if there is a mask.
        texts: statistics, which may have a value.
    """
    for text in texts:
        name = _without_value(text)
        if has_mask(name) and (file := mask_file(name, kept)).parent != kept and file.is_file():
            kept.mkdir(exist_ok=True)
            write_bytes(kept / _copy(name), file.read_bytes())


def _without_value(text: str) -> str:
    """The statistic of a text, which may have a value."""
    return text.rpartition("=")[0] if has_value(text) else text


def _copy(name: str) -> str:
    """The name of the copy of a mask."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()
    return digest[:16] + Path(name).suffix


def _exists(text: str, kept: Path | None) -> bool:
    return mask_file(_without_value(text), kept).is_file()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
