"""Where words go, in which mode, and with which exit code, tried on small apps through the handler that `vpfb` uses."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from vpfb_cli import app as cli
from vpfb_cli import output
from vpfb_cli.command_line import run
from vpfb_cli.options import Machine
from vpfb_cli.signals import Interrupted
from vpfb_core.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    DivergedError,
    LostProcessError,
    NoStepError,
    SolverError,
)

Capture = pytest.CaptureFixture[str]
Body = Callable[[output.Output], None]


class OutOfMemoryError(RuntimeError):
    """Named as torch's is."""


def vpfb(body: Body, *argv: str) -> int:
    """Run `vpfb try …`, a command that does `body`."""

    def try_(*, machine: Machine, say: output.Output) -> None:
        assert machine.seed >= 0
        body(say)

    return run(cli.build((try_,)), argv)


def raising(error: BaseException) -> Body:
    def body(_out: output.Output) -> None:
        raise error

    return body


def talking(out: output.Output) -> None:
    out.note("a note")
    out.warn("a warning")
    out.result({"output": Path("grid.png"), "n": 64}, "grid.png")


FAILURES = [
    (ConfigError("no such preset: 'tiny'", hint="presets: small, large"), 2, "config"),
    (ModuleNotFoundError("No module named 'torch_fidelity'", name="torch_fidelity"), 2, "missing"),
    (DataError("cannot read 'a.png'"), 3, "data"),
    (OSError(errno.ENOSPC, "No space left on device", "out.png"), 3, "data"),
    (PermissionError(errno.EACCES, "Permission denied", "out.png"), 3, "data"),
    (BrokenPipeError(errno.EPIPE, "Broken pipe"), 3, "data"),  # some pipe of ours, not stdout
    (CheckpointError("damaged: 'm.safetensors'"), 4, "checkpoint"),
    (DivergedError("loss is nan at step 7"), 5, "diverged"),
    (SolverError("3 of 64 samples did not arrive"), 5, "solver"),
    (NoStepError("the time budget of 1 s was over before the first step"), 5, "budget"),
    (LostProcessError("another process of this job has died"), 5, "process"),
    (MemoryError(), 5, "memory"),
    (OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB. GPU 0 has …"), 5, "memory"),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), 5, "memory"),
    (ValueError("shapes (3,) and (4,)"), 1, "internal"),
    (ModuleNotFoundError("No module named 'vpfb_core.typo'", name="vpfb_core.typo"), 1, "internal"),
    (AssertionError(), 1, "internal"),
    (KeyboardInterrupt(), 130, "interrupted"),
    (typer.Abort(), 130, "interrupted"),
    (Interrupted("stopped at step 7; saved in runs/001", hint="--resume auto continues"), 130, "interrupted"),
]
FAILURE_IDS = [f"{type(error).__name__}-{kind}" for error, _, kind in FAILURES]


@pytest.mark.parametrize(("error", "code", "kind"), FAILURES, ids=FAILURE_IDS)
def test_every_error_has_its_exit_code_and_at_most_two_lines(
    error: BaseException, code: int, kind: str, capsys: Capture
) -> None:
    assert vpfb(raising(error), "try") == code
    seen = capsys.readouterr()
    assert seen.out == ""
    assert seen.err.startswith("vpfb: ")
    assert 1 <= len(seen.err.splitlines()) <= 2
    assert "Traceback" not in seen.err
    assert ("this is a bug" in seen.err) == (kind == "internal")


@pytest.mark.parametrize(("error", "code", "kind"), FAILURES, ids=FAILURE_IDS)
def test_with_json_every_error_is_one_document(error: BaseException, code: int, kind: str, capsys: Capture) -> None:
    assert vpfb(raising(error), "try", "--json") == code
    document = json.loads(capsys.readouterr().out)
    assert set(document) == {"error"}
    assert set(document["error"]) == {"kind", "message", "hint", "exit_code"}
    assert document["error"]["kind"] == kind
    assert document["error"]["exit_code"] == code


@pytest.mark.parametrize(
    "argv",
    [["try", "--nope"], ["try", "--seed", "x"], ["try", "--seed", "-1"], ["try", "--device", "gpu"], ["try", "--seed"],
     ["tri"], ["try", "surplus"]],
)  # fmt: skip
@pytest.mark.parametrize("json_first", [True, False])
def test_a_usage_error_is_json_wherever_the_option_stands(argv: list[str], json_first: bool, capsys: Capture) -> None:
    argv = [argv[0], "--json", *argv[1:]] if json_first else [*argv, "--json"]
    assert vpfb(talking, *argv) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["kind"], error["exit_code"]) == ("usage", 2)
    assert "\n" not in error["message"]


def test_json_after_a_double_dash_is_an_argument(capsys: Capture) -> None:
    assert vpfb(talking, "try", "--", "--json") == 2
    assert capsys.readouterr().out == ""


def test_a_mistyped_command_or_option_brings_the_nearest_name(capsys: Capture) -> None:
    vpfb(talking, "tyr")
    assert "Did you mean 'try'?" in capsys.readouterr().err
    vpfb(talking, "try", "--devise", "cpu")
    assert "Did you mean --device?" in capsys.readouterr().err


def test_debug_shows_the_traceback_before_the_error(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VPFB_DEBUG", "1")
    assert vpfb(raising(ValueError("oops")), "try") == 1
    traceback, error = capsys.readouterr().err.split("vpfb: error:")
    assert "Traceback" in traceback
    assert "ValueError: oops" in error


def test_settings_that_the_library_names_are_options_as_they_are_typed(capsys: Capture) -> None:
    def body(out: output.Output) -> None:
        out.note("`channels=3` keeps the colour")
        out.warn("`micro_batch` is `ignored=1`")
        raise ConfigError("`n` and `rtol=1`: 'a`b'", hint="use `augment=none`, a smaller `batch_size` or `contrast=0`")

    cli.build()  # declares the options of all commands
    vpfb(body, "try")
    assert capsys.readouterr().err == (
        "--channels 3 keeps the colour\n"
        "vpfb: warning: micro_batch is --set ignored=1\n"
        "vpfb: error: -n and --rtol 1: 'a`b'\n  use --augment none, a smaller --batch-size or --set contrast=0\n"
    )


def test_results_go_to_stdout_and_words_to_stderr(capsys: Capture) -> None:
    assert vpfb(talking, "try") == 0
    assert capsys.readouterr() == ("grid.png\n", "a note\nvpfb: warning: a warning\n")


def test_quiet_leaves_only_the_result(capsys: Capture) -> None:
    assert vpfb(talking, "try", "-q") == 0
    assert capsys.readouterr() == ("grid.png\n", "")


def test_quiet_does_not_hide_errors(capsys: Capture) -> None:
    vpfb(raising(DataError("cannot read 'a.png'")), "try", "-q")
    assert capsys.readouterr().err == "vpfb: error: cannot read 'a.png'\n"


def test_json_overrides_quiet_and_quiet_still_silences_notes(capsys: Capture) -> None:
    assert vpfb(talking, "try", "-q", "--json") == 0
    assert capsys.readouterr() == ('{"output": "grid.png", "n": 64}\n', "")
    assert vpfb(talking, "try", "--json") == 0
    assert "a note" in capsys.readouterr().err


def test_json_is_strict_whatever_the_values(capsys: Capture) -> None:
    class Colour(Enum):
        RED = "red"

    values: dict[Any, Any] = {
        "nan": float("nan"), "inf": np.float32("inf"), "list": [1.5, -np.inf], "path": Path("a/b"), "array": np.eye(2),
        "int": np.int64(3), "bool": np.bool_(True), "double": np.float64(0.5), "none": None, "tuple": (1, "é"),
        "enum": Colour.RED, 7: True,
    }  # fmt: skip
    assert vpfb(lambda out: out.result(values, ""), "try", "--json") == 0
    text = capsys.readouterr().out
    assert "NaN" not in text
    assert "Infinity" not in text
    assert json.loads(text) == {
        "nan": None, "inf": None, "list": [1.5, None], "path": "a/b", "array": [[1.0, 0.0], [0.0, 1.0]],
        "int": 3, "bool": True, "double": 0.5, "none": None, "tuple": [1, "é"], "enum": "red", "7": True,
    }  # fmt: skip


def test_a_failure_after_the_result_does_not_make_a_second_document(capsys: Capture) -> None:
    def body(out: output.Output) -> None:
        talking(out)
        raise DataError("too late")

    assert vpfb(body, "try", "--json") == 3
    assert json.loads(capsys.readouterr().out) == {"output": "grid.png", "n": 64}


@pytest.mark.parametrize(
    ("rank", "agreed", "error", "spoken"),
    [
        (0, None, DataError("on every process"), True),
        (1, None, DataError("on every process"), False),
        (1, True, DataError("on this one"), True),
        (0, False, DataError("on another one"), False),
        (1, None, KeyError("a bug"), True),
    ],
)
def test_one_process_of_a_distributed_run_prints(
    rank: int, agreed: bool | None, error: Exception, spoken: bool, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "localhost"}
    for name, value in launched.items():
        monkeypatch.setenv(name, str(value))

    def body(out: output.Output) -> None:
        out.note("a word")
        if agreed is not None:
            error.reported_here = agreed  # type: ignore[attr-defined]
        raise error

    assert vpfb(body, "try", "--json") == (3 if isinstance(error, DataError) else 1)
    stdout, stderr = capsys.readouterr()
    assert ("a word" in stderr) == (rank == 0)
    assert ("vpfb: error:" in stderr) == spoken
    assert stdout.count("error") == (1 if rank == 0 else 0), "the document is the first one's"


def test_a_library_warning_is_one_line_in_the_format_of_vpfb(capsys: Capture) -> None:
    def body(_out: output.Output) -> None:
        warnings.warn("the driver\nis old", UserWarning, stacklevel=1)

    assert vpfb(body, "try") == 0
    assert capsys.readouterr().err == "vpfb: warning: the driver is old\n"


def test_a_path_is_printed_as_it_is_and_never_wrapped(capsys: Capture) -> None:
    path = "runs/[red]" + "x" * 300 + "/é.png"
    vpfb(lambda out: out.result({}, path), "try")
    assert capsys.readouterr().out == path + "\n"


def test_a_table_in_a_pipe_is_as_wide_as_its_content(capsys: Capture) -> None:
    vpfb(lambda out: out.result({}, output.table(["name", "path"], [["[a]", "p" * 200], ["b", 3]])), "try")
    assert capsys.readouterr().out == f"name  path\n[a]   {'p' * 200}\nb     3\n"


def test_control_characters_of_a_file_name_are_escapes_on_the_terminal(capsys: Capture) -> None:
    vpfb(raising(DataError("cannot read 'a\x1b[31m\nb.png'")), "try")
    assert capsys.readouterr().err == "vpfb: error: cannot read 'a\\x1b[31m\\nb.png'\n"


def test_no_arguments_mean_help_on_stderr_and_a_usage_error(capsys: Capture) -> None:
    assert vpfb(talking) == 2
    seen = capsys.readouterr()
    assert seen.out == ""
    assert "Usage: vpfb" in seen.err


def test_a_picture_and_json_cannot_share_stdout(capsys: Capture) -> None:
    assert vpfb(lambda out: out.binary_stdout("-o -")(b"PNG"), "try", "--json") == 2
    assert "-o -" in json.loads(capsys.readouterr().out)["error"]["message"]


# --- the streams of a real process -----------------------------------------------------------------------------------

PROGRAM = """
import sys
from vpfb_cli import __main__, app, output

def try_(out: output.Output) -> None:
    out.note("a n\\u00f6te")
    if "BINARY" in __import__("os").environ:
        out.binary_stdout("-o -")(b"\\x89PNG\\r\\n")
    if "TABLE" in __import__("os").environ:
        out.result({}, "file\\nn\u00e9\u65e5\\n".encode() + b"\\xff.png\\n")
    out.result({"output": "gr\\u00efd\\udcff"}, "gr\\u00efd\\udcff")

build = app.build
app.build = lambda: build((try_,))
__main__.main()
"""


def process(argv: list[str], **popen: Any) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, **popen.pop("env", {})}
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **popen}
    return subprocess.run([sys.executable, "-c", PROGRAM, *argv], env=environment, timeout=30, **streams)


@pytest.mark.parametrize("argv", [["try"], ["try", "--json"], ["--help"], ["try", "--nope", "--json"]])
def test_a_closed_pipe_is_no_error(argv: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = process(argv, stdout=writer)
    os.close(writer)
    assert done.returncode == (2 if "--nope" in argv else 0)
    assert not any(word in done.stderr for word in [b"Traceback", b"Broken pipe", b"Exception ignored"])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("argv", [["try"], ["try", "--json"], ["--help"]])
def test_a_full_disk_below_stdout_is_a_data_error(argv: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = process([*argv], stdout=full)
    assert done.returncode == 3
    assert b"No space left on device" in done.stderr
    assert not any(word in done.stderr for word in [b"Traceback", b"Exception ignored"])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_stderr_that_takes_nothing_does_not_fail_the_command() -> None:
    with Path("/dev/full").open("w") as full:
        done = process(["try"], stderr=full)
    assert (done.returncode, done.stdout.startswith(b"gr")) == (0, True)


@pytest.mark.parametrize("closing", [">&-", "2>&-", ">&- 2>&-"])
def test_streams_closed_from_the_start_do_not_fail_the_command(closing: str) -> None:
    command = [sys.executable, "-c", PROGRAM, "try"]
    done = subprocess.run(["sh", "-c", f'exec "$@" {closing}', "sh", *command], timeout=30, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize("argv", [["try"], ["--help"]])
def test_an_ascii_terminal_gets_escapes_and_ascii_boxes(argv: list[str]) -> None:
    done = process(argv, env={"PYTHONIOENCODING": "ascii", "GITHUB_ACTIONS": ""})
    assert done.returncode == 0
    if argv == ["--help"]:
        assert done.stdout.isascii()
        assert b"+-" in done.stdout
    else:
        assert done.stdout == b"gr\\xefd\xff\n"  # the undecodable byte of a file name stays that byte
        assert done.stderr == b"a n\\xf6te\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_table_on_stdout_has_the_bytes_of_the_file_whatever_the_encoding(encoding: str) -> None:
    done = process(["try"], env={"TABLE": "1", "PYTHONIOENCODING": encoding})
    assert done.stdout == "file\nné日\n".encode() + b"\xff.png\n"


@pytest.mark.parametrize("argv", [["--json", "--help"], ["try", "--json", "--help"], ["--json", "try", "-h"]])
def test_help_with_json_is_one_document(argv: list[str], capsys: Capture) -> None:
    assert vpfb(talking, *argv) == 0
    assert "Usage: vpfb" in json.loads(capsys.readouterr().out)["help"]


@pytest.mark.parametrize("argv", [["--json", "try"], ["try", "--json"]])
def test_json_may_come_before_the_command(argv: list[str], capsys: Capture) -> None:
    assert vpfb(talking, *argv) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 64


def test_bytes_of_a_name_that_are_not_text_are_escapes_in_json(capsys: Capture) -> None:
    document = {"output": Path("caf\udce9/😀.png"), "files": {"\udcff": ["\udc80"]}}
    assert vpfb(lambda out: out.result(document, ""), "try", "--json") == 0
    assert vpfb(raising(DataError("cannot read 'caf\udce9'", hint="\udcff")), "try", "--json") == 3
    result, error = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert result == {"output": "caf\\xe9/😀.png", "files": {"\\xff": ["\\x80"]}}
    assert (error["error"]["message"], error["error"]["hint"]) == ("cannot read 'caf\\xe9'", "\\xff")


def test_bytes_on_stdout_are_those_of_the_file_and_nothing_else() -> None:
    assert process(["try"], env={"BINARY": "1"}).stdout == b"\x89PNG\r\n"
