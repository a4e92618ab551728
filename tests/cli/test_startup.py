"""What a person meets first: `--help` without a wait, options in groups, an example in each."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from vpfb_cli import app as cli
from vpfb_cli.command_line import run
from vpfb_cli.options import Machine, ModelOption
from vpfb_cli.output import Output

HEAVY = ["torch", "torchvision", "safetensors", "numpy", "scipy", "matplotlib", "PIL"]
COMMANDS = [command.__name__.strip("_").replace("_", "-") for command in cli.COMMANDS]

PROGRAM = f"""
import contextlib, io, json, sys
from vpfb_cli import app
from vpfb_cli.command_line import run

def loaded():
    return [name for name in {HEAVY} if name in sys.modules]

found = {{}}
for argv in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as help:
        code = run(app.build(), argv)
    found[" ".join(argv)] = [code, loaded(), help.getvalue()]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def helps() -> dict[str, tuple[int, list[str], str]]:
    """For each command line that asks for help or version: exit code, heavy modules loaded by then, and the text."""
    argvs = [["--help"], ["-h"], ["--version"], *([name, "--help"] for name in COMMANDS)]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(argvs)], capture_output=True, text=True, timeout=30, check=True
    )
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("line", ["--help", "--version", *(f"{name} --help" for name in COMMANDS)])
def test_help_loads_no_heavy_library(line: str, helps: dict[str, tuple[int, list[str], str]]) -> None:
    code, loaded, _ = helps[line]
    assert (code, loaded) == (0, [])


@pytest.mark.parametrize("line", ["--help", *(f"{name} --help" for name in COMMANDS)])
def test_help_has_a_worked_example(line: str, helps: dict[str, tuple[int, list[str], str]]) -> None:
    text = helps[line][2]
    assert "\n vpfb " in text.split("Example:")[1]


def test_the_short_and_the_long_help_are_the_same(helps: dict[str, tuple[int, list[str], str]]) -> None:
    assert helps["-h"][2] == helps["--help"][2]


def test_the_program_lets_waiting_threads_sleep_before_torch_is_loaded() -> None:
    program = """
import os, sys
from vpfb_cli.__main__ import main
sys.argv = ["vpfb", "--version"]
try:
    main()
finally:
    print(os.environ["GOMP_SPINCOUNT"], "torch" in sys.modules)
"""
    chosen = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    environment = {name: value for name, value in os.environ.items() if name not in chosen}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, env=environment, check=True
    )
    assert done.stdout.splitlines()[-1] == "1000 False"


def draw(*, model: ModelOption = None, machine: Machine, say: Output) -> None:
    """Draw [nothing].

    More about it.

    Example:
      vpfb draw --device cuda[:1]
    """
    print(model, machine.device, machine.threads, machine.seed, say.talkative)


def test_shared_options_stand_in_named_panels(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cli.build((draw,)), ["draw", "-h"]) == 0
    text = capsys.readouterr().out
    for panel in ("Model", "Machine", "Output"):
        assert f" {panel} " in text
    assert "cuda[:N]" in text  # Rich's markup has eaten no bracket
    assert "Draw [nothing]." in text
    assert text.index("--quiet") < text.index("Example:") < text.index("vpfb draw --device cuda[:1]")


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:3", "mps"])
def test_a_device_is_passed_on_as_written(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cli.build((draw,)), ["draw", "--device", device, "-m", "./digits", "--threads", "2"]) == 0
    assert capsys.readouterr().out == f"./digits {device} 2 0 True\n"


@pytest.mark.parametrize(
    "argv", [["--device", "cuda:"], ["--device", "CPU"], ["--threads", "0"], ["--seed", str(2**63)], ["--seed", "1.5"]]
)
def test_an_impossible_value_is_a_usage_error_that_repeats_it(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(cli.build((draw,)), ["draw", *argv]) == 2
    error = capsys.readouterr().err
    assert argv[0] in error


def test_a_trailing_underscore_is_no_part_of_the_name_of_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    def eval_() -> None:
        print("evaluated")

    assert run(cli.build((eval_,)), ["eval"]) == 0
    assert capsys.readouterr().out == "evaluated\n"
