"""Advice fits the command and the case."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from cli_runner import Vpfb
from PIL import Image

from vpfb_cli.app import build
from vpfb_core.model import model_file
from vpfb_core.training import plan


@pytest.mark.parametrize("more", [[], ["--set", "micro_batch=1"], ["--conditional"]])
def test_a_batch_of_one_is_refused_where_the_loss_needs_statistics_of_a_batch(vpfb: Vpfb, more: list[str]) -> None:
    ran = vpfb("train", "--data", "digits", "--objective", "official", "--batch-size", "1", *more, "--dry-run")
    assert ran.code == 2
    assert "a --batch-size of at least 2" in ran.err
    assert "lr" not in ran.err


def test_a_batch_of_two_is_enough_for_statistics(vpfb: Vpfb) -> None:
    assert vpfb("train", "--data", "digits", "--objective", "official", "--batch-size", "2", "--dry-run").code == 0
    assert vpfb("train", "--data", "digits", "--objective", "stein", "--batch-size", "1", "--dry-run").code == 0


@pytest.mark.parametrize(
    "argv",
    [
        ["eval", "--fit-features", "--data", "imgs"], ["eval", "--fit-features", "--data", "noise"],
        ["eval", "--fit-features", "--data", "imgs/a.png"], ["train", "--conditional", "--data", "imgs"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_missing_classes_are_met_with_what_the_command_can_do(vpfb: Vpfb, tmp_path: Path, argv: list[str]) -> None:
    (tmp_path / "imgs").mkdir()
    Image.new("L", (8, 8), 90).save(tmp_path / "imgs" / "a.png")
    ran = vpfb(*argv)
    assert ran.code == 3
    assert "no classes" in ran.err
    assert "train without --conditional" in ran.err
    assert "omit" not in ran.err


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (["train", "--data", "digits"], "--batch-size or --size"), (["sample"], "--batch-size or -n"),
        (["score", "digits", "-m", "digits"], "--batch-size"), (["info", "--calibrate", "digits"], "end other"),
        (["ood", "--in", "digits", "--out", "noise"], "--batch-size or --limit"),
    ],
)  # fmt: skip
def test_a_lack_of_memory_is_met_with_options_that_the_command_has(
    vpfb: Vpfb, monkeypatch: pytest.MonkeyPatch, argv: list[str], hint: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(model_file, "load", full)
    monkeypatch.setattr(plan.data, "find", full)
    monkeypatch.setattr("vpfb_cli.models.find_model", full)
    ran = vpfb(*argv)
    assert ran.code == 5, ran.err
    assert hint in ran.err
    assert ("--size" in ran.err) == ("--size" in hint)


# --- numbers and outputs ----------------------------------------------------------------------------------------------

# What each command needs beside the option.
NEEDED = {
    "encode": ["digits"], "compose": ["1"], "ood": ["--in", "digits", "--out", "noise"], "score": ["digits"],
    "eval": ["--data", "digits"],
}  # fmt: skip


def _options_for_numbers() -> list[tuple[str, str, str]]:
    """Each option for a number: its command, its name, and what it accepts."""
    words = {"_whole_number": "a whole number", "_number": "a finite number"}
    found = []
    for name, command in build().commands.items():
        parameters: list[Any] = command.params
        for parameter in parameters:
            parser = getattr(parameter.get_runtime_param().parameter_info, "parser", None)
            if (expected := words.get(getattr(parser, "__name__", ""))) is not None:
                found.append((name, parameter.opts[0], expected))
    return found


@pytest.mark.parametrize(("command", "option", "expected"), _options_for_numbers())
def test_a_wrong_number_is_refused_with_its_option_its_value_and_what_is_accepted(
    vpfb: Vpfb, command: str, option: str, expected: str
) -> None:
    for value in ("1e3x", "1,5", "nan"):
        ran = vpfb(command, *NEEDED.get(command, []), option, value)
        assert ran.code == 2
        assert f"Invalid value for '{option}': '{value}' is not {expected}" in ran.err


def test_the_options_for_numbers_are_found() -> None:
    assert len(_options_for_numbers()) > 40
    assert ("train", "--lr", "a finite number") in _options_for_numbers()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["sample", "-n", "1e3"], "'-n': '1e3' is not a whole number"),
        (["sample", "--rtol", "-1"], "rtol = -1 is not a tolerance"),
        (["sample", "--atol", "0"], "atol = 0 is not an absolute tolerance"),
        (["sample", "--rtol", "0"], "rtol = 0 needs an absolute tolerance"),
        (["interpolate", "-n", "1"], "'-n': 1 is not at least 2"),
        (["compose", "1", "--levels", "1"], "'--levels': 1 is not at least 2"),
        (["train", "--data", "digits", "--val-fraction", "2"], "--val-fraction = 2.0 is out of range"),
        (["train", "--data", "digits", "--channels", "2"], "--channels = 2 is not possible"),
        (["train", "--data", "digits", "--time-budget", "x"], "--time-budget: 'x' is not a duration"),
        (["train", "--data", "digits", "--set", "val_fraction=2"], "val_fraction = 2.0 is out of range"),
        (["score", "digits", "--train", "0"], "--train = 0.0 is out of range"),
    ],
)  # fmt: skip
def test_a_number_out_of_range_is_named_as_it_was_given(vpfb: Vpfb, argv: list[str], message: str) -> None:
    ran = vpfb(*argv)
    assert ran.code == 2
    assert message in ran.err


@pytest.mark.parametrize(
    ("argv", "option"),
    [
        (["sample"], "-o"), (["interpolate"], "-o"), (["compose", "1", "-m", "digits"], "-o"),
        (["encode", "digits"], "-o"),
        (["encode", "digits", "--clusters", "2"], "--montage"), (["score", "digits"], "-o"), (["plot", "digits"], "-o"),
        (["score", "digits"], "--montage"), (["score", "digits"], "--html"), (["data", "digits"], "--grid"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, list) else each,
)  # fmt: skip
def test_the_formats_that_are_offered_for_a_wrong_one_are_accepted(
    vpfb: Vpfb, monkeypatch: pytest.MonkeyPatch, argv: list[str], option: str
) -> None:
    class Accepted(Exception):  # noqa: N818 (it is not an error)
        pass

    def accepted(*_: object, **__: object) -> None:
        raise Accepted

    refused = vpfb(*argv, option, "x.jpg")
    assert refused.code == 2
    offered = re.findall(r"\.[a-z]+\b", refused.err.replace("x.jpg", "").replace("'.jpg'", ""))
    assert offered
    for name in ("vpfb_core.data.find", "vpfb_core.data.load", "vpfb_cli.commands.data.find", "vpfb_core.api.load"):
        monkeypatch.setattr(name, accepted, raising=False)
    for ending in offered:
        assert "Accepted" in vpfb(*argv, option, f"x{ending}").err, ending
