"""`vpfb ood` and `vpfb score` as people type them and scripts read them."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cli_runner import Vpfb
from PIL import Image

import vpfb_core as vpfb_package
from vpfb_core import training
from vpfb_core.data import InMemory, split
from vpfb_core.errors import ConfigError, NoStepError
from vpfb_core.model.runs import Run
from vpfb_core.uses import ood
from vpfb_core.uses.ood.altered import CONTROLS

pytestmark = pytest.mark.usefixtures("on_the_cpu")

COLUMNS = {"out", "score", "auroc", "auroc_ci", "aupr_in", "aupr_out", "fpr95", "n_in", "n_out"}
COLUMNS_OF_SCORES = ["file", "score", "energy", "bits_per_dim"]
VERDICT = [
    "p_value", "flagged",
    "recording", "denoising", "detail", "content", "shape", "shading", "part", "nearest",
]  # fmt: skip


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The built-in model with a reference of few images, and without a calibrated density."""
    digits, model = vpfb_package.data.load("digits"), vpfb_package.load("digits", device="cpu")
    rows, _ = split(digits, 0.1, 0)
    model.reference = ood.fit_reference(model, digits.images[rows], count=150, steps=0)
    model.calibration = None
    path = tmp_path_factory.mktemp("model") / "digits.safetensors"
    model.save(path)
    return str(path)


def held_out() -> InMemory:
    digits = vpfb_package.data.load("digits")
    return digits.subset(split(digits, 0.1, 0)[1])


# --- ood --------------------------------------------------------------------------------------------------------------


def test_ood_compares_each_pair_by_each_score(vpfb: Vpfb, model: str) -> None:
    ran = vpfb(
        "ood", "--in", "digits", "--out", "noise", "--out", "shuffled:digits", "-m", model, "--limit", "40",
        "--score", "multiscale", "--score", "energy", "--json",
    )  # fmt: skip
    assert ran.code == 0
    report = ran.json
    assert set(report) == {"in", "model", "results", "seed"}
    assert (report["in"], report["model"]) == ("digits", model)
    assert [(row["out"], row["score"]) for row in report["results"]] == [
        (out, score) for out in ("noise", "shuffled:digits") for score in ("multiscale", "energy")
    ]
    for row in report["results"]:
        assert set(row) == COLUMNS
        assert row["auroc"] > 0.97, "out-of-distribution images score higher"
        assert row["auroc_ci"][0] <= row["auroc"] <= row["auroc_ci"][1]
        assert (row["n_in"], row["n_out"]) == (40, 40)
    assert "180 validation images" in ran.err


def test_controls_are_rows_of_their_own(vpfb: Vpfb, model: str) -> None:
    argv = ["ood", "--in", "digits", "--out", "noise", "--controls", "-m", model, "--limit", "20"]
    results = vpfb(*argv, "-o", "report", "--json").json["results"]
    found = {row["out"]: row["auroc"] for row in results}
    assert list(found) == ["noise", *(f"{name}:digits" for name in CONTROLS)]
    assert found["turned:digits"] > 0.7
    assert Path("report/turned-digits-multiscale.png").is_file()


def test_ood_prints_a_table_that_says_what_high_means(vpfb: Vpfb, model: str) -> None:
    ran = vpfb("ood", "--in", "digits", "--out", "constant", "-m", model, "--limit", "20")
    assert ran.code == 0
    *heading, row = ran.out.splitlines()
    assert [line.split() for line in heading] == [
        ["95", "%", "AUPR", "AUPR", "n", "n"],
        ["out", "score", "AUROC", "interval", "in", "out", "FPR95", "in", "out"],
    ]
    assert max(map(len, ran.out.splitlines())) <= 80
    assert row.split()[:3] == ["constant", "multiscale", "1.000"]
    assert "a higher score means more out-of-distribution" in ran.err
    quiet = vpfb("ood", "--in", "digits", "--out", "constant", "-m", model, "--limit", "20", "-q")
    assert (quiet.out, quiet.err) == (ran.out, "")


def test_ood_writes_scores_report_and_histograms(vpfb: Vpfb, model: str) -> None:
    argv = ["ood", "--in", "digits", "--out", "noise", "--score", "energy", "-m", model, "--limit", "15"]
    assert vpfb(*argv, "-o", "a/report").code == 0
    assert {path.name for path in Path("a/report").iterdir()} == {"scores.csv", "report.json", "noise-energy.png"}
    with Path("a/report/scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["role"] for row in rows] == ["in"] * 15 + ["out"] * 15
    in_scores, out_scores = (
        torch.tensor([float(row["energy"]) for row in rows if row["role"] == role]) for role in ("in", "out")
    )
    report = json.loads(Path("a/report/report.json").read_text())
    assert report["results"][0]["auroc"] == pytest.approx(ood.compare(in_scores, out_scores).auroc)
    assert (report["seed"], report["limit"]) == (0, 15)
    assert "higher means more out-of-distribution" in report["scores"]["energy"]
    assert Image.open("a/report/noise-energy.png").size[0] > 600


@pytest.mark.skipif(sys.platform == "darwin", reason="names of files are UTF-8 there")
def test_a_folder_whose_name_is_not_text_is_compared_and_ranked(vpfb: Vpfb, model: str) -> None:
    folder = Path(os.fsdecode(b"caf\xe9"))
    folder.mkdir()
    for name in (b"a\xe9.png", b"a\xea.png"):
        Image.new("L", (8, 8), name[1]).save(folder / os.fsdecode(name))
    few = ("--score", "energy", "-m", model, "-q", "--json")  # pytest's streams take no such names
    assert vpfb("ood", "--in", "digits", "--out", str(folder), *few, "--limit", "5", "-o", "report").code == 0
    assert {path.name for path in Path("report").iterdir()} == {"scores.csv", "report.json", "caf-energy.png"}
    written = os.fsdecode(b"s\xe9.csv")
    scored = vpfb("score", str(folder), *few, "-o", written)
    assert (scored.code, scored.json["output"]) == (0, "s\\xe9.csv")
    assert {row["file"] for row in scored.json["worst"]} == {"a\\xe9.png", "a\\xea.png"}
    assert {line.split(b",")[0] for line in Path(written).read_bytes().splitlines()[1:]} == {b"a\xe9.png", b"a\xea.png"}
    refused = vpfb("train", "--data", str(folder))
    assert (refused.code, "expected UTF-8 text" in refused.err) == (2, True)


def test_all_leaves_out_what_the_model_is_not_calibrated_for(vpfb: Vpfb, model: str) -> None:
    ran = vpfb("ood", "--in", "digits", "--out", "noise", "-m", model, "--limit", "5", "--score", "all", "--json")
    scores = [row["score"] for row in ran.json["results"]]
    assert scores == ["multiscale", "energy", "gradient", "typicality"]
    assert "left out: density" in ran.err


def test_ood_takes_the_built_in_model_for_digits_only(vpfb: Vpfb) -> None:
    ran = vpfb("ood", "--in", "digits", "--out", "noise", "--score", "energy", "--limit", "5", "--json")
    assert ran.json["model"] == "digits"
    missing = vpfb("ood", "--in", "cifar", "--out", "svhn", "--json")
    assert missing.code == 4
    assert missing.json["error"]["hint"] == "vpfb train --data cifar"


def test_a_model_of_other_data_brings_a_warning(vpfb: Vpfb, model: str) -> None:
    np.savez("grey.npz", images=np.zeros((4, 9, 9), np.uint8))
    ran = vpfb("ood", "--in", "./grey.npz", "--out", "noise", "-m", model, "--score", "energy", "--limit", "4")
    assert ran.code == 0
    assert "warning" in ran.err
    assert "trained on 'digits', not on './grey.npz'" in ran.err
    assert "resized to 8x8" in ran.err


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["--in", "digits", "--out", "digits"], 2, "same set"),
        (["--in", "digits", "--out", "noise", "--score", "entropy"], 2, "entropy"),
        (["--in", "digits", "--out", "noise", "--limit", "0"], 2, "0 is not at least 1"),
        (["--in", "digits"], 2, "--out"),
        (["--in", "digits", "--out", "nowhere"], 3, "nowhere"),
        (["--in", "digits", "--out", "noise", "--score", "density"], 4, "calibrated"),
    ],
)
def test_sets_that_cannot_be_compared_are_refused_with_the_reason(
    argv: list[str], code: int, words: str, vpfb: Vpfb, model: str
) -> None:
    ran = vpfb("ood", *argv, "-m", model)
    assert (ran.code, ran.out) == (code, "")
    assert words in ran.err


# --- score ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def mixed(vpfb: Vpfb) -> Path:
    """Thirty digits and four outliers in a folder, and a file that is no picture."""
    folder = Path("mixed")
    folder.mkdir()
    for index, digit in enumerate(held_out().images[:30, 0].numpy()):
        Image.fromarray(digit).save(folder / f"{index:02}.png")
    random = np.random.default_rng(0)
    for index in range(4):
        Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / f"outlier, {index}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


def test_score_puts_the_outliers_first(vpfb: Vpfb, model: str, mixed: Path) -> None:
    ran = vpfb("score", str(mixed), "-m", model, "-o", "a/scores.csv", "--montage", "a/worst.png")
    assert (ran.code, ran.out) == (0, "a/scores.csv\n")
    assert "broken.png" in ran.err
    assert "info --calibrate" in ran.err
    with Path("a/scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [*COLUMNS_OF_SCORES, *VERDICT]
    assert len(rows) == 34
    assert all(row["file"].startswith("outlier, ") for row in rows[:4])
    assert [float(row["score"]) for row in rows] == sorted((float(row["score"]) for row in rows), reverse=True)
    tiles = np.asarray(Image.open("a/worst.png"))
    worst = np.asarray(Image.open(mixed / rows[0]["file"]))
    assert np.array_equal(tiles[2:66:8, 2:66:8], worst), "the greatest outlier at the top left"


def test_score_as_json_lists_the_greatest_outliers(vpfb: Vpfb, model: str, mixed: Path) -> None:
    report = vpfb("score", str(mixed), "-m", model, "--json").json
    assert set(report) == {"model", "output", "n", "flag", "flagged", "seed", "worst"}
    assert (report["model"], report["output"], report["n"], len(report["worst"])) == (model, "scores.csv", 34, 20)
    assert set(report["worst"][0]) == {*COLUMNS_OF_SCORES, *VERDICT}
    assert report["worst"][0]["file"].startswith("outlier")
    assert report["worst"][0]["bits_per_dim"] is None
    assert Path("scores.csv").is_file()


def test_score_writes_the_table_to_stdout(vpfb: Vpfb, model: str, mixed: Path) -> None:
    ran = vpfb("score", str(mixed), "-m", model, "-o", "-", "-q")
    assert ran.out.splitlines()[0] == ",".join([*COLUMNS_OF_SCORES, *VERDICT])
    assert len(ran.out.splitlines()) == 35
    assert not Path("scores.csv").exists()
    both = vpfb("score", str(mixed), "-m", model, "-o", "-", "--json")
    assert both.code == 2
    assert "stdout" in both.json["error"]["message"]


def test_a_failed_score_leaves_the_old_table(vpfb: Vpfb, model: str) -> None:
    Path("scores.csv").write_text("old")
    assert vpfb("score", "nowhere/", "-m", model).code == 3
    assert vpfb("score", "digits", "-m", model, "--score", "entropy").code == 2
    assert Path("scores.csv").read_text() == "old"


# --- runs that lack what a score needs --------------------------------------------------------------------------------


def run_without_reference(source: str, data: str) -> Path:
    """A run on these data that ended before its reference was fitted."""
    model, run = vpfb_package.load(source, device="cpu"), Path("runs/001-bare")
    model.reference = None
    model.about = {**model.about, "data": {"name": data}}
    run.mkdir(parents=True)
    model.save(run / "model.safetensors")
    (run / "config.toml").touch()
    return run


def test_ood_and_score_pass_over_a_run_without_a_reference(
    vpfb: Vpfb, model: str, mixed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = run_without_reference(model, "digits")
    note = f"{bare} has no reference yet; it is not used"
    compared = vpfb("ood", "--in", "digits", "--out", "noise", "--limit", "10", "--json")
    assert (compared.code, compared.json["model"], compared.err.count(note)) == (0, "digits", 1), compared.err
    by_energy = vpfb("ood", "--in", "digits", "--out", "noise", "--limit", "10", "--score", "energy", "--json")
    assert by_energy.json["model"] == f"{bare}/model.safetensors", "which needs no reference"
    assert note not in by_energy.err
    few = vpfb_package.data.load("digits", limit=20)
    with monkeypatch.context() as patch:
        patch.setattr(vpfb_package.data, "load", lambda *_, **__: few)
        ranked = vpfb("score", "digits", "--json")
    assert (ranked.code, ranked.json["model"], ranked.err.count(note)) == (0, "digits", 1), ranked.err
    alone = vpfb("score", str(mixed), "--json")
    assert (alone.code, alone.json["model"], alone.err.count(note)) == (0, None, 1), "a run of other data, likewise"


def test_a_run_without_a_reference_is_named_where_nothing_else_serves(vpfb: Vpfb, model: str) -> None:
    run_without_reference(model, "mnist")
    ran = vpfb("ood", "--in", "mnist", "--out", "noise")
    assert (ran.code, "info --calibrate" in ran.err, "not used" in ran.err) == (4, True, False)


@pytest.mark.parametrize("steps", [0, 3])
def test_a_time_that_is_too_short_for_a_model_gives_a_ranking_without_one(
    vpfb: Vpfb, model: str, mixed: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    bare = run_without_reference(model, str(mixed))

    def run(*_plan: object, **_settings: object) -> SimpleNamespace:
        if not steps:
            raise NoStepError("the time budget of 2 s was over before the first step")
        return SimpleNamespace(status="finished", run=Run(bare), step=steps)

    monkeypatch.setattr(training, "run", run)
    ran = vpfb("score", str(mixed), "--train", "2s", "--json")
    assert (ran.code, ran.json["model"]) == (0, None), ran.err
    assert f"--train 2s is too short: {f'{bare} has no reference' if steps else 'the time budget'}" in ran.err


def test_all_scores_of_a_model_without_an_energy_are_refused_with_the_true_reason(vpfb: Vpfb) -> None:
    train = ["train", "--data", "digits", "--method", "flow-matching", "--steps", "1", "--set", "widths=[4]"]
    assert vpfb(*train).code == 0
    ran = vpfb("ood", "--in", "digits", "--out", "noise", "-m", "runs/001-digits", "--score", "all")
    assert (ran.code, "needs an energy" in ran.err, "--calibrate" in ran.err) == (2, True, False), ran.err
    passed = vpfb("ood", "--in", "digits", "--out", "noise", "--limit", "5", "--json")
    assert (passed.code, passed.json["model"]) == (0, "digits")
    assert "runs/001-digits was trained with the method flow-matching, which has no energy" in passed.err


# --- without a model --------------------------------------------------------------------------------------------------


@pytest.fixture
def photographs(vpfb: Vpfb) -> Path:
    """Fifty discs in colour, and two pictures of stripes."""
    folder = Path("imgs")
    folder.mkdir()
    random = np.random.default_rng(0)
    down, across = np.mgrid[:16, :16]
    for index in range(52):
        centre = random.uniform(6, 9, 2)
        inside = (np.hypot(down - centre[0], across - centre[1]) < 4) if index < 50 else across % 4 < 2
        picture = np.where(inside[..., None], random.integers(150, 250, 3), 40) + random.integers(0, 9, (16, 16, 3))
        Image.fromarray(picture.astype(np.uint8)).save(folder / f"{'disc' if index < 50 else 'stripes'}{index}.png")
    return folder


def test_a_folder_without_a_model_is_ranked_at_once(vpfb: Vpfb, photographs: Path) -> None:
    ran = vpfb("score", str(photographs), "--json", "--html", "page.html", "--montage", "worst.png")
    assert ran.code == 0, ran.err
    assert "no model fits 'imgs'" in ran.err
    assert "vpfb score imgs --train 10m" in ran.err
    assert (ran.json["model"], ran.json["n"]) == (None, 52)
    worst = ran.json["worst"]
    assert {one["file"] for one in worst[:2]} == {"stripes50.png", "stripes51.png"}
    assert all(one["energy"] is None for one in worst)
    assert {"detail", "shape", "shading", "part", "p_value", "flagged", "nearest"} <= set(worst[0])
    assert Path("page.html").is_file()
    with Path("scores.csv").open(newline="") as file:
        assert next(csv.reader(file))[:6] == [*COLUMNS_OF_SCORES, "p_value", "flagged"]


def test_the_rate_decides_how_many_are_flagged(vpfb: Vpfb, photographs: Path) -> None:
    few, many = (vpfb("score", str(photographs), "--flag", rate, "--json").json for rate in ("0.001", "0.3"))
    assert few["flagged"] < many["flagged"]
    assert 8 <= many["flagged"] <= 24
    wrong = vpfb("score", str(photographs), "--flag", "2")
    assert (wrong.code, "not between 0 and 1" in wrong.err) == (2, True)


def test_the_time_to_train_counts_from_the_beginning_of_the_command(
    vpfb: Vpfb, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, prepared = time.monotonic(), list[float]()

    def run(_plan: object, *, began: float = math.nan, **_settings: object) -> None:
        assert before <= began <= prepared[0]
        raise ConfigError("the time is right")

    monkeypatch.setattr(training, "prepare", lambda _config: prepared.append(time.monotonic()))
    monkeypatch.setattr(training, "run", run)
    assert "the time is right" in vpfb("score", str(photographs), "--train", "10m").err


def test_what_needs_a_model_is_refused_without_one(vpfb: Vpfb, photographs: Path) -> None:
    for argv in (["--score", "energy"], ["--density", "ode"]):
        ran = vpfb("score", str(photographs), *argv, "--json")
        assert (ran.code, ran.json["error"]["hint"]) == (4, "vpfb train --data imgs")
    both = vpfb("score", str(photographs), "--train", "10m", "-m", "digits")
    assert (both.code, "exclude each other" in both.err) == (2, True)


def test_the_newest_run_of_the_same_kind_of_images_fits(vpfb: Vpfb, photographs: Path, mixed: Path, model: str) -> None:
    run = Path("runs/001-digits")
    run.mkdir(parents=True)
    shutil.copy(model, run / "model.safetensors")
    (run / "config.toml").touch()
    grey, colour = (vpfb("score", str(folder), "--json").json for folder in (mixed, photographs))
    assert grey["model"] == "runs/001-digits/model.safetensors"
    assert colour["model"] is None
