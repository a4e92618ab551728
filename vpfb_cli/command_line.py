"""Running of a command line: every exception becomes a message and an exit code."""

from __future__ import annotations

import signal
import sys
import warnings
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from typing import TYPE_CHECKING

from vpfb_cli import output, signals, streams
from vpfb_core.errors import ConfigError
from vpfb_core.machine.limits import let_waiting_threads_sleep

if TYPE_CHECKING:
    from typer.core import TyperGroup


def main(blocked: Iterable[int]) -> None:
    """Run the command line of this process, and end it with the exit code.

    Args:
        blocked: the signals that are blocked from now on; those that arrived before are handled now.
    """
    signals.install(report=lambda: output.current().fail(KeyboardInterrupt()))
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        streams.prepare()
        let_waiting_threads_sleep()
        with signals.importing():
            from vpfb_cli.app import build

            app = build()
        code = run(app, sys.argv[1:])
    except KeyboardInterrupt as interrupt:  # before or after `run`, which handles its own
        code = output.current().fail(interrupt)
    signals.release()
    sys.exit(code)


def run(app: TyperGroup, argv: Sequence[str]) -> int:
    """Run a command line, report errors, and return the exit code."""
    output.start(json_mode=output.asks_for_json(argv))
    stdout, stderr = sys.stdout, sys.stderr
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            code = _invoke(app, argv)
        streams.flush_stdout()
    except streams.StdoutClosedError:
        return 0
    except SystemExit as leaving:
        reader_gone = isinstance(leaving.__context__, BrokenPipeError)
        if reader_gone and sys.stdout is stdout:  # Rich, printing help
            return 0
        if reader_gone:  # Typer, about another pipe; it has wrapped both streams
            sys.stdout, sys.stderr = stdout, stderr
            return output.current().fail(leaving.__context__ or leaving)
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException as error:
        return output.current().fail(error)
    return code


def _invoke(app: TyperGroup, argv: Sequence[str]) -> int:
    """Run a command line and return its exit code.

    Typer returns the code of `typer.Exit`. After a KeyboardInterrupt it returns 130, which becomes an exception again.
    """
    if not argv:  # nothing was done, so the help goes to stderr, and the exit code is that of a usage error
        with redirect_stdout(sys.stderr):
            app(["--help"], prog_name="vpfb", standalone_mode=False)
        return output.EXIT_USAGE
    _refuse_empty(argv)
    code = app(list(argv), prog_name="vpfb", standalone_mode=False)
    if code == output.EXIT_INTERRUPTED:
        raise KeyboardInterrupt
    return code or 0


def _refuse_empty(argv: Sequence[str]) -> None:
    """Refuse a value that is empty, as a variable of the shell is that was not set. Paths would become this folder."""
    for before, word in zip(["", *argv], argv, strict=False):
        option, equals, value = word.partition("=")
        if word == "" or (option.startswith("--") and equals and not value):
            given = option or (before if before.startswith("-") else "an argument")
            raise ConfigError(f"{given} is empty", hint="give a value, or leave it out")


def _show_warning(message: Warning | str, *_location: object, **_more: object) -> None:
    """Print a warning of a library like one of vpfb, without file, line and source."""
    output.current().warn(str(message))
