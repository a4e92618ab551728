"""A table from the file to samples, scores and figures, as somebody types it."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from cli_runner import Vpfb

TINY = ("--steps", "4", "--set", "width=8", "--set", "depth=1", "--batch-size", "16", "--threads", "1")


def write(path: str, columns: list[str], count: int = 60) -> None:
    """A table of numbers, whole numbers and words, whose columns are written in the given order."""
    draws = np.random.default_rng(0)
    values = {
        "a": draws.normal(size=count), "b": draws.normal(50, 9, size=count), "n": draws.integers(0, 4, count),
        "kind": draws.choice(["cat", "dog"], count),
    }  # fmt: skip
    with Path(path).open("w", newline="") as file:
        csv.writer(file).writerows([columns, *zip(*(values[column] for column in columns), strict=True)])


def read(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def run(vpfb: Vpfb) -> str:
    write("table.csv", ["a", "b", "n", "kind"])
    done = vpfb("train", "--data", "table.csv", "--label", "kind", "--conditional", "--out", "run", *TINY)
    assert done.code == 0, done.err
    assert "whole numbers with few values, rounded in samples: n" in done.err
    assert "vpfb sample -m run -n 1000 -o rows.csv" in done.err
    return "run"


def test_a_table_is_drawn_scored_and_evaluated_by_the_names_of_its_columns(vpfb: Vpfb, run: str) -> None:
    assert "of table.csv, 3 columns |" in Path(run, "README.md").read_text("utf-8")
    assert vpfb("sample", "-m", run, "-n", "30", "--class", "dog", "-o", "rows.csv").code == 0
    rows = read("rows.csv")
    assert list(rows[0]) == ["a", "b", "n", "class"]
    assert len(rows) == 30
    assert {row["class"] for row in rows} == {"dog"}
    assert {row["n"] for row in rows} <= {"0", "1", "2", "3"}
    assert vpfb("sample", "-m", run, "-n", "5", "-o", "rows.npy").code == 0
    assert np.load("rows.npy").shape == (5, 3)
    printed = vpfb("sample", "-m", run, "-n", "2", "-o", "-")
    assert printed.out.splitlines()[0] == "a,b,n"

    write("other.csv", ["kind", "n", "b", "a"])
    for name in ("table.csv", "other.csv"):
        scored = vpfb("score", name, "-m", run, "--score", "energy", "-o", f"scores-{name}")
        assert scored.code == 0, scored.err
    scores = read("scores-table.csv")
    assert scores == read("scores-other.csv")
    assert list(scores[0])[:3] == ["row", "score", "log_density"]
    assert sorted(int(row["row"]) for row in scores) == list(range(1, 61))
    assert all(math.isfinite(float(row["log_density"])) for row in scores)
    assert [float(row["score"]) for row in scores] == sorted((float(row["score"]) for row in scores), reverse=True)

    found = vpfb("eval", "--data", "table.csv", "-m", run, "-n", "20", "--metrics", "sliced,kernel,nll", "--json")
    assert found.code == 0, found.err
    assert set(found.json["metrics"]) == {"sliced", "kernel", "nll"}
    assert found.json["metrics"]["nll"]["standard_error"] > 0
    assert vpfb("info", run, "--json").json["columns"] == ["a", "b", "n"]
    few = ("-n", "2", "--levels", "2", "--mcmc", "none")
    assert vpfb("compose", "cat & dog", "-m", run, *few, "-o", "composed.csv").code == 0
    assert list(read("composed.csv")[0]) == ["a", "b", "n"]


def test_rows_of_a_named_table_have_their_numbers_as_those_of_a_file_have(vpfb: Vpfb) -> None:
    assert vpfb("train", "--data", "moons", "--out", "moons", "--val-fraction", "0.02", *TINY).code == 0
    at_once = ("--batch-size", "5000")
    scored = vpfb("score", "moons", "-m", "moons", "--score", "energy", "--json", *at_once)
    assert scored.code == 0, scored.err
    assert sorted(int(row["row"]) for row in read("scores.csv")) == list(range(1, 20_001))
    assert int(scored.json["worst"][0]["row"]) in range(1, 20_001)
    encode = ("encode", "moons", "-m", "moons", "--nfe", "1", "--solver", "euler", "-o", "codes.csv")
    assert vpfb(*encode, *at_once).code == 0
    assert [row["row"] for row in read("codes.csv")[:2]] == ["1", "2"]
    few = ("--score", "energy", "--limit", "9")
    assert vpfb("ood", "--in", "moons", "--out", "rings", "-m", "moons", *few, "-o", "out").code == 0
    assert all(row["row"].isdecimal() for row in read("out/scores.csv"))


def test_a_column_that_is_missing_when_a_table_is_scored_is_an_error_with_those_that_exist(
    vpfb: Vpfb, run: str
) -> None:
    write("less.csv", ["a", "n"])
    ran = vpfb("score", "less.csv", "-m", run, "--score", "energy")
    assert ran.code == 3
    assert "has no column 'b'" in ran.err
    assert "columns: a, n" in ran.err


def test_a_cell_that_no_model_can_compute_with_is_bad_data(vpfb: Vpfb, run: str) -> None:
    write("beyond.csv", ["a", "b", "n"])
    with Path("beyond.csv").open("a") as file:
        file.write("1,1e308,0\n")
    for words in (
        ("score", "beyond.csv", "--score", "energy"),
        ("encode", "beyond.csv"),
        ("eval", "--data", "beyond.csv"),
    ):
        ran = vpfb(*words, "-m", run)
        assert ran.code == 3, ran.err
        assert "'beyond.csv', line 62: b is 1e+308, too far from" in ran.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("sample", "-m", "run", "-o", "grid.png"), "rows of a table are a .csv, .tsv or .npy file"),
        (("sample", "-m", "run", "--known", "a.png", "--mask", "b.png"), "are for images"),
        (("score", "table.csv", "-m", "run", "--score", "energy", "--montage", "m.png"), "--montage is for images"),
        (("score", "table.csv", "-m", "run", "--score", "energy", "--html", "m.html"), "--html is for images"),
        (("score", "table.csv", "-m", "digits"), "'table.csv' holds rows, and the model is one of images"),
        (("score", "digits", "-m", "run", "--score", "energy"), "'digits' holds images, and the model is one of rows"),
        (("eval", "--data", "table.csv", "-m", "run", "--metrics", "fid"), "fid is not defined for a model of a table"),
        (("train", "--data", "table.csv", "--size", "8"), "size is for images"),
        (("train", "--data", "digits", "--label", "a"), "label is for a table"),
        (("data", "table.csv", "--grid", "g.png"), "--grid is for images"),
        (("interpolate", "-m", "run"), "is for images"),
    ],
    ids=lambda words: " ".join(words[:4]) if isinstance(words, tuple) else "",
)
def test_options_of_another_kind_of_data_are_refused_in_one_sentence(
    vpfb: Vpfb, run: str, words: tuple[str, ...], message: str
) -> None:
    ran = vpfb(*words)
    assert ran.code == 2, ran.err
    assert message in ran.err
