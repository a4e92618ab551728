"""Names mean one thing: models, data sets, classes and files, and the commands that are proposed work."""

from __future__ import annotations

import csv
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from cli_runner import Vpfb
from PIL import Image

from vpfb_core.api import load
from vpfb_core.model.runs import Run, typed_model

TINY = ["train", "--set", "widths=[4]", "--batch-size", "4", "--steps", "1", "--threads", "1", "--size", "8"]


def pictures(folder: Path, count: int = 4) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    draws = np.random.default_rng(len(folder.name))
    for index in range(count):
        Image.fromarray(draws.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / f"{index}.png")


def run_named(name: str) -> Run:
    """A folder that holds a run, whose model is the built-in one of shapes."""
    run = Run(Path(name))
    run.path.mkdir(parents=True)
    load("shapes").save(run.model)
    run.config.touch()
    return run


# --- one name, two things ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("argv", [["sample", "-n", "1", "--nfe", "2", "-m", "digits"], ["info", "digits"],
                                  ["train", "--data", "digits", "--init", "digits", "--conditional", "--dry-run"],
                                  ["compose", "digits:3", "-n", "1", "--mcmc", "none", "--levels", "2"],
                                  ], ids=" ".join)  # fmt: skip
@pytest.mark.parametrize("kind", ["run", "file"])
def test_a_bare_built_in_name_is_that_model_with_a_note_on_what_is_beside(
    vpfb: Vpfb, argv: list[str], kind: str
) -> None:
    assert "'digits' is the built-in model" not in vpfb(*argv).err
    if kind == "run":
        run_named("digits")
    else:
        Path("digits").touch()
    ran = vpfb(*argv, "--json")
    assert ran.code == 0, ran.err
    assert ran.json.get("model", "digits") == "digits"
    assert ran.err.count("'digits' is the built-in model of that name; './digits' is the folder or file") == 1


def test_the_name_of_a_built_in_model_with_a_slash_is_a_path(vpfb: Vpfb) -> None:
    run_named("digits")
    assert vpfb("info", "./digits", "--json").json["data"].startswith("shapes")
    assert vpfb("info", "digits/", "--json").json["data"].startswith("shapes")
    assert vpfb("info", "vpfb:digits", "--json").json["data"] == "digits", "as earlier versions wrote it"
    ran = vpfb("info", "--plot", "digits", "-o", "a.png")
    assert (ran.code, "./digits is the folder or file" in ran.err) == (4, True)


def test_a_run_can_begin_from_a_built_in_model_in_a_folder_of_its_name(vpfb: Vpfb) -> None:
    argv = ["train", "--data", "digits", "--init", "digits", "--out", "digits", "--steps", "1", "--conditional"]
    assert vpfb(*argv).code == 0
    again = vpfb(*argv, "--resume", "auto")
    assert (again.code, "already finished" in again.err) == (0, True), again.err


def test_a_built_in_model_is_named_and_not_located(vpfb: Vpfb) -> None:
    assert vpfb("info", "digits", "--json").json["model"] == "digits"
    assert vpfb("info", "shapes").out.split()[:2] == ["model", "shapes"]
    raw = vpfb("sample", "-m", "digits", "--weights", "raw", "-n", "1")
    assert (raw.code, "for digits" in raw.err) == (4, True), raw.err


def test_the_name_of_a_data_set_is_that_set_and_both_spellings_are_shown(vpfb: Vpfb, tmp_path: Path) -> None:
    pictures(tmp_path / "digits")
    for source in ("digits", "shuffled:digits", "digits:test"):
        assert vpfb("data", source, "--json").json["sets"][0]["images"] in (1797, 359)
    assert "'digits' is the data set of that name; './digits' is the folder or file" in vpfb("data", "digits").err
    assert vpfb("data", "./digits", "--json").json["sets"][0]["images"] == 4


# --- the commands that are proposed -----------------------------------------------------------------------------------


SLOW = [pytest.param(out, marks=pytest.mark.slow) for out in ("auto", "it's", "-x", "né", "tab\there")]


@pytest.mark.parametrize("out", ["digits", "a b", *SLOW])
def test_the_command_that_is_proposed_after_training_works(vpfb: Vpfb, tmp_path: Path, out: str) -> None:
    pictures(tmp_path / "imgs")
    trained = vpfb(*TINY, "--data", "imgs", f"--out={out}")
    assert trained.code == 0, trained.err
    proposed = re.search(r"next: vpfb (.*)", trained.err)
    assert proposed is not None
    words = shlex.split(proposed[1]) if "$'" not in proposed[1] else ["sample", "-m", out, "-n", "4", "-o", "grid.png"]
    drawn = vpfb(*words, "--json")
    assert drawn.code == 0, drawn.err
    assert Path(drawn.json["model"]) == Path(out) / "model.safetensors"
    if "$'" not in proposed[1]:
        again = vpfb(*TINY, "--data", "imgs", "--resume", *shlex.split(typed_model(Path(out))))
        assert "already finished" in again.err


# --- names of files and classes ---------------------------------------------------------------------------------------

CLASSES = ["e\u0301", "a=b", "x,y", "no\u00a0break", "می\u200cخواهم"]  # é as macOS stores it


@pytest.fixture(scope="module")
def of_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained on classes of these names."""
    import vpfb_core

    root = tmp_path_factory.mktemp("classes")
    for name in CLASSES:
        pictures(root / "imgs" / name)
    config = {"data": str(root / "imgs"), "conditional": True, "widths": (4,), "batch_size": 4, "steps": 1, "size": 8}
    vpfb_core.train(vpfb_core.TrainConfig(**config, out=str(root / "run"), threads=1))
    return root


@pytest.fixture
def trained(of_classes: Path, tmp_path: Path) -> Path:
    shutil.copytree(of_classes, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_classes_come_back_as_they_are_on_disk(vpfb: Vpfb, trained: Path) -> None:
    assert sorted(vpfb("info", "run", "--json").json["classes"]) == sorted(CLASSES)
    assert sorted(vpfb("data", "imgs", "--json").json["sets"][0]["classes"]) == sorted(CLASSES)
    assert all(name in vpfb("info", "run").out for name in CLASSES)
    assert all(name in (trained / "run" / "README.md").read_text("utf-8") for name in CLASSES)


@pytest.mark.parametrize("typed", [*CLASSES, "\u00e9", "class=a=b"])
def test_a_class_is_drawn_by_what_a_shell_can_type(vpfb: Vpfb, trained: Path, typed: str) -> None:
    drawn = vpfb("sample", "-m", "run", "--class", typed, "-n", "1", "--nfe", "2")
    assert drawn.code == 0, drawn.err
    composed = vpfb("compose", f"'{typed}'", "-m", "run", "-n", "1", "--mcmc", "none", "--levels", "2")
    assert composed.code == 0, composed.err


def test_files_come_back_as_they_are_on_disk(vpfb: Vpfb, tmp_path: Path) -> None:
    names = [
        "e\u0301.png",
        "\u00f6.png",
        "=1+2.png",
        "-x.png",
        "a,b.png",
        "no\u00a0break.png",
        "line\nbreak.png",
        "日本.png",
    ]
    (tmp_path / "imgs").mkdir()
    for name in names:
        Image.new("L", (8, 8), 90).save(tmp_path / "imgs" / name)
    ran = vpfb("score", "imgs", "-m", "digits", "-o", "s.csv", "--json")
    assert ran.code == 0, ran.err
    assert sorted(entry["file"] for entry in ran.json["worst"]) == sorted(names)
    with Path("s.csv").open(encoding="utf-8", newline="") as table:
        assert sorted(row["file"] for row in csv.DictReader(table)) == sorted(names)
    assert "=1+2.png" in vpfb("score", "imgs", "-m", "digits", "-o", "-").out
