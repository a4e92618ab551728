"""All output of a command: results and JSON to stdout, notes and errors to stderr, exceptions as exit codes.

Human, JSON and quiet are modes of `Output`, so that no command needs to know its mode.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import Enum
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from vpfb_cli import streams
from vpfb_core.errors import ConfigError, DataError, VPFBError, is_out_of_memory
from vpfb_core.machine.file_names import as_unicode, is_byte, visible
from vpfb_core.machine.launch import process_rank

if TYPE_CHECKING:
    import typer
    from rich.console import RenderableType

EXIT_INTERNAL, EXIT_USAGE, EXIT_DATA, EXIT_MODEL, EXIT_RUN, EXIT_INTERRUPTED = 1, 2, 3, 4, 5, 130

_EXIT_BY_KIND = {
    "config": EXIT_USAGE,
    "missing": EXIT_USAGE,
    "data": EXIT_DATA,
    "checkpoint": EXIT_MODEL,
    "diverged": EXIT_RUN,
    "solver": EXIT_RUN,
    "memory": EXIT_RUN,
    "budget": EXIT_RUN,
    "process": EXIT_RUN,
    "interrupted": EXIT_INTERRUPTED,
}


class Output:
    """The output of a command.

    Args:
        json_mode: whether stdout gets one JSON document and nothing else.
        quiet: whether only the result and errors are printed.
        primary: whether this is the first process of a distributed run, the only one that prints.
    """

    def __init__(self, *, json_mode: bool = False, quiet: bool = False, primary: bool = True) -> None:
        self.talkative = primary and not quiet
        self._primary = primary
        self.json_mode = json_mode
        self._stdout_taken = not primary
        self.options: Collection[str] = ()  # of the command, such as "--batch-size"

    def result(self, document: Mapping[str, Any], text: str | bytes | RenderableType) -> None:
        """Print the result, once at the end of a command: the document in JSON mode, else the text or table.

        Bytes are the content of a text file in UTF-8. They are written unchanged, except to a terminal.
        """
        if self._stdout_taken:
            return
        self._stdout_taken = True
        if self.json_mode:
            streams.write_stdout(json.dumps(jsonable(document), allow_nan=False))
        elif isinstance(text, bytes) and not streams.is_terminal(sys.stdout):
            streams.write_stdout_bytes(text)
        elif isinstance(text, bytes):
            streams.write_stdout(text.decode("utf-8", "surrogateescape").removesuffix("\n"))
        else:
            streams.write_stdout(text if isinstance(text, str) else streams.rendered(text))

    def require_free_stdout(self, option: str) -> None:
        """Refuse an option that writes to stdout in JSON mode."""
        if self.json_mode:
            raise ConfigError(f"{option} and --json both write to stdout", hint="write to a file, or leave --json out")

    def binary_stdout(self, option: str) -> Callable[[bytes], None]:
        """Reserve stdout for the bytes of a file (`-o -`), before the work begins.

        Returns:
            The function that writes the bytes.
        """
        self.require_free_stdout(option)
        if streams.is_terminal(sys.stdout):
            raise ConfigError(f"{option} would write binary data to the terminal", hint="redirect it: ... > FILE")
        taken, self._stdout_taken = self._stdout_taken, True
        return _drop if taken else streams.write_stdout_bytes

    def note(self, text: str) -> None:
        """Print information on stderr, in one or several lines."""
        if self.talkative:
            streams.write_stderr("\n".join(map(_harmless, in_options(text).split("\n"))))

    def warn(self, text: str) -> None:
        """Print a warning on stderr, in one line."""
        if self.talkative:
            streams.write_stderr(f"vpfb: {streams.painted('warning:', '33', sys.stderr)} {_one_line(in_options(text))}")

    def fail(self, error: BaseException) -> int:
        """Print an error and return the exit code. Every exception of a command is passed to this function."""
        failure = describe(error, self.options)
        if os.environ.get("VPFB_DEBUG", "0") not in ("", "0"):
            streams.write_stderr("".join(traceback.format_exception(error)).rstrip())
        if self._reports(error):
            streams.write_stderr(_sentence(failure))
        if self.json_mode and not self._stdout_taken:
            self._stdout_taken = True
            with suppress(streams.StdoutClosedError, DataError):  # the first failure is the one to report
                streams.write_stdout(json.dumps(jsonable({"error": asdict(failure)})))
        return failure.exit_code

    def _reports(self, error: BaseException) -> bool:
        """Whether this process of a distributed run prints the error.

        An error that the processes exchanged says whether it is reported here. Before their first exchange an error is
        the same on all of them, and the first prints it. A bug is printed wherever it occurs.
        """
        agreed: bool | None = getattr(error, "reported_here", None)
        return agreed if agreed is not None else self._primary or describe(error).kind == "internal"


_current: Output | None = None


def start(*, json_mode: bool, quiet: bool = False) -> Output:
    """Start the output of a command, which is then the current output."""
    global _current
    _current = Output(json_mode=json_mode, quiet=quiet, primary=process_rank().first)
    return _current


def current() -> Output:
    """The output that was started last; if there is none, a new one for the command line of the process."""
    return _current or start(json_mode=asks_for_json(sys.argv[1:]))


def asks_for_json(argv: Iterable[str]) -> bool:
    """Whether --json is among the options, even if the command line cannot be parsed."""
    return "--json" in takewhile(lambda argument: argument != "--", argv)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> RenderableType:
    """A table for `Output.result`. Figures are passed as text, already rounded."""
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", show_header=any(columns))
    for column in columns:
        grid.add_column(Text(column))
    for row in rows:
        grid.add_row(*(Text(_harmless(str(cell))) for cell in row))
    return grid


@dataclass(frozen=True)
class Failure:
    """The description of an error for people and scripts."""

    kind: str
    message: str
    hint: str | None
    exit_code: int


def describe(error: BaseException, options: Collection[str] = ()) -> Failure:
    """The description of an exception. No other function chooses exit codes.

    Args:
        error: the exception.
        options: the options of the command, of which a hint may name some.
    """
    if isinstance(error, VPFBError):
        hint = error.hint and in_options(error.hint)
        return Failure(error.kind, in_options(error.message), hint, _EXIT_BY_KIND.get(error.kind, EXIT_INTERNAL))
    if isinstance(error, KeyboardInterrupt):
        return Failure("interrupted", "interrupted", None, EXIT_INTERRUPTED)
    import typer  # after the interrupt, which can occur during this import

    if isinstance(error, typer.Abort):
        return describe(KeyboardInterrupt())
    if isinstance(error, typer.TyperException):
        return Failure("usage", _usage_message(error), _usage_hint(error), EXIT_USAGE)
    if is_out_of_memory(error):
        message = _one_line(f"out of memory: {str(error) or type(error).__name__}".split(". ")[0])
        return Failure("memory", message, _memory_hint(options), EXIT_RUN)
    if isinstance(error, OSError):
        where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        return Failure("data", f"{where}{error.strerror or error}", None, EXIT_DATA)
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("vpfb"):
        return Failure("missing", f"the package {error.name!r} is not installed", "install it with pip", EXIT_USAGE)
    message = _one_line(f"{type(error).__name__}: {error}").removesuffix(":")
    return Failure("internal", message, "this is a bug; VPFB_DEBUG=1 shows the traceback", EXIT_INTERNAL)


def _memory_hint(options: Collection[str]) -> str:
    """What a command with these options can do with less memory."""
    helpful = [name for name in ("--batch-size", "--size", "--limit", "-n") if name in options][:2]
    return f"try a smaller {' or '.join(helpful)}" if helpful else "end other programs, or use a machine with more"


# The names of all options of the command line, which `options.option` adds where it declares them.
DECLARED: set[str] = set()


def in_options(text: str) -> str:
    """A text of `vpfb_core` in which settings in backquotes are options as they are typed.

    `name` becomes --name, `name=value` becomes --name value, or --set name=value if no command has such an option.
    """
    return re.sub(r"`([a-z_]+)(?:=([^`]*))?`", _as_option, text)


def _as_option(setting: re.Match[str]) -> str:
    name, value = setting.groups()
    spelled = "-n" if name == "n" else f"--{name.replace('_', '-')}"
    if spelled in DECLARED:
        return spelled if value is None else f"{spelled} {value}"
    return name if value is None else f"--set {name}={value}"


def jsonable(value: Any) -> Any:
    """A value for strict JSON: NaN and infinity become null, paths text, arrays and tensors lists or numbers.

    Bytes of a file name that are not text become escapes, since JSON is Unicode.
    """
    if value is None or type(value) in (bool, int):
        return value
    if isinstance(value, str):
        return as_unicode(value)
    if isinstance(value, Enum):
        return jsonable(value.value)
    if isinstance(value, os.PathLike):
        return as_unicode(os.fsdecode(value))
    if isinstance(value, Mapping):
        return {as_unicode(str(key)): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if hasattr(value, "tolist"):
        return jsonable(value.tolist())
    raise TypeError(f"a {type(value).__name__} cannot be written as JSON: {value!r}")


def _sentence(failure: Failure) -> str:
    """The failure in one or two lines."""
    message, hint = _harmless(failure.message), f"\n  {_harmless(failure.hint)}" if failure.hint else ""
    if failure.kind == "interrupted":
        after_the_echo_of_ctrl_c = "\n" if streams.is_terminal(sys.stderr) else ""
        return f"{after_the_echo_of_ctrl_c}vpfb: {message}{hint}"
    return f"vpfb: {streams.painted('error:', '1;31', sys.stderr)} {message}{hint}"


def _one_line(text: str) -> str:
    """The text of a library, whose lines are joined."""
    return _harmless(re.sub(r"\s*\n\s*", " ", text.strip()))


def _harmless(text: str) -> str:
    """Text without control characters, which a file or its name could send to the terminal.

    Bytes that are not text stay, as in the name of the file.
    """
    return "".join(character if is_byte(character) else visible(character) for character in text)


def _usage_message(error: typer.TyperException) -> str:
    near = getattr(error, "possibilities", None)  # of an option that does not exist
    return f"{error.message}. Did you mean {' or '.join(near)}?" if near else _one_line(error.format_message())


def _usage_hint(error: BaseException) -> str:
    command = getattr(getattr(error, "ctx", None), "command_path", "vpfb")
    return f"see '{command} --help'"


def _drop(_data: bytes) -> None:
    pass
