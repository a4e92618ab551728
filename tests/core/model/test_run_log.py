"""The log of a run."""

from __future__ import annotations

import math
from pathlib import Path

from vpfb_core.model import run_log


def test_the_log_is_cut_back_to_the_step_a_run_resumes_at(tmp_path: Path) -> None:
    path, names = tmp_path / "log.csv", run_log.columns(["val_residual", "val_energy"])
    run_log.cut(path, names, 0)
    figures = dict.fromkeys(names, 1.0)
    for step in (1, 5, 9):
        run_log.append(path, names, figures | {"step": step, "loss": math.nan})
    with path.open("a") as file:
        file.write("10,half a li")
    run_log.cut(path, names, 5)
    lines = path.read_text().splitlines()
    assert lines[0].startswith("step,seconds,loss,val_residual,val_energy,sample_accuracy")
    assert [line.split(",")[:4] for line in lines[1:]] == [["1", "1", "", "1"], ["5", "1", "", "1"]]


def test_the_log_is_read_by_columns_without_a_line_that_is_being_written(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    assert run_log.read(path) == {}
    path.write_text("step,loss,val_residual\n0,,1\n5,0.25,0.5\n9,0.1")
    read = run_log.read(path)
    assert read["step"] == [0, 5]
    assert math.isnan(read["loss"][0])
    assert (read["loss"][1], read["val_residual"]) == (0.25, [1, 0.5])
