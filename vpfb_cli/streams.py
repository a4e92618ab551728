"""Text into stdout and stderr, whatever they are: a terminal, a pipe whose reader has gone, a full disk, nothing.

Only `output.py`, `progress.py` and `__main__.py` have business here.
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

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType


class StdoutClosedError(BaseException):
    """Whoever read our stdout has gone (`vpfb info | head -1`): nothing is left to do, and nothing went wrong."""


def prepare() -> None:
    """Make stdout and stderr safe to write to: open, and never a UnicodeEncodeError."""
    codecs.register_error("vpfb", _replace_unprintable)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # started with the stream closed: `vpfb … >&-`
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8", errors="vpfb"))  # noqa: SIM115, PTH123
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="vpfb")


def write_stdout(text: str) -> None:
    """A line of results, through to the other end: a failure shows here and not at the interpreter's shutdown."""
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
    """Words to people; a stderr that takes none is no reason to fail."""
    try:
        print(text, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        discard(sys.stderr)


def discard(stream: IO[str]) -> None:
    """Send what is buffered nowhere: the interpreter's last flush must not fail and change the exit code."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def is_decorated(stream: IO[str]) -> bool:
    """Whether colours and moving bars are welcome: a terminal that can, and a person who did not decline."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM", "") in ("", "dumb", "unknown"):
        return False
    return is_terminal(stream)


def is_terminal(stream: IO[str]) -> bool:
    return not stream.closed and stream.isatty()


def painted(text: str, style: str, stream: IO[str]) -> str:
    """Text in an ANSI style (`"1;31"`), where that is welcome."""
    return f"\x1b[{style}m{text}\x1b[0m" if is_decorated(stream) else text


def rendered(renderable: RenderableType) -> str:
    """A Rich table as text for stdout: as wide as the terminal, or as its content where there is none."""
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
        hint = "make room, or write elsewhere" if error.errno == errno.ENOSPC else None
        raise DataError(f"standard output cannot be written: {error.strerror}", hint=hint) from error


def _replace_unprintable(error: UnicodeError) -> tuple[bytes, int]:
    """The undecodable bytes of a file name come out as they went in; what the terminal has no sign for becomes '?'."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    return b"".join(bytes([ord(sign) - 0xDC00]) if "\udc80" <= sign <= "\udcff" else b"?" for sign in signs), error.end
