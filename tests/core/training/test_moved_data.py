"""A run is found and continued by what its data are, and not by how somebody names them or where they are."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stopped_runs
from PIL import Image

import vpfb_core as vpfb
from vpfb_core.config import read_file
from vpfb_core.errors import ConfigError, DataError
from vpfb_core.model.runs import Run, list_runs
from vpfb_core.training import Result, prepare


@pytest.fixture(autouse=True)
def project(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A working folder with twelve pictures in imgs."""
    project = tmp_path / "project"
    write(project / "imgs", 12)
    monkeypatch.chdir(project)
    return project


def write(folder: Path, count: int, seed: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    for i in range(count):
        Image.fromarray(draw.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / f"{i:02}.png")


SMALL = {"widths": (8,), "batch_size": 4, "steps": 3, "threads": 1}


def plan(**settings: Any) -> Any:
    return prepare(vpfb.TrainConfig(**(SMALL | settings)))


def begin(**settings: Any) -> Result:
    """A run that is stopped after its first step."""
    return stopped_runs.train(vpfb.TrainConfig(**(SMALL | {"data": "imgs"} | settings)), stop_after=1)


def continued(**settings: Any) -> Run | None:
    """The run that a command would continue; nothing is trained."""
    return plan(**({"resume": "auto"} | settings)).existing


@pytest.mark.parametrize(
    "name", ["imgs", "imgs/", "./imgs", "imgs/.", "../project/imgs", "link", "{project}/imgs", "{project}/imgs/"]
)
def test_every_name_of_the_same_folder_finds_the_run(project, name):
    run = begin().run
    (project / "link").symlink_to("imgs")
    found = plan(data=name.format(project=project), resume="auto")
    assert found.existing == run
    assert not [note for note in found.notes if "before" in note]


def test_the_home_folder_may_be_written_as_a_tilde(project, monkeypatch):
    run = begin().run
    monkeypatch.setenv("HOME", str(project))
    assert continued(data="~/imgs") == run


@pytest.mark.parametrize("moved", ["elsewhere/pictures", "imgs2", "../imgs"])
def test_a_moved_folder_is_found_by_its_content_and_remembered(project, moved):
    run = begin().run
    (project / moved).parent.mkdir(exist_ok=True)
    shutil.move(project / "imgs", project / moved)
    found = plan(data=moved, resume="auto")
    assert found.existing == run
    assert f"the data of {run.path} were at '{project / 'imgs'}' before" in found.notes
    result = begin(data=moved, resume="auto")
    assert (result.run, result.step) == (run, 2)
    assert read_file(run.config)["data.source"] == moved
    again = plan(data=str(project / moved), resume="auto")
    assert again.existing == run
    assert not [note for note in again.notes if "before" in note], "it knows the path now"
    assert prepare(vpfb.TrainConfig(resume=str(run.path))).existing == run


def test_other_pictures_are_another_run(project):
    begin()
    write(project / "others", 12, seed=1)
    write(project / "fewer", 11)
    assert continued(data="others") is None
    assert continued(data="fewer") is None
    assert begin(data="others", resume="auto").run.path.name == "002-others"


@pytest.mark.parametrize("settings", [{"lr": 1e-4}, {"size": 16}, {"val_fraction": 0.5}])
def test_the_same_pictures_with_other_settings_are_another_run(project, settings):
    begin()
    shutil.copytree(project / "imgs", project / "copy")
    assert continued(data="copy", **settings) is None


def test_the_newest_of_several_runs_is_continued_and_the_same_path_counts_before_the_same_content(project):
    shutil.copytree(project / "imgs", project / "copy")
    first, second = begin().run, begin(data="copy").run
    assert [run.path for run in list_runs()] == [second.path, first.path]
    assert continued(data="imgs") == first
    shutil.move(project / "imgs", project / "moved")
    assert continued(data="moved") == second


def test_a_run_is_resumed_by_its_folder_from_another_working_folder(project, tmp_path, monkeypatch):
    run = begin().run
    other = tmp_path / "other"
    write(other / "imgs", 12, seed=1)  # of the same name, and not the data of the run
    monkeypatch.chdir(other)
    result = vpfb.train(vpfb.TrainConfig(resume=str(project / run.path)))
    assert (result.status, result.step) == ("finished", 3)


def test_a_run_that_is_moved_with_its_data_finds_them(project, tmp_path, monkeypatch):
    run = begin().run
    shutil.move(project, tmp_path / "archive")
    monkeypatch.chdir(tmp_path)
    found = prepare(vpfb.TrainConfig(resume=f"archive/{run.path}"))
    assert Path(found.config.data.source).resolve() == tmp_path / "archive" / "imgs"
    monkeypatch.chdir(tmp_path / "archive")
    assert prepare(vpfb.TrainConfig(resume=str(run.path))).existing == run


def test_a_run_whose_data_are_gone_says_where_they_were_and_how_to_name_them(project):
    run = begin().run
    shutil.move(project / "imgs", project / "moved")
    with pytest.raises(DataError, match=f"no longer at '{project / 'imgs'}'") as caught:
        prepare(vpfb.TrainConfig(resume=str(run.path)))
    assert caught.value.hint == f"name the folder where they are now: vpfb train --resume {run.path} --data FOLDER"
    assert vpfb.train(vpfb.TrainConfig(resume=str(run.path), data="moved")).status == "finished"


def test_other_pictures_are_refused_where_a_run_is_named(project):
    run = begin().run
    write(project / "others", 12, seed=1)
    with pytest.raises(ConfigError, match="the data 'others' have changed since the run"):
        vpfb.train(vpfb.TrainConfig(resume=str(run.path), data="others"))
    assert read_file(run.config)["data.source"] == "imgs"
    with pytest.raises(ConfigError, match=r"data\.source"):
        plan(resume=str(run.path), data="digits")


def test_a_part_of_a_divided_folder_is_found_again(project):
    write(project / "all" / "train", 8, seed=2)
    write(project / "all" / "val", 4, seed=3)
    run, part = begin(data="all").run, begin(data="all:train").run
    assert continued(data="all/") == run
    assert continued(data=f"{project}/all:train") == part
    shutil.move(project / "all", project / "moved")
    assert continued(data="moved:train") == part
    assert continued(data="moved") == run


def test_a_run_within_its_pictures_is_continued_there(project, monkeypatch):
    monkeypatch.chdir(project / "imgs")
    stopped = begin(data=".")
    assert stopped.run.path == Path("runs/001-imgs")
    (project / "imgs" / "grid.png").write_bytes((stopped.run.samples / "step-0000000.png").read_bytes())
    found = plan(data=".", resume="auto")
    assert found.existing == stopped.run
    assert len(found.images) == 12
    assert "left out 1 run of vpfb: runs/001-imgs" in found.images.notes
    assert begin(data=".").run.path == Path("runs/002-imgs")
    assert len(plan(data=".").images) == 12
