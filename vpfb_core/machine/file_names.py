"""Names of files and classes, in messages and in the command line of a shell."""

from __future__ import annotations

import os
import pwd
import shlex
import unicodedata
from pathlib import Path

_LINE_BREAKS = {"Cc", "Zl", "Zp"}  # categories of Unicode: controls, line and paragraph separators
_REORDERING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # show text in another order


def printable(name: str) -> str:
    """A name for a message of one line.

    Control characters, characters that reorder a line, and bytes that are not text are replaced by escapes. All other
    characters are kept, including spaces of all kinds and the joiners that many scripts need.
    """
    return "".join(map(visible, as_unicode(name)))


def as_unicode(name: str) -> str:
    """A name in which bytes that are not text are replaced by escapes such as \\xff, so that JSON can hold it."""
    return "".join(f"\\x{ord(each) - 0xDC00:02x}" if is_byte(each) else each for each in name)


def visible(character: str) -> str:
    """A character, or its escape if it is a control character or reorders the line."""
    hidden = unicodedata.category(character) in _LINE_BREAKS or character in _REORDERING
    return repr(character)[1:-1] if hidden else character


def is_byte(character: str) -> bool:
    """Whether a character represents a byte of a file name that is not text."""
    return "\udc80" <= character <= "\udcff"


def typed(path: str | os.PathLike[str]) -> str:
    """A path as one word of a command line in a shell, which no command reads as an option."""
    text = os.fspath(path)
    if text.startswith("-"):
        text = f"./{text}"
    if printable(text) == text:
        return shlex.quote(text)
    characters = (f"\\x{byte:02x}" if byte < 0x20 or byte >= 0x7F else chr(byte) for byte in os.fsencode(text))
    return "$'" + "".join({"'": "\\'", "\\": "\\\\"}.get(character, character) for character in characters) + "'"


def label(text: str, longest: int) -> str:
    """A part of a file name, made from a text: letters, their marks and digits of any script, . and _. Others become -.

    Args:
        longest: the largest number of characters.
    """
    kept = (
        character if character.isalnum() or character in "._" or unicodedata.category(character)[0] == "M" else "-"
        for character in text
    )
    return "".join(kept).strip("-.")[:longest]


def expanded(path: str) -> str:
    """A path whose leading ~ or ~user is replaced by that home folder, as in a shell.

    It is not changed if a file of that literal name exists, or if there is no such user.
    """
    user, slash, rest = path.partition("/")
    if not user.startswith("~") or os.path.lexists(user):
        return path
    folder = home() if user == "~" else Path(os.path.expanduser(user))  # noqa: PTH111  (it may stay as it is)
    return path if folder is None else f"{folder}{slash}{rest}"


def real(path: str | os.PathLike[str]) -> Path:
    """The absolute path without links. Where links lead in a circle, it ends with one of them.

    `Path.resolve` raises a RuntimeError there before Python 3.13.
    """
    return Path(os.path.realpath(path))


def home() -> Path | None:
    """The home folder of the user; None if there is none, as in many containers."""
    if os.path.isabs(os.environ.get("HOME", "")):  # noqa: PTH117
        return Path(os.environ["HOME"])
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir or "/")
    except KeyError:
        return None


def same_name(one: str, other: str) -> bool:
    """Whether two names look the same: some systems store é as one character, others as e and an accent."""
    return unicodedata.normalize("NFC", one) == unicodedata.normalize("NFC", other)
