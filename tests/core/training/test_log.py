"""The log of a run."""

from __future__ import annotations

import math
from pathlib import Path

from vpfb_core.training import log


def test_the_log_is_cut_back_to_the_step_a_run_resumes_at(tmp_path: Path) -> None:
    path, names = tmp_path / "log.csv", log.columns(["val_residual", "val_energy"])
    log.cut(path, names, 0)
    figures = dict.fromkeys(names, 1.0)
    for step in (1, 5, 9):
        log.append(path, names, figures | {"step": step, "loss": math.nan})
    with path.open("a") as file:
        file.write("10,half a li")
    log.cut(path, names, 5)
    lines = path.read_text().splitlines()
    assert lines[0].startswith("step,seconds,loss,val_residual,val_energy,sample_accuracy")
    assert [line.split(",")[:4] for line in lines[1:]] == [["1", "1", "", "1"], ["5", "1", "", "1"]]
