"""Ctrl-C and SIGTERM in real processes: exit code 130 at whatever moment they come, and never a traceback."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from vpfb_cli.signals import ONE_REQUEST_SECONDS

ALL = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=["INT", "TERM", "HUP"])


@pytest.fixture(autouse=True)
def hangup_ends_processes() -> Iterator[None]:
    """SIGHUP as a terminal has it, also where the tests themselves run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


# A command for each moment; each says READY on stderr when the moment has come.
PROGRAM = """
import sys, time
from vpfb_cli import __main__, app, output, signals
from vpfb_cli.output import Output
from vpfb_cli.progress import progress
from vpfb_core.errors import DataError

def ready():
    print("READY", file=sys.stderr, flush=True)

def swallowing():
    ready()
    try:
        time.sleep(20)
    except KeyboardInterrupt:
        pass

def importing(out: Output) -> None:
    with signals.importing():
        swallowing()
    print("went on")

def working(out: Output) -> None:
    with signals.importing():
        import colorsys
    try:
        ready()
        time.sleep(20)
    finally:
        print("TIDIED", file=sys.stderr)

def training(out: Output) -> None:
    with signals.graceful(out.note) as stop, progress(out, "training") as bar:
        for step in range(200):
            bar.update(step / 200)
            if step == 1:
                ready()
            time.sleep(0.1)
            if stop():
                break
    if stop():
        raise signals.Interrupted("stopped and saved", hint="--resume auto continues")

def slow_step(out: Output) -> None:
    with signals.graceful(out.note) as stop:
        ready()
        sys.stdin.readline()
    if stop():
        raise signals.Interrupted("stopped and saved", hint="--resume auto continues")

build = app.build
app.build = lambda: build((importing, working, training, slow_step))
__main__.main()
"""


def start(*argv: str) -> subprocess.Popen[str]:
    """The program, once its moment has come."""
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *argv],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stderr is not None
    for line in child.stderr:
        if line == "READY\n":
            break
    return child


def end(child: subprocess.Popen[str]) -> tuple[int, str, str]:
    """What it leaves. A slow step ends here, where its stdin is closed."""
    out, err = child.communicate(timeout=15)
    assert "Traceback" not in err
    return child.returncode, out, err


@ALL
def test_a_signal_during_an_import_that_swallows_it_ends_the_process_at_once(number: signal.Signals) -> None:
    child = start("importing")
    child.send_signal(number)
    assert end(child) == (130, "", "vpfb: interrupted\n")


def test_a_signal_during_an_import_still_makes_a_json_document() -> None:
    child = start("importing", "--json")
    child.send_signal(signal.SIGINT)
    code, out, _ = end(child)
    assert code == 130
    assert json.loads(out)["error"] == {"kind": "interrupted", "message": "interrupted", "hint": None, "exit_code": 130}


AS_A_MODULE = "import runpy; runpy.run_module('vpfb_cli', run_name='__main__')"
AS_A_SCRIPT = "from vpfb_cli.__main__ import main; main()"
ON_IMPORT = """
import os, sys
def hook(event, about):
    if event == "import" and about[0] == "{module}":
        os.kill(os.getpid(), {number})
sys.addaudithook(hook)
{started}
"""


@ALL
@pytest.mark.parametrize("started", [AS_A_MODULE, AS_A_SCRIPT], ids=["module", "script"])
@pytest.mark.parametrize("module", ["vpfb_cli.output", "typer.main"])
def test_a_signal_during_the_first_imports_ends_the_process_like_any_other(
    number: signal.Signals, started: str, module: str
) -> None:
    program = ON_IMPORT.format(number=int(number), module=module, started=started)
    done = subprocess.run(
        [sys.executable, "-c", program, "info", "--json"], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (130, "vpfb: interrupted\n")
    assert json.loads(done.stdout)["error"]["kind"] == "interrupted"


def test_a_signal_while_the_commands_are_built_ends_with_exit_code_130(tmp_path: Path) -> None:
    """After a signal in `eval`, by which annotations are read, Python ends `-m` as if nothing had caught it."""
    (tmp_path / "interrupted.py").write_text(f"""
import os
from vpfb_cli import options
options._usages = lambda _: eval("os.kill(os.getpid(), {int(signal.SIGTERM)}) or [None for _ in range(9)]")
{AS_A_SCRIPT}
""")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-m", "interrupted"], capture_output=True, text=True, timeout=30, check=False, env=environment
    )
    assert (done.returncode, done.stderr) == (130, "vpfb: interrupted\n")


def test_the_program_leaves_no_signal_blocked() -> None:
    program = """
import signal, sys
before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
from vpfb_cli.__main__ import main
sys.argv = ["vpfb", "--version"]
try:
    main()
finally:
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
"""
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=30)


@ALL
def test_a_signal_during_the_work_unwinds_it_and_exits_130(number: signal.Signals) -> None:
    child = start("working")
    child.send_signal(number)
    assert end(child) == (130, "", "TIDIED\nvpfb: interrupted\n")


@ALL
def test_training_stops_after_the_step_and_says_so(number: signal.Signals) -> None:
    child = start("training", "--json")
    child.send_signal(number)
    code, out, err = end(child)
    assert code == 130
    assert err.startswith("stopping after this step; press Ctrl-C again to stop at once\n")
    assert err.endswith("vpfb: stopped and saved\n  --resume auto continues\n")
    assert json.loads(out)["error"]["message"] == "stopped and saved"


def test_quiet_training_stops_without_the_note() -> None:
    child = start("training", "-q")
    child.send_signal(signal.SIGINT)
    assert end(child) == (130, "", "vpfb: stopped and saved\n  --resume auto continues\n")


def test_a_second_signal_stops_at_once() -> None:
    child = start("slow-step")
    child.send_signal(signal.SIGINT)
    assert child.stderr is not None
    assert child.stderr.readline().startswith("stopping after this step")
    time.sleep(0.7)
    child.send_signal(signal.SIGINT)
    assert end(child) == (130, "", "vpfb: interrupted\n")


def test_one_request_sent_twice_is_still_one() -> None:
    child = start("slow-step")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):  # as `timeout` and wrappers do
        child.send_signal(number)
    code, _, err = end(child)
    assert code == 130
    assert "stopped and saved" in err


def test_a_terminal_that_is_closed_twice_is_one_request() -> None:
    child = start("slow-step")
    child.send_signal(signal.SIGHUP)
    assert child.stderr is not None
    assert child.stderr.readline().startswith("stopping after this step")
    time.sleep(ONE_REQUEST_SECONDS + 0.1)
    child.send_signal(signal.SIGHUP)
    assert end(child) == (130, "", "vpfb: stopped and saved\n  --resume auto continues\n")


def test_a_closed_terminal_stops_training_after_the_step(tmp_path: Path) -> None:
    leave_a_file = f"open({str(tmp_path / 'stopped')!r}, 'w').close()"
    stopped = PROGRAM.replace("    if stop():\n        raise", f"    if stop():\n        {leave_a_file}\n        raise")
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", stopped, "training"])
    seen = b""
    while b"READY" not in seen:
        seen += os.read(terminal, 1000)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130
    assert (tmp_path / "stopped").exists()


def test_under_nohup_a_closed_terminal_stops_nothing() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does for its child
    try:
        child = start("training")
    finally:
        signal.signal(signal.SIGHUP, before)
    child.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert child.poll() is None
    child.send_signal(signal.SIGTERM)
    assert end(child)[0] == 130


def test_handlers_of_the_caller_are_back_after_each_stretch() -> None:
    from vpfb_cli import signals

    before = signal.getsignal(signal.SIGINT)
    with signals.importing():
        assert signal.getsignal(signal.SIGINT) is not before
        with signals.graceful(str) as stop:
            assert not stop()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_note_that_cannot_be_given_in_the_handler_is_given_at_the_step() -> None:
    from vpfb_cli import signals

    said: list[str] = []

    def note(text: str) -> None:
        said.append(text)
        if len(said) == 1:
            raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stderr>'>")

    with signals.graceful(note) as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop()
        assert stop()
    assert len(said) == 2


def test_python_m_and_the_console_script_name_are_the_same_program() -> None:
    done = subprocess.run([sys.executable, "-m", "vpfb_cli", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("vpfb ")
    script = Path(sys.executable).with_name("vpfb")
    if script.exists():
        assert subprocess.run([script, "--version"], capture_output=True, text=True, check=True).stdout == done.stdout
