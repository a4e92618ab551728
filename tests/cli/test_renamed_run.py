"""A run whose folder is renamed or removed while it trains."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_runner import Vpfb

from vpfb_cli.commands import train
from vpfb_cli.progress import _VisibleBar
from vpfb_core.model.runs import Run

TRAIN = ["train", "--data", "digits", "--val-fraction", "0.02", "--set", "widths=[4]", "--batch-size", "4",
         "--steps", "4", "--threads", "1", "--out", "run"]  # fmt: skip


@pytest.fixture
def at_step_two(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Calls a function at step 2 of the training."""

    def plan(act: Callable[[], object]) -> None:
        fields = train._fields

        def shown(now, plan):
            if now.step == 2 and not done:
                done.append(now)
                act()
            return fields(now, plan)

        done: list[object] = []
        monkeypatch.setattr(train, "_fields", shown)
        monkeypatch.setattr(_VisibleBar, "update", lambda _bar, _share, now=None: callable(now) and now())

    return plan


def test_a_renamed_run_goes_on_in_its_new_folder(vpfb: Vpfb, at_step_two) -> None:
    at_step_two(lambda: Path("run").rename("kept"))
    ran = vpfb(*TRAIN)
    assert ran.code == 0, ran.err
    assert "the folder run is now kept" in ran.err
    assert not Path("run").exists()
    assert Run(Path("kept")).finished
    proposed = re.search(r"next: vpfb (sample -m kept .*)", ran.err)
    assert proposed is not None
    assert vpfb(*proposed[1].split()).code == 0


def test_an_interrupted_run_that_was_renamed_is_resumed_as_the_hint_says(vpfb: Vpfb, at_step_two) -> None:
    def act() -> None:
        Path("run").rename("a b")
        os.kill(os.getpid(), signal.SIGTERM)  # nohup ignores SIGHUP

    at_step_two(act)
    ran = vpfb(*TRAIN)
    assert ran.code == 130, ran.err
    assert "continue with: vpfb train --resume 'a b'" in ran.err
    assert Run(Path("a b")).status()["status"] == "interrupted"
    assert vpfb("train", "--resume", "a b").code == 0


def test_a_removed_run_is_an_error_and_is_not_made_again(vpfb: Vpfb, at_step_two) -> None:
    at_step_two(lambda: shutil.rmtree("run"))
    ran = vpfb(*TRAIN)
    assert (ran.code, "the folder run was removed" in ran.err) == (3, True)
    assert not Path("run").exists()
