"""Writing to stdout and stderr, whether they are a terminal, a pipe without a reader, a full disk, or closed.

Only `output.py`, `progress.py` and `command_line.py` use this.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING

from vpfb_core.errors import DataError
from vpfb_core.machine.file_names import is_byte

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType


class StdoutClosedError(BaseException):
    """The reader of stdout has closed the pipe (`vpfb info | head -1`): the command ends, and this is not an error."""


def prepare() -> None:
    """Make sure that stdout and stderr are open and never raise a UnicodeEncodeError."""
    codecs.register_error("vpfb", _replace_unprintable)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # started with the stream closed: `vpfb … >&-`
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8", errors="vpfb"))  # noqa: SIM115, PTH123
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="vpfb")


def write_stdout(text: str) -> None:
    """Write a line and flush it, so that a failure occurs here and not at the interpreter's shutdown."""
    with _stdout_failures():
        print(text, flush=True)


def write_stdout_bytes(data: bytes) -> None:
    with _stdout_failures():
        sys.stdout.buffer.write(data)
        sys.stdout.flush()


def flush_stdout() -> None:
    with _stdout_failures():
        sys.stdout.flush()


def write_stderr(text: str) -> None:
    """Write a line; a stderr that cannot be written to is ignored."""
    try:
        print(text, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        discard(sys.stderr)


def discard(stream: IO[str]) -> None:
    """Discard buffered text, so that the interpreter's last flush cannot fail and change the exit code."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def is_decorated(stream: IO[str]) -> bool:
    """Whether to use colours and moving bars: on a terminal that can, unless the user declined."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM", "") in ("", "dumb", "unknown"):
        return False
    return is_terminal(stream)


def is_terminal(stream: IO[str]) -> bool:
    return not stream.closed and stream.isatty()


def painted(text: str, style: str, stream: IO[str]) -> str:
    """Text in an ANSI style (`"1;31"`), where colours are used."""
    return f"\x1b[{style}m{text}\x1b[0m" if is_decorated(stream) else text


def rendered(renderable: RenderableType) -> str:
    """A Rich table as text for stdout: as wide as the terminal, or as its content without a terminal."""
    from rich.console import Console
    from rich.measure import Measurement

    console = Console(file=sys.stdout, color_system="auto" if is_decorated(sys.stdout) else None, highlight=False)
    if not is_terminal(sys.stdout):
        unlimited = console.options.update(width=100_000)
        console.width = max(1, Measurement.get(console, unlimited, renderable).maximum)
    with console.capture() as capture:
        console.print(renderable)
    return "\n".join(line.rstrip() for line in capture.get().rstrip("\n").split("\n"))


@contextmanager
def _stdout_failures() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        discard(sys.stdout)
        raise StdoutClosedError from None
    except OSError as error:
        discard(sys.stdout)
        hint = "free some space, or write elsewhere" if error.errno == errno.ENOSPC else None
        raise DataError(f"cannot write to stdout: {error.strerror}", hint=hint) from error


def _replace_unprintable(error: UnicodeError) -> tuple[bytes, int]:
    r"""Undecodable bytes of a file name are written as they are; a character that cannot be encoded becomes \xe9."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    return b"".join(map(_escaped, characters)), error.end


def _escaped(character: str) -> bytes:
    return bytes([ord(character) - 0xDC00]) if is_byte(character) else character.encode("ascii", "backslashreplace")
