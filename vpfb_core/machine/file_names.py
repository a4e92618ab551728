"""Names of files and classes: as a message shows them, and as a person types them in a shell."""

from __future__ import annotations

import os
import pwd
import shlex
import unicodedata
from pathlib import Path

_LINE_BREAKS = {"Cc", "Zl", "Zp"}  # categories of Unicode: controls, line and paragraph separators
_REORDERING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # show text in another order


def printable(name: str) -> str:
    """A name for a message in one line.

    Control characters, signs that reorder a line, and bytes that are not text become escapes. Every other sign stays:
    spaces of all kinds, and the joiners that many scripts are written with.
    """
    return "".join(f"\\x{ord(sign) - 0xDC00:02x}" if is_byte(sign) else visible(sign) for sign in name)


def visible(sign: str) -> str:
    """A sign, or its escape if it is a control character or reorders the line that it is in."""
    hidden = unicodedata.category(sign) in _LINE_BREAKS or sign in _REORDERING
    return repr(sign)[1:-1] if hidden else sign


def is_byte(sign: str) -> bool:
    """Whether a sign stands for a byte of a file name that is not text."""
    return "\udc80" <= sign <= "\udcff"


def typed(path: str | os.PathLike[str]) -> str:
    """A path as one word of a shell's command line, which no command takes for an option."""
    text = os.fspath(path)
    if text.startswith("-"):
        text = f"./{text}"
    if printable(text) == text:
        return shlex.quote(text)
    signs = (f"\\x{byte:02x}" if byte < 0x20 or byte >= 0x7F else chr(byte) for byte in os.fsencode(text))
    return "$'" + "".join({"'": "\\'", "\\": "\\\\"}.get(sign, sign) for sign in signs) + "'"


def label(text: str, longest: int) -> str:
    """A part of a file name that is made from a text: letters, their marks and digits of any script, . and _; else -.

    Args:
        longest: the largest number of characters; more would be cut off.
    """
    kept = (sign if sign.isalnum() or sign in "._" or unicodedata.category(sign)[0] == "M" else "-" for sign in text)
    return "".join(kept).strip("-.")[:longest]


def expanded(path: str) -> str:
    """A path whose leading ~ or ~user is replaced by that home folder, as a shell does.

    It stays as it is if something of that literal name exists, or if there is no such user.
    """
    user, slash, rest = path.partition("/")
    if not user.startswith("~") or os.path.lexists(user):
        return path
    folder = home() if user == "~" else Path(os.path.expanduser(user))  # noqa: PTH111  (it may stay as it is)
    return path if folder is None else f"{folder}{slash}{rest}"


def home() -> Path | None:
    """The home folder of the user; None for a user without one, as in many containers."""
    if os.path.isabs(os.environ.get("HOME", "")):  # noqa: PTH117
        return Path(os.environ["HOME"])
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir or "/")
    except KeyError:
        return None


def same_name(one: str, other: str) -> bool:
    """Whether two names look the same: systems store é as one sign or as e and an accent."""
    return unicodedata.normalize("NFC", one) == unicodedata.normalize("NFC", other)
