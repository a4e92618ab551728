"""Ctrl-C and SIGTERM: never swallowed, never a traceback.

Three behaviours, each for a stretch of code and each giving way to the one before it:

* `install()`: KeyboardInterrupt is raised; the one handler in `__main__` turns it into exit code 130;
* `importing()`: the process ends at once with 130, because libraries swallow a KeyboardInterrupt in their import;
* `graceful()`: the first signal only asks to stop, the second one raises KeyboardInterrupt.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

from vpfb_core.errors import VPFBError

SIGNALS = (signal.SIGINT, signal.SIGTERM)
EXIT_INTERRUPTED = 130

# `timeout`, `uv run` and terminals deliver one wish twice: to the process and to its group.
ONE_WISH_SECONDS = 0.5

Handler = Callable[[int, FrameType | None], Any]


class Interrupted(VPFBError):  # noqa: N818 (it is no error)
    """A command that was asked to stop has stopped, tidily: what was kept, and how to go on."""

    kind = "interrupted"


def install(report: Callable[[], object]) -> None:
    """Raise KeyboardInterrupt on SIGINT and SIGTERM from now on.

    Args:
        report: tells people (or the script) of the interruption when the process has to end at once.
    """
    global _report
    _report = report
    for number in SIGNALS:
        signal.signal(number, _raise_interrupt)


def release() -> None:
    """Let a signal end the process without a word: for the interpreter's own shutdown, which has nothing to lose."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)


@contextmanager
def importing() -> Iterator[None]:
    """Around the import of torch and its like, when no file is open: a signal ends the process at once."""
    with _handled_by(_exit_at_once):
        yield


@contextmanager
def graceful(note: Callable[[str], object]) -> Iterator[Callable[[], bool]]:
    """Around a loop that can stop after any step.

    Args:
        note: says to the person that the wish was heard; `Output.note`.
    Yields:
        a function that is true once SIGINT or SIGTERM has come; cheap, to be asked every step.
    """
    wish = _Wish(note)
    with _handled_by(wish.heard):
        yield wish.stop


class _Wish:
    """Whether somebody asked to stop, and whether the answer could be given."""

    def __init__(self, note: Callable[[str], object]) -> None:
        self._note = note
        self._since: float | None = None
        self._answered = False

    def heard(self, signum: int, frame: FrameType | None) -> None:
        if self._since is None:
            self._since = time.monotonic()
            # The signal may have come in the middle of a write to the same stream, which refuses a second one.
            with suppress(RuntimeError):
                self._answer()
        elif time.monotonic() - self._since > ONE_WISH_SECONDS:
            _raise_interrupt(signum, frame)

    def stop(self) -> bool:
        if self._since is None:
            return False
        if not self._answered:
            self._answer()
        return True

    def _answer(self) -> None:
        self._note("stopping after this step; press Ctrl-C again to stop at once")
        self._answered = True


@contextmanager
def _handled_by(handler: Handler) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, signal.SIG_DFL if previous is None else previous)


def _raise_interrupt(_signum: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _exit_at_once(_signum: int, _frame: FrameType | None) -> NoReturn:
    try:
        _report()
    finally:
        os._exit(EXIT_INTERRUPTED)


def _say_nothing() -> None:
    pass


_report: Callable[[], object] = _say_nothing
