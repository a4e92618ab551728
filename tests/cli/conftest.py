"""Running command lines."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cli_runner import Ran, Vpfb

from vpfb_cli.__main__ import run
from vpfb_cli.app import build


@pytest.fixture
def vpfb(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Vpfb:
    """Runs a command line in an empty folder, with no setting from the environment."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("VPFB_")]:
        monkeypatch.delenv(name)

    def call(*argv: str) -> Ran:
        code = run(build(), list(argv))
        return Ran(code, *capsys.readouterr())

    return call
