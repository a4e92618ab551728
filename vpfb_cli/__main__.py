"""`vpfb` and `python -m vpfb_cli`: run a command line, and let every exception end in a sentence and an exit code."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import TYPE_CHECKING

from vpfb_cli import output, signals, streams

if TYPE_CHECKING:
    import typer


def main() -> None:
    """The console script."""
    signals.install(report=lambda: output.current().fail(KeyboardInterrupt()))
    try:
        streams.prepare()
        with signals.importing():
            from vpfb_cli.app import build
        code = run(build(), sys.argv[1:])
    except KeyboardInterrupt as interrupt:  # between the stretches that expect one
        code = output.current().fail(interrupt)
    signals.release()
    sys.exit(code)


def run(app: typer.Typer, argv: Sequence[str]) -> int:
    """Run a command line and return its exit code; whatever goes wrong has then been said."""
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
        if reader_gone:  # Typer, hearing of some other pipe; it has wrapped both streams
            sys.stdout, sys.stderr = stdout, stderr
            return output.current().fail(leaving.__context__ or leaving)
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException as error:
        return output.current().fail(error)
    return code


def _invoke(app: typer.Typer, argv: Sequence[str]) -> int:
    """Typer's part. It returns the code of `typer.Exit`, and 130 where it has swallowed a KeyboardInterrupt."""
    if not argv:  # help, because nothing was asked for; to stderr and as a usage error, because nothing was done
        with redirect_stdout(sys.stderr):
            app(["--help"], prog_name="vpfb", standalone_mode=False)
        return output.EXIT_USAGE
    code = app(list(argv), prog_name="vpfb", standalone_mode=False)
    if code == output.EXIT_INTERRUPTED:
        raise KeyboardInterrupt
    return code or 0


def _show_warning(message: Warning | str, *_place: object, **_more: object) -> None:
    """A library's warning in our own voice, without file, line and source."""
    output.current().warn(str(message))


if __name__ == "__main__":
    main()
