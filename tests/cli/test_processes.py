"""What only a process of its own can show: streams and signals; `test_survival.py` has what a run survives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "vpfb_cli"]
TRAIN = ["train", "--data", "digits", "--set", "widths=[8, 8]", "--batch-size", "8", "--threads", "1", "--out", "run",
         "--save-every", "5", "--set", "log_every=5"]  # fmt: skip


def start(folder: Path, *argv: str) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VPFB_")}
    return subprocess.Popen(
        [*COMMAND, *argv], cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def wait_for(condition: object, child: subprocess.Popen[str], seconds: float = 90) -> None:
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert child.poll() is None, child.communicate()[1]
        assert time.monotonic() < end, "it never came so far"
        time.sleep(0.05)


def steps_logged(folder: Path) -> int:
    try:
        return int((folder / "run" / "log.csv").read_text().splitlines()[-1].split(",")[0])
    except (OSError, IndexError, ValueError):
        return 0


def test_a_picture_on_stdout_is_a_png_and_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    line = f"{sys.executable} -m vpfb_cli sample -n 4 --nfe 3 -q -o -"
    shown = subprocess.run(["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, check=True)
    assert shown.stdout.startswith(b"\x89PNG\r\n")
    assert shown.stderr == b""
    piped = ["bash", "-c", f"set -o pipefail; {line} | true"]
    closed = subprocess.run(piped, cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert (closed.returncode, closed.stderr) == (0, b"")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_run_and_resuming_gives_the_uninterrupted_result(
    number: signal.Signals, tmp_path: Path
) -> None:
    from vpfb_core.machine import container as checkpoint

    child = start(tmp_path, *TRAIN, "--steps", "100000")
    wait_for(lambda: steps_logged(tmp_path) >= 10, child)
    child.send_signal(number)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 130, errors
    assert "saved in run" in errors
    state = checkpoint.read(tmp_path / "run" / "state.safetensors", "state")
    assert state.document["counters"]["step"] >= 10
    assert (tmp_path / "run" / "model.safetensors").is_file()
