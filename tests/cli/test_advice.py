"""Advice fits the command and the case."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_runner import Vpfb
from PIL import Image

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
