"""Running command lines."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_runner import Ran, Vpfb
from typer.core import TyperGroup
from warm_process import WarmProcess, warm_process

from vpfb_cli.app import build
from vpfb_cli.command_line import run


@pytest.fixture(scope="session")
def app() -> TyperGroup:
    return build()


@pytest.fixture
def vpfb(app: TyperGroup, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Vpfb:
    """Runs a command line in an empty folder, with no setting from the environment."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("VPFB_")]:
        monkeypatch.delenv(name)

    def call(*argv: str) -> Ran:
        code = run(app, list(argv))
        return Ran(code, *capsys.readouterr())

    return call


@pytest.fixture
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine has no other device. The exact values and the tiny models of a test are those of a CPU."""
    monkeypatch.setattr("vpfb_core.machine.devices.available_devices", lambda: ["cpu"])


@pytest.fixture(scope="session")
def process() -> Iterator[WarmProcess]:
    """Runs command lines in processes of their own, which need not import torch first."""
    with warm_process() as process:
        yield process
