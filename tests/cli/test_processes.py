"""What only a process of its own can show: its streams and its imports; `test_survival.py` has what a run survives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

COMMAND = [sys.executable, "-m", "vpfb_cli"]
SAMPLE = ["sample", "-n", "2", "--nfe", "2", "-q", "-o", "-"]

NAMES_HEAVY_MODULES = """
import sys
from pathlib import Path
from vpfb_cli.__main__ import main
sys.argv[0] = "vpfb"
try:
    main()
finally:
    Path("loaded").write_text(" ".join(name for name in ("scipy", "sympy", "torch._dynamo") if name in sys.modules))
"""


def test_a_picture_on_stdout_is_a_png_and_drawing_it_loads_no_compiler(tmp_path: Path) -> None:
    line = [sys.executable, "-c", NAMES_HEAVY_MODULES, *SAMPLE]
    shown = subprocess.run(line, cwd=tmp_path, capture_output=True, check=True)
    assert shown.stdout.startswith(b"\x89PNG\r\n")
    assert shown.stderr == b""
    assert (tmp_path / "loaded").read_text() == "", "they take seconds to import"


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        shown = subprocess.run(
            [*COMMAND, *SAMPLE], cwd=tmp_path, env=environment, stdout=closed, stderr=subprocess.PIPE, check=False
        )
    assert (shown.returncode, shown.stderr) == (0, b"")
