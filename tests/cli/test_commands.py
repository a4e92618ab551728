"""The commands as people type them and scripts read them, in one process."""

from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cli_runner import Vpfb
from PIL import Image, ImageSequence

import vpfb_core
from vpfb_core.methods.base import Method
from vpfb_core.methods.vpfb import objectives
from vpfb_core.model.lock import locked
from vpfb_core.model.runs import Run
from vpfb_core.training import Result

QUICK = ["--set", "widths=[8]", "--batch-size", "8", "--steps", "3", "--threads", "1"]
TRAIN = ["train", "--data", "digits", "--val-fraction", "0.02", *QUICK]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Result[vpfb_core.Model]:
    """A run with the settings of TRAIN, in a folder of its own."""
    settings = {"data": "digits", "val_fraction": 0.02, "widths": (8,), "batch_size": 8, "steps": 3, "threads": 1}
    with contextlib.chdir(tmp_path_factory.mktemp("finished")):
        result = vpfb_core.train(vpfb_core.TrainConfig(**settings))
        return replace(result, run=Run(result.run.path.absolute()))


@pytest.fixture
def trained(finished: Result[vpfb_core.Model], tmp_path: Path) -> Run:
    """A copy of the run where commands look for it."""
    shutil.copytree(finished.run.path.parent, tmp_path / "runs")
    return Run(Path("runs/001-digits"))


@pytest.fixture
def imgs(tmp_path: Path) -> Path:
    """A few colour photographs of sorts."""
    folder = tmp_path / "imgs"
    folder.mkdir()
    random = np.random.default_rng(0)
    for index in range(12):
        Image.fromarray(random.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(folder / f"{index}.jpg")
    return folder


# --- the uses that the owner wrote down -------------------------------------------------------------------------------


def test_sample_draws_a_grid_from_the_built_in_model_at_once(vpfb: Vpfb) -> None:
    ran = vpfb("sample", "-n", "64", "-o", "grid.png")
    assert (ran.code, ran.out) == (0, "grid.png\n")
    assert "digits (built in)" in ran.err
    grid = np.asarray(Image.open("grid.png"))
    assert grid.shape == (8 * 66 + 2, 8 * 66 + 2)
    assert 0.2 < (grid < 128).mean() < 0.9, "light strokes on black, white between"


def test_train_on_a_folder_needs_nothing_else_and_sample_finds_the_run(vpfb: Vpfb, imgs: Path) -> None:
    ran = vpfb("train", "--data", f"./{imgs.name}", *QUICK)
    assert (ran.code, ran.out) == (0, "runs/001-imgs\n")
    assert "12 colour images" in ran.err
    assert "16x16" in ran.err, "the choice is said"
    drawn = vpfb("sample", "-n", "2", "-o", "grid.png")
    assert drawn.code == 0
    assert "runs/001-imgs" in drawn.err
    assert Image.open("grid.png").mode == "RGB"


# --- JSON, quiet, formats ---------------------------------------------------------------------------------------------


def test_train_reports_its_work_as_json(vpfb: Vpfb) -> None:
    report = vpfb(*TRAIN, "--json", "-q").json
    assert set(report) == {
        "command", "run", "model", "steps", "images", "seconds", "images_per_second", "loss", "val_residual",
        "parameters", "device",
    }  # fmt: skip
    assert (report["command"], report["run"], report["steps"], report["images"]) == ("train", "runs/001-digits", 3, 24)
    assert Path(report["model"]).is_file()


def test_a_dry_run_shows_everything_and_writes_nothing(vpfb: Vpfb) -> None:
    report = vpfb("train", "--data", "digits", "--dry-run", "--json").json
    assert set(report) == {"config", "parameters", "memory_bytes"}
    assert report["config"]["run"]["preset"] == "tiny"
    assert report["config"]["optimiser"]["time_budget"] == 900
    assert not list(Path().iterdir())


def test_sample_reports_its_work_as_json(vpfb: Vpfb) -> None:
    report = vpfb("sample", "-n", "3", "-o", "a/b/grid.png", "--nfe", "5", "--seed", "7", "--json").json
    assert set(report) == {"model", "output", "n", "nfe", "solver", "seconds", "seed"}
    assert (report["model"], report["output"], report["n"], report["seed"]) == ("digits", "a/b/grid.png", 3, 7)
    assert report["nfe"] == 5
    assert Path("a/b/grid.png").is_file(), "output folders are made"


def test_quiet_prints_only_the_path(vpfb: Vpfb) -> None:
    ran = vpfb("sample", "-n", "1", "-o", "grid.png", "--nfe", "2", "-q")
    assert (ran.out, ran.err) == ("grid.png\n", "")


def test_image_i_is_the_same_whatever_the_number_and_the_batch(vpfb: Vpfb) -> None:
    vpfb("sample", "-n", "5", "-o", "five.npz", "--nfe", "6")
    vpfb("sample", "-n", "3", "-o", "three.npz", "--nfe", "6", "--batch-size", "2")
    five, three = np.load("five.npz")["images"], np.load("three.npz")["images"]
    assert (five.dtype, five.shape) == (np.uint8, (5, 8, 8, 1))
    assert np.abs(five[:3].astype(int) - three).max() <= 1, "float tolerance is less than one grey level"


def test_a_folder_gets_one_png_per_image_and_a_gif_shows_the_path(vpfb: Vpfb) -> None:
    assert vpfb("sample", "-n", "3", "-o", "pictures/", "--nfe", "4").code == 0
    assert sorted(path.name for path in Path("pictures").iterdir()) == ["000000.png", "000001.png", "000002.png"]
    assert Image.open("pictures/000000.png").size == (8, 8)
    assert vpfb("sample", "-n", "3", "-o", "way.gif", "--nfe", "4").code == 0
    assert len(ImageSequence.all_frames(Image.open("way.gif"))) == 5
    assert vpfb("sample", "-n", "1", "-o", "way.gif", "--solver", "dopri5").code == 2


def test_a_class_can_be_selected_and_several_classes_alternate(vpfb: Vpfb) -> None:
    vpfb("sample", "-n", "4", "-o", "turns.npz", "--class", "3", "--class", "8", "--nfe", "6")
    vpfb("sample", "-n", "4", "-o", "eights.npz", "--class", "8", "--nfe", "6")
    turns, eights = np.load("turns.npz")["images"].astype(int), np.load("eights.npz")["images"].astype(int)
    assert np.abs(turns[1::2] - eights[1::2]).max() <= 1
    assert np.abs(turns[::2] - eights[::2]).max() > 50


def test_info_lists_the_runs_and_shows_a_model(vpfb: Vpfb) -> None:
    vpfb(*TRAIN, "--conditional", "--schedule", "vp")
    listed = vpfb("info", "--json").json
    assert [(entry["run"], entry["status"], entry["step"]) for entry in listed["runs"]] == [
        ("runs/001-digits", "finished", 3)
    ]
    shown = vpfb("info", "runs/001-digits", "--json").json
    wanted = {"model", "data", "classes", "shape", "parameters", "steps", "schedule", "calibrated", "versions"}
    assert wanted <= set(shown)
    assert (shown["data"], shown["shape"], shown["schedule"], shown["steps"]) == ("digits", [1, 8, 8], "vp", 3)
    assert shown["classes"] == list("0123456789")
    assert "runs/001-digits" in vpfb("info").out
    path = Path("runs/001-digits/model.safetensors")
    content = bytearray(path.read_bytes())
    content[-50] ^= 1
    path.write_bytes(content)
    assert vpfb("info", "--json").json == listed, "the list is made from the headers alone"
    assert vpfb("info", "runs/001-digits").code == 4


def test_a_run_whose_process_was_killed_is_interrupted_and_one_that_trains_is_running(vpfb: Vpfb, trained: Run) -> None:
    trained.progress.write_text(json.dumps(trained.status() | {"status": "running"}))
    with locked(trained):
        assert vpfb("info", "--json").json["runs"][0]["status"] == "running"
    assert vpfb("info", "--json").json["runs"][0]["status"] == "interrupted"
    trained.lock.unlink()
    assert vpfb("info", "--json").json["runs"][0]["status"] == "interrupted"


def test_remarks_of_the_method_are_not_notes_on_the_data(vpfb: Vpfb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Method, "remarks", lambda _method: ("chains left the data",))
    assert "\nchains left the data\n" in vpfb(*TRAIN).err


def test_info_names_the_model_that_a_run_started_from(vpfb: Vpfb) -> None:
    assert vpfb("info", "shapes", "--json").json["init"] == "another run", "with an earlier contrast"
    assert vpfb("info", "digits", "--json").json["init"] is None
    assert "random weights" in vpfb("info", "digits").out


def test_the_curves_of_runs_are_drawn_together(vpfb: Vpfb) -> None:
    for out in ("a", "b"):
        vpfb(*TRAIN, "--out", out)
    ran = vpfb("info", "--plot", "a", "b/model.safetensors", "-o", "two.png", "--json")
    assert (ran.code, ran.json) == (0, {"output": "two.png", "runs": ["a", "b"]})
    assert Image.open("two.png").format == "PNG"
    assert vpfb("info", "a", "b").code == 2
    assert vpfb("info", "--plot", "digits").code == 4, "a built-in model has no log"
    assert vpfb("info", "--plot", "a", "-o", "a.gif").code == 2
    assert vpfb("info", "--plot").code == 4, "there is no run under ./runs"
    Path("runs").mkdir()
    Path("a").rename("runs/a")
    assert "run: runs/a (the newest run)" in vpfb("info", "--plot").err


def test_the_curves_that_a_run_draws_itself_are_not_replaced_by_default(
    vpfb: Vpfb, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for out in ("a", "b"):
        vpfb(*TRAIN, "--out", out)
    own = Path("a/curves.png").read_bytes()
    monkeypatch.chdir(tmp_path / "a")
    assert vpfb("info", "--plot", ".", "../b").out == "plot.png\n"
    assert Path("curves.png").read_bytes() == own


def test_raw_weights_come_from_the_run(vpfb: Vpfb, trained: Run) -> None:
    assert vpfb("sample", "-n", "1", "--weights", "raw", "-o", "a.png", "--nfe", "2").code == 0
    ran = vpfb("sample", "-n", "1", "--weights", "raw", "-m", "digits", "-o", "b.png")
    assert (ran.code, "raw" in ran.err) == (4, True)


# --- settings ---------------------------------------------------------------------------------------------------------


def test_an_option_beats_the_environment_which_beats_the_file(vpfb: Vpfb, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("c.toml").write_text('data = "digits"\nlr = 0.1\nseed = 1\nsteps = 5\nbatch_size = 4\n')
    monkeypatch.setenv("VPFB_TRAIN_LR", "0.2")
    monkeypatch.setenv("VPFB_TRAIN_SEED", "2")
    config = vpfb("train", "--config", "c.toml", "--seed", "3", "--dry-run", "--json").json["config"]
    optimiser = config["optimiser"]
    assert (optimiser["lr"], config["run"]["seed"], optimiser["steps"], optimiser["batch_size"]) == (0.2, 3, 5, 4)
    config = vpfb("train", "--config", "c.toml", "--time-budget", "2m", "--dry-run", "--json").json["config"]
    optimiser = config["optimiser"]
    assert (optimiser["steps"], optimiser["time_budget"]) == (None, 120), "one way to say how long replaces the other"


def test_the_configuration_of_a_run_trains_another(vpfb: Vpfb, finished: Result[vpfb_core.Model], trained: Run) -> None:
    again = vpfb("train", "--config", str(trained.config), "--json").json
    assert again["run"] == "runs/002-digits"
    assert again["val_residual"] == finished.val_residual


def test_a_run_is_resumed_as_the_message_says(vpfb: Vpfb, monkeypatch: pytest.MonkeyPatch) -> None:
    from vpfb_cli import signals

    with monkeypatch.context() as at_once:
        at_once.setattr(signals._StopRequest, "stop", lambda _request: True)
        stopped = vpfb(*TRAIN)
    assert (stopped.code, "saved in runs/001-digits" in stopped.err) == (130, True)
    resumed = vpfb("train", "--resume", "runs/001-digits", "--json")
    assert (resumed.code, resumed.json["steps"]) == (0, 3)
    again = vpfb("train", "--resume", "runs/001-digits")
    assert (again.code, "already finished" in again.err) == (0, True)


# --- what goes wrong --------------------------------------------------------------------------------------------------


def prepare_wrongs(folder: Path) -> None:
    (folder / "empty").mkdir()
    (folder / "file").write_text("in the way")
    (folder / "foreign.safetensors").write_bytes(b"not a model at all")
    (folder / "c.toml").write_text("stepz = 3")


WRONGS = [
    ("train", 2, "no data named"),
    ("train --data ./absent", 3, "absent"),
    ("train --data absent", 3, "absent"),
    ("train --data empty", 3, "empty"),
    ("train --data digits --preset tinny", 2, "did you mean 'tiny'"),
    ("train --data digits --set stepz=3", 2, "did you mean 'steps'"),
    ("train --data digits --config c.toml", 2, "stepz"),
    ("train --data digits --config absent.toml", 2, "absent.toml"),
    ("train --data digits --steps 3 --time-budget 1m", 2, "exclude each other"),
    ("train --data digits --steps 0", 2, "steps = 0"),
    ("train --data digits --device cuda:99", 2, "devices here: "),
    ("train --data digits --steps 1 --out file/run", 3, "file/run"),
    ("train --data digits --augment flip", 2, "a mirrored image"),
    ("train --resume absent", 2, "absent"),
    ("train --stepz 3", 2, "--steps"),
    ("sample -n 0", 2, "0"),
    ("sample -n -1", 2, "-1"),
    ("sample -m absent", 4, "absent"),
    ("sample -m empty", 4, "empty"),
    ("sample -m foreign.safetensors", 4, "not a model file"),
    ("sample -n 1 -o picture.jpg", 2, ".jpg"),
    ("sample -n 1 -o file/grid.png --nfe 2", 3, "file"),
    ("sample --solver rk5", 2, "rk4"),
    ("sample --solver rk4 --nfe 3", 2, "rk4"),
    ("sample --nfe 5 --rtol 1e-3", 2, "tolerance"),
    ("sample --solver dopri5 --nfe 5", 2, "dopri5"),
    ("sample --class eleven", 2, "classes: 0, 1"),
    ("sample --class 3,4", 2, "exclude each other"),
    ("sample --weights best", 2, "ema, raw"),
    ("sample --device cuda:99", 2, "devices here: "),
    ("sample --seed -1", 2, "-1"),
    ("sample --nfe 0", 2, "0"),
    ("sample --batch-size 0", 2, "0"),
    ("sample --threads 0", 2, "0"),
    ("info absent", 4, "absent"),
    ("infos", 2, "info"),
]


@pytest.mark.parametrize(("line", "code", "words"), WRONGS, ids=[line for line, _, _ in WRONGS])
def test_an_error_has_at_most_two_lines_and_its_exit_code(
    line: str, code: int, words: str, vpfb: Vpfb, tmp_path: Path
) -> None:
    prepare_wrongs(tmp_path)
    ran = vpfb(*line.split(), "-q")
    assert ran.code == code, ran.err
    assert words in ran.err
    assert ran.out == ""
    assert len(ran.err.strip().splitlines()) <= 2
    assert "Traceback" not in ran.err
    report = vpfb(*line.split(), "--json", "-q").json["error"]
    assert (report["exit_code"], set(report)) == (code, {"kind", "message", "hint", "exit_code"})


IDLE = [
    ("train --resume runs/001-digits --out elsewhere", "takes no --out elsewhere"),
    ("info runs/001-digits -o curves.png", "add --plot"),
    ("info --plot runs/001-digits --data digits --match edges", "takes no --match, --data"),
    ("plot runs/001-digits --data moons -o p.png", "--data moons is for a model of a table"),
    ("data digits -n 9", "add --grid"),
    ("data --size 8 --channels 1", "so --size and --channels would have no effect"),
    ("score digits --score energy --flag 0.1", "--flag 0.1 is for the score multiscale"),
    ("eval --data digits --metrics residual --nfe 9", "leave --nfe out"),
]


@pytest.mark.parametrize(("line", "words"), IDLE, ids=[line for line, _ in IDLE])
def test_an_option_that_would_have_no_effect_is_refused(line: str, words: str, vpfb: Vpfb, trained: Run) -> None:
    before = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*")}
    ran = vpfb(*line.split())
    assert (ran.code, words in ran.err, len(ran.err.splitlines()) <= 3) == (2, True, True), ran.err
    assert {path: path.stat().st_mtime_ns for path in Path().rglob("*") if path in before} == before
    assert not {path.name for path in Path().iterdir()} - {"runs"}
    assert trained.model.is_file()


def test_a_run_is_resumed_in_the_folder_that_out_names_as_well(vpfb: Vpfb, trained: Run) -> None:
    assert vpfb("train", "--resume", str(trained.path), "--out", f"./{trained.path}").code == 0


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("--data moons --set regression_share=0.3", 2, "the regression needs a network"),
        ("--data moons --objective official", 2, "the official objective needs a network"),
        ("--data moons --method flow-matching --set network=mlp", 2, "flow matching needs a network"),
        ("--data digits --set angle_mean=9 --set angle_std=0.1", 2, "misses the range of the schedule"),
        ("--data digits --init digits --set widths=[16]", 4, "do not fit this run"),
        ("--data table.csv --columns a,b", 3, "constant: b"),
    ],
)
def test_a_run_that_cannot_be_trained_is_refused_before_anything_is_written(
    line: str, code: int, words: str, vpfb: Vpfb
) -> None:
    Path("table.csv").write_text("a,b\n" + "".join(f"{i},1\n" for i in range(30)))
    ran = vpfb("train", *line.split(), "--out", "run")
    assert (ran.code, words in ran.err) == (code, True), ran.err
    assert not Path("run").exists()


@pytest.mark.parametrize("harm", ["truncated", "flipped", "newer"])
def test_a_damaged_model_is_refused_with_the_reason(harm: str, vpfb: Vpfb, trained: Run) -> None:
    model = trained.model
    content = bytearray(model.read_bytes())
    if harm == "truncated":
        content = content[: len(content) // 2]
    elif harm == "flipped":
        content[-100] ^= 4
    else:
        content = content.replace(b'\\"format\\": 2', b'\\"format\\": 9')
    model.write_bytes(content)
    reason = {"newer": "newer vpfb (format 9", "truncated": "is truncated", "flipped": "is damaged"}[harm]
    for command in (["sample", "-n", "1"], ["info", str(model)]):
        ran = vpfb(*command)
        assert (ran.code, reason in ran.err) == (4, True), ran.err
    assert not Path("samples.png").exists()


def test_an_unconditional_model_refuses_classes(vpfb: Vpfb, trained: Run) -> None:
    ran = vpfb("sample", "--class", "3")
    assert (ran.code, "unconditional" in ran.err) == (2, True)


def test_a_diverged_run_exits_5_and_names_the_step(vpfb: Vpfb, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = objectives.OBJECTIVES["stein"]
    monkeypatch.setitem(objectives.OBJECTIVES, "stein", lambda *a, **k: honest(*a, **k) * float("nan"))
    ran = vpfb(*TRAIN)
    assert (ran.code, "step 0: the loss is nan" in ran.err) == (5, True)


def test_one_unreadable_file_in_many_is_named_and_skipped(vpfb: Vpfb, imgs: Path) -> None:
    for index in range(12, 30):
        (imgs / f"{index}.jpg").write_bytes((imgs / "0.jpg").read_bytes())
    (imgs / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    ran = vpfb("train", "--data", str(imgs), *QUICK)
    assert ran.code == 0
    assert "broken.png" in ran.err
