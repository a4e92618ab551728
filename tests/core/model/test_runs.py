"""Run folders, and where models are found."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vpfb_core.errors import CheckpointError, DataError
from vpfb_core.model.runs import find_model, list_runs, new_run


def test_runs_are_numbered_on_and_named_after_the_data(tmp_path: Path) -> None:
    paths = [new_run(name, tmp_path / "runs").path.name for name in ("./my imgs/", "cifar", "/a/b.npz")]
    assert paths == ["001-my-imgs", "002-cifar", "003-b.npz"]


def test_without_a_name_the_newest_run_with_a_model_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_model() == find_model("digits"), "no run: the built-in model"
    for age, name in enumerate(["a", "b", "c"]):
        run = new_run(name)
        run.config.write_text("")
        if name != "c":
            run.model.write_text("")
        for path in run.path.iterdir():
            os.utime(path, (1e9 - age, 1e9 - age))
    assert find_model() == Path("runs/001-a/model.safetensors")
    assert [run.path.name for run in list_runs()] == ["001-a", "002-b", "003-c"]


def test_a_folder_of_runs_that_cannot_be_read_is_not_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert list_runs() == []
    Path("runs").symlink_to("runs")
    for ask in (list_runs, find_model):
        with pytest.raises(DataError, match="cannot read the folder of the runs, runs: "):
            ask()


def test_a_bare_built_in_name_is_that_model_and_a_path_is_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    assert find_model("digits").name == "digits.safetensors"
    with pytest.raises(CheckpointError, match="folder without a model"):
        find_model("./digits")
    with pytest.raises(CheckpointError, match="no model 'digit'") as caught:
        find_model("digit")
    assert str(caught.value.hint).startswith("did you mean 'digits'? built-in models: ")
