"""Ctrl-C, SIGTERM and the end of the terminal: no signal is lost, and none causes a traceback.

Three behaviours, each for a part of the program:

* `install()`: a signal raises KeyboardInterrupt, which `command_line` turns into exit code 130;
* `importing()`: the process exits at once with 130, because some libraries catch a KeyboardInterrupt in their import;
* `graceful()`: the first signal asks the loop to stop, the second raises KeyboardInterrupt.
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

from vpfb_cli.output import EXIT_INTERRUPTED
from vpfb_core.errors import VPFBError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # the last one is sent when the terminal is closed

# `timeout`, `uv run` and terminals send one request twice: to the process and to its group.
ONE_REQUEST_SECONDS = 0.5

Handler = Callable[[int, FrameType | None], Any]


class Interrupted(VPFBError):  # noqa: N818 (it is not an error)
    """A command has saved its work and stopped on request. The message says how to continue."""

    kind = "interrupted"


def install(report: Callable[[], object]) -> None:
    """Raise KeyboardInterrupt on SIGINT, SIGTERM and SIGHUP from now on. Under `nohup`, SIGHUP stays ignored.

    Args:
        report: a function that prints the interruption if the process has to exit at once.
    """
    global _report
    _report = report
    for number in _handled():
        signal.signal(number, _raise_interrupt)


def release() -> None:
    """Let a signal end the process silently from now on. It is for the shutdown, when nothing can be lost."""
    for number in _handled():
        signal.signal(number, signal.SIG_DFL)


def _handled() -> list[signal.Signals]:
    """The signals that are handled: all but a SIGHUP that is ignored, as under `nohup`."""
    return [number for number in SIGNALS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]


@contextmanager
def importing() -> Iterator[None]:
    """Inside this context, a signal ends the process at once. It is for imports, while no file is open."""
    with _handled_by(_exit_at_once):
        yield


@contextmanager
def graceful(note: Callable[[str], object]) -> Iterator[Callable[[], bool]]:
    """Inside this context, the first signal is a request to stop. It is for a loop that can stop after any step.

    Args:
        note: a function that prints that the signal was received, such as `Output.note`.
    Yields:
        A function that is called at every step and returns whether one of the signals has been received.
    """
    request = _StopRequest(note)
    with _handled_by(request.receive):
        yield request.stop


class _StopRequest:
    """Whether a signal asked to stop, and whether that has been acknowledged."""

    def __init__(self, note: Callable[[str], object]) -> None:
        self._note = note
        self._since: float | None = None
        self._acknowledged = False

    def receive(self, signum: int, frame: FrameType | None) -> None:
        if self._since is None:
            self._since = time.monotonic()
            # The signal may have interrupted a write to the same stream, which refuses a second one.
            with suppress(RuntimeError):
                self._acknowledge()
        elif signum != signal.SIGHUP and time.monotonic() - self._since > ONE_REQUEST_SECONDS:
            _raise_interrupt(signum, frame)

    def stop(self) -> bool:
        if self._since is None:
            return False
        if not self._acknowledged:
            self._acknowledge()
        return True

    def _acknowledge(self) -> None:
        self._note("stopping after this step; press Ctrl-C again to stop at once")
        self._acknowledged = True


@contextmanager
def _handled_by(handler: Handler) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    before = {number: signal.signal(number, handler) for number in _handled()}
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


def _report_nothing() -> None:
    pass


_report: Callable[[], object] = _report_nothing
