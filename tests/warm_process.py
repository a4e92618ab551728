"""Command lines in processes of their own that need not import torch first: forks of one process that has.

They can be killed and starved for real, in a fraction of a second each. A fault comes at a chosen operation on files:
the openings for writing, renames, removals and new folders below the current folder, and every fsync, in their order.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from short_runs import shorten

_RENAMING = {"os.rename", "os.remove", "os.mkdir"}


@dataclass(frozen=True)
class Ended:
    """How a process ended: exit code (negative: the signal), streams, operations on files until then, and its time."""

    code: int
    out: str
    err: str
    operations: int
    seconds: float


class WarmProcess:
    """The process that is forked."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def run(
        self,
        folder: Path,
        *argv: str,
        kill_at: int | None = None,
        interrupt_at: int | None = None,
        fails: tuple[int, int] | None = None,
        largest_file: int | None = None,
        send: tuple[float, int] | None = None,
    ) -> Ended:
        """`vpfb argv` in a folder.

        Args:
            kill_at: SIGKILL in front of this operation, counted from 1.
            interrupt_at: SIGINT in front of this operation.
            fails: (operation, errno): this operation and all after it fail so.
            largest_file: bytes that a file may have (RLIMIT_FSIZE).
            send: (seconds, signal): sent to the process so long after its start.
        """
        request = {
            "folder": str(folder), "argv": argv, "kill_at": kill_at, "interrupt_at": interrupt_at, "fails": fails,
            "largest_file": largest_file, "send": send,
        }  # fmt: skip
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        return Ended(**json.loads(self._server.stdout.readline()))

    def close(self) -> None:
        self._server.communicate()


@contextlib.contextmanager
def warm_process() -> Iterator[WarmProcess]:
    process = WarmProcess()
    try:
        yield process
    finally:
        process.close()


# --- in the process that is forked ------------------------------------------------------------------------------------


def _serve() -> None:
    import torch
    import torch._dynamo  # of the optimiser: half of what else is imported later

    import vpfb_core.uses.ood  # noqa: F401
    from vpfb_cli.app import build
    from vpfb_cli.command_line import run

    torch.set_num_threads(1)
    shorten()
    with contextlib.redirect_stdout(io.StringIO()):
        run(build(), ["train", "--data", "digits", "--dry-run", "-q"])  # imports what a command needs
    for line in sys.stdin:
        print(json.dumps(_forked(json.loads(line))), flush=True)


def _forked(request: dict[str, Any]) -> dict[str, Any]:
    folder = Path(request["folder"])
    streams = [folder.parent / f"{folder.name}.{name}" for name in ("out", "err", "operations")]
    for stream in streams:
        stream.write_bytes(b"")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))  # until the command hears them
    began, child = time.monotonic(), os.fork()
    if not child:
        _become(request, *streams)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if request["send"]:
        time.sleep(request["send"][0])
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, request["send"][1])
    _, status = os.waitpid(child, 0)
    seconds, code = time.monotonic() - began, os.waitstatus_to_exitcode(status)
    out, err, operations = (stream.read_text() for stream in streams)
    return {"code": code, "out": out, "err": err, "operations": len(operations), "seconds": seconds}


def _become(request: dict[str, Any], out: Path, err: Path, operations: Path) -> None:
    """Be the command, and end."""
    from vpfb_cli import __main__, output, signals

    os.chdir(request["folder"])
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY), number)
    counted = os.open(operations, os.O_WRONLY)
    if request["largest_file"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["largest_file"], resource.RLIM_INFINITY))
    _watch(counted, request)
    sys.argv = ["vpfb", *request["argv"]]
    signals.install(report=lambda: output.current().fail(KeyboardInterrupt()))
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
        __main__.main()
    except SystemExit as leaving:
        code = int(leaving.code or 0)
    except KeyboardInterrupt:  # in the line before main, where none is expected
        code = 130
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _watch(counted: int, request: dict[str, Any]) -> None:
    """Count operations, one byte each in a file, and let the fault happen."""
    below, count, fsync, fails = f"{Path.cwd()}{os.sep}", 0, os.fsync, request["fails"]
    sent = {request["kill_at"]: signal.SIGKILL, request["interrupt_at"]: signal.SIGINT}

    def operation() -> None:
        nonlocal count
        count += 1
        if count in sent:
            os.kill(os.getpid(), sent[count])
        if fails is not None and count >= fails[0]:
            raise OSError(fails[1], os.strerror(fails[1]))
        os.write(counted, b".")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        writing = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (writing or event in _RENAMING) and isinstance(arguments[0], str | os.PathLike):
            path = os.path.abspath(arguments[0])  # noqa: PTH100 (nothing is looked up)
            if path.startswith(below):
                operation()

    def counted_fsync(fd: Any) -> None:
        operation()
        fsync(fd)

    os.fsync = counted_fsync
    sys.addaudithook(hook)


if __name__ == "__main__":
    _serve()
