"""Progress: what is shown where, how often, and that it never stands in the way of the run."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys

import pytest

from vpfb_cli import progress as module
from vpfb_cli.output import Output
from vpfb_cli.progress import PlainBar, progress

Capture = pytest.CaptureFixture[str]


class Clock:
    """Time that passes when told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def run_for(clock: Clock, out: Output, seconds: int) -> int:
    """A loop of one step a second; returns how often the fields were worked out."""
    asked = 0

    def fields() -> dict[str, object]:
        nonlocal asked
        asked += 1
        return {"step": f"{step}/{seconds}", "loss": 0.123456}

    with progress(out, "training") as bar:
        for step in range(1, seconds + 1):
            clock.now += 1
            bar.update(step / seconds, fields)
    return asked


def test_without_a_terminal_there_are_plain_lines_at_intervals_and_one_at_the_end(
    clock: Clock, capsys: Capture
) -> None:
    run_for(clock, Output(), 25)
    assert capsys.readouterr() == (
        "",
        "training: 40%, step 10/25, loss 0.1235, 15 s left\n"
        "training: 80%, step 20/25, loss 0.1235, 5.0 s left\n"
        "training: 100%, step 25/25, loss 0.1235, in 25 s\n",
    )


def test_the_end_is_shown_once_even_when_it_falls_on_an_interval(clock: Clock, capsys: Capture) -> None:
    run_for(clock, Output(), 20)
    assert capsys.readouterr().err.count("100%") == 1


def test_fields_are_computed_only_when_they_are_shown(clock: Clock) -> None:
    assert run_for(clock, Output(), 100) == 10


def test_quiet_shows_nothing_and_computes_no_fields(clock: Clock, capsys: Capture) -> None:
    assert run_for(clock, Output(quiet=True), 100) == 0
    assert run_for(clock, Output(primary=False), 100) == 0
    assert capsys.readouterr() == ("", "")


def test_json_keeps_progress_on_stderr(clock: Clock, capsys: Capture) -> None:
    run_for(clock, Output(json_mode=True), 15)
    seen = capsys.readouterr()
    assert seen.out == ""
    assert "66%" in seen.err or "67%" in seen.err


def test_the_time_left_counts_from_where_a_resumed_run_began(clock: Clock) -> None:
    lines: list[str] = []
    bar = PlainBar("training", lines.append)
    for second in range(11):
        bar.update(0.5 + second / 100)
        clock.now += 1
    assert lines == ["training: 60%, 40 s left"]


def test_the_time_left_follows_a_change_of_pace(clock: Clock) -> None:
    lines: list[str] = []
    bar = PlainBar("training", lines.append)
    fraction = 0.0
    for second in range(400):
        fraction += 1e-4 if second < 200 else 1e-3  # slow while compiling
        bar.update(fraction)
        clock.now += 1
    seconds_left = (1 - fraction) / 1e-3
    minutes, _, seconds, *_ = lines[-1].split(", ")[1].split()
    assert int(minutes) * 60 + int(seconds) == pytest.approx(seconds_left, rel=0.05)


def test_a_run_that_stands_still_shows_no_time_left(clock: Clock) -> None:
    lines: list[str] = []
    bar = PlainBar("training", lines.append)
    for _ in range(12):
        bar.update(0.0)
        clock.now += 1
    assert lines == ["training: 0%, time left unknown"]


def test_an_error_inside_passes_through_and_ends_the_bar_silently(capsys: Capture) -> None:
    with pytest.raises(ValueError, match="from the loop"), progress(Output(), "training") as bar:
        bar.update(0.5, lambda: {"loss": 1 / 0})
        raise ValueError("from the loop")
    assert capsys.readouterr().err == ""


def test_a_closed_stderr_does_not_fail_the_run(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    run_for(clock, Output(), 15)


PROGRAM = """
import os, sys, time
from vpfb_cli import streams
from vpfb_cli.output import Output
from vpfb_cli.progress import progress
streams.prepare()
out = Output()
with progress(out, "training") as bar:
    for step in range(4):
        time.sleep(0.13)
        bar.update((step + 1) / 4, {"step": step + 1})
        if step == 1:
            out.note("NOTE")
out.result({}, "RESULT")
"""


def on_a_terminal(**environment: str) -> str:
    """What a person sees of PROGRAM on an 80-column terminal."""
    controller, terminal = pty.openpty()
    variables = {"TERM": "xterm", "COLUMNS": "80", **environment}
    inherited = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLUMNS", "TERM")}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stderr=terminal, stdout=subprocess.PIPE, env=inherited | variables
    ) as child:
        os.close(terminal)
        seen = b""
        try:
            while chunk := os.read(controller, 4096):
                seen += chunk
        except OSError:  # Linux: the other end has closed
            pass
        assert child.stdout is not None
        assert child.stdout.read() == b"RESULT\n"
    os.close(controller)
    assert child.returncode == 0
    return seen.decode()


def test_a_terminal_gets_a_bar_and_the_notes_above_it_and_its_cursor_back() -> None:
    seen = on_a_terminal()
    assert "━" in seen
    assert "NOTE\r\n" in seen
    assert "100%, in " in seen
    assert seen.count("\x1b[?25l") == seen.count("\x1b[?25h") == 1


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_a_simple_terminal_gets_plain_lines(environment: dict[str, str]) -> None:
    seen = on_a_terminal(**environment)
    assert "\x1b" not in seen
    assert "training: 100%, step 4, in " in seen


def test_an_ascii_terminal_gets_an_ascii_bar() -> None:
    seen = on_a_terminal(PYTHONIOENCODING="ascii")
    assert seen.isascii()
    assert "----" in seen


def test_a_terminal_that_goes_away_does_not_fail_the_run() -> None:
    controller, terminal = pty.openpty()
    inherited = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stderr=terminal, stdout=subprocess.PIPE, env={**inherited, "TERM": "xterm"}
    ) as child:
        os.close(terminal)
        os.read(controller, 4096)  # the bar has begun
        os.close(controller)
        assert child.stdout is not None
        assert child.stdout.read() == b"RESULT\n"
    assert child.returncode == 0
