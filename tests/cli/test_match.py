"""`--match` of `vpfb sample` and `vpfb info`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cli_runner import Vpfb
from models import vpfb_model
from PIL import Image

import vpfb_core
from vpfb_core import networks
from vpfb_core.data.image_statistics import ImageStatistics
from vpfb_core.methods.path.homotopy import OT
from vpfb_core.methods.vpfb.potential import Potential
from vpfb_core.uses.matching import kept, tilting

FITTED = 32  # samples to which tilts are fitted
FEW = ["-m", "digits", "--device", "cpu", "--nfe", "4", "--threads", "1"]


@pytest.fixture(autouse=True)
def _few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tilting, "ON_A_CPU", FITTED)
    monkeypatch.setattr(tilting, "FEWEST", FITTED)
    monkeypatch.setattr(kept, "KEPT", 1)


@pytest.fixture
def model() -> Path:
    """An untrained model of the digits, whose samples are noise."""
    network = {"name": "unet", "channels": 1, "size": 8, "widths": [4]}
    potential = Potential(networks.build(network), OT(sigma_min=0.04))
    about = {"data": {"name": "digits"}}
    vpfb_model(potential, network=network, statistics=ImageStatistics((0.3,), 0.37), about=about).save(
        "model.safetensors"
    )
    return Path("model.safetensors")


def test_samples_have_the_brightness_that_was_asked_for(vpfb: Vpfb) -> None:
    ran = vpfb("sample", *FEW, "-n", str(FITTED), "-o", "bold.npz", "--match", "brightness=0.36", "--json")
    assert ran.code == 0, ran.err
    found = ran.json["match"]
    assert set(found) == {"brightness"}
    assert set(found["brightness"]) == {"target", "reached", "ess", "nats"}
    assert (found["brightness"]["target"], ran.json["nfe"]) == (0.36, 4)
    brightness = np.load("bold.npz")["images"].mean() / 255
    assert found["brightness"]["reached"] == pytest.approx(brightness, abs=1e-4)
    assert brightness == pytest.approx(0.36, abs=0.002), "the fit is to these samples"
    assert 0 < found["brightness"]["ess"] < FITTED
    assert found["brightness"]["nats"] > 0
    assert "brightness: target 0.36, samples 0.3" in ran.err


def test_several_statistics_are_matched_at_once_and_rounds_are_counted(vpfb: Vpfb) -> None:
    ran = vpfb("sample", *FEW, "-n", "4", "--match", "top=0.32", "--match", "edges=0.124", "--json")
    assert ran.code == 0, ran.err
    assert list(ran.json["match"]) == ["top", "edges"]
    assert ran.json["nfe"] > 4
    assert "further proposals per sample" in ran.err


def test_sample_i_is_the_same_in_any_number_of_matched_samples(vpfb: Vpfb) -> None:
    match = ["--match", "contrast=0.355", "--match", "brightness=0.305"]
    for name, more in (("three", ["-n", "3", "--batch-size", "2"]), ("two", ["-n", "2"])):
        assert vpfb("sample", *FEW, *more, "-o", f"{name}.npz", *match).code == 0
    three, two = (np.load(f"{name}.npz")["images"].astype(int) for name in ("three", "two"))
    assert np.abs(three[:2] - two).max() <= 1


def test_one_matched_sample_is_reported_without_an_error_bar(vpfb: Vpfb) -> None:
    ran = vpfb("sample", *FEW, "-n", "1", "--match", "brightness=0.31")
    assert ran.code == 0, ran.err
    assert "brightness: target 0.31, samples" in ran.err
    assert "+/-" not in ran.err and "warning" not in ran.err.lower()


def upper_half(path: str = "mask.png", size: int = 8) -> str:
    """A mask whose upper half is white, and the name of the brightness in it."""
    mask = np.zeros((size, size), np.uint8)
    mask[: size // 2] = 255
    Image.fromarray(mask).save(path)
    return f"brightness:{path}"


def test_the_brightness_in_a_mask_is_matched_without_further_evaluations(vpfb: Vpfb) -> None:
    name = upper_half()
    ran = vpfb("sample", *FEW, "-n", str(FITTED), "-o", "bold.npz", "--match", f"{name}=0.35", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["nfe"] == 4
    images = np.load("bold.npz")["images"] / 255
    assert images.reshape(FITTED, 8, 8)[:, :4].mean() == pytest.approx(0.35, abs=0.002)
    assert ran.json["match"][name]["reached"] == pytest.approx(0.35, abs=0.002)


def test_a_mask_of_another_size_is_an_error_of_the_data(vpfb: Vpfb) -> None:
    ran = vpfb("sample", *FEW, "-n", "2", "--match", f"{upper_half(size=9)}=0.35", "--json")
    assert (ran.code, ran.json["error"]["kind"]) == (3, "data")
    assert "9x9 pixels, but the images of the model have 8x8" in ran.json["error"]["message"]


def test_without_match_nothing_is_reported_or_changed(vpfb: Vpfb) -> None:
    assert "match" not in vpfb("sample", *FEW, "-n", "2", "--json").json


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--match", "brightness"], "has no value"),
        (["--match", "brightness=light"], "'light' is not a number"),
        (["--match", "brightness=nan"], "not a finite number"),
        (["--match", "brightness=2"], "brightness lies between 0 and 1"),
        (["--match", "brightness=0.9"], f"{FITTED} samples have brightness from"),
        (["--match", "contrast=0.9"], f"{FITTED} samples have contrast from"),
        (["--match", "brightnes=0.3"], "did you mean 'brightness'"),
        (["--match", "red=0.3"], "statistics: brightness"),
        (["--match", "classes=0.3"], "class:0=VALUE"),
        (["--match", "top=0.3", "--match", "top=0.4"], "given twice"),
        (["--match", "edges=0.13", "--langevin", "2"], "energies, which do not contain edges"),
        (["--match", "edges=0.13", "--known", "a.png", "--mask", "a.png"], "--known draws by chains"),
    ],
)
def test_what_cannot_be_matched_is_a_usage_error(vpfb: Vpfb, argv: list[str], words: str) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint8)).save("a.png")
    ran = vpfb("sample", *FEW, "-n", "2", *argv, "--json")
    assert (ran.code, ran.json["error"]["kind"]) == (2, "config")
    assert words in f"{ran.json['error']['message']} {ran.json['error']['hint']}"


def test_chains_go_on_from_matched_samples(vpfb: Vpfb) -> None:
    ran = vpfb("sample", *FEW, "-n", "2", "--match", "brightness=0.33", "--langevin", "2", "--json")
    assert ran.code == 0, ran.err
    assert {"match", "acceptance"} <= set(ran.json)


def test_a_class_is_matched_by_itself(vpfb: Vpfb) -> None:
    ran = vpfb("sample", *FEW, "-n", str(FITTED), "--class", "1", "--match", "brightness=0.34", "--json")
    assert ran.json["match"]["brightness"]["reached"] == pytest.approx(0.34, abs=0.002)


# --- kept tilts -------------------------------------------------------------------------------------------------------


def test_a_kept_tilt_is_shown_used_and_removed(vpfb: Vpfb, model: Path) -> None:
    before = vpfb_core.load(model, device="cpu").sample(4, nfe=4).images
    ran = vpfb("info", "--match", "brightness,contrast=0.29", str(model), "--threads", "1", "--json", "--seed", "7")
    assert ran.code == 0, ran.err
    assert "matching model.safetensors to digits, 1,797 images" in ran.err
    shown = ran.json["match"]
    assert set(shown) == {"brightness", "contrast"}
    assert shown["brightness"]["target"] == pytest.approx(0.305, abs=1e-3)
    assert shown["contrast"]["target"] == 0.29
    assert "brightness 0.3053, contrast 0.29" in vpfb("info", str(model)).out

    tilted = vpfb_core.load(model, device="cpu")
    assert not bool((tilted.sample(4, nfe=4).images == before).all())
    assert tilted.about["match_seed"] == 7
    drawn = vpfb("sample", "-m", str(model), "-n", "2", "--nfe", "4", "--threads", "1")
    assert "gives its samples brightness, contrast" in drawn.err
    assert "compositions are those without contrast" in drawn.err

    assert vpfb("info", "--match", "none", str(model), "--json").json["match"] is None
    plain = vpfb_core.load(model, device="cpu")
    assert "match_seed" not in plain.about
    after = plain.sample(4, nfe=4).images
    assert bool((after == before).all())
    written = model.stat().st_mtime_ns
    again = vpfb("info", "--match", "none", str(model))
    assert (again.code, "has no tilt, so nothing was changed" in again.err) == (0, True)
    assert model.stat().st_mtime_ns == written, "the run does not become the newest one"


def test_a_kept_mask_needs_its_file_no_more(vpfb: Vpfb, model: Path) -> None:
    name = upper_half()
    assert vpfb("info", "--match", name, str(model), "--threads", "1").code == 0
    Path("mask.png").unlink()
    top = vpfb_core.data.load("digits").images[:, :, :4].double().mean() / 255
    assert vpfb("info", str(model), "--json").json["match"][name]["target"] == pytest.approx(float(top), abs=1e-4)
    assert vpfb("sample", "-m", str(model), "-n", "2", "--nfe", "4", "--threads", "1").code == 0


def test_the_statistics_of_another_folder_can_be_matched(vpfb: Vpfb, model: Path) -> None:
    Path("dark").mkdir()
    draws = np.random.default_rng(0)
    for index in range(60):
        Image.fromarray((draws.random((8, 8)) * 120 * (1 + index / 60)).astype(np.uint8)).save(f"dark/{index}.png")
    ran = vpfb("info", "--match", "brightness", "--data", "dark", str(model), "--threads", "1", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["match"]["brightness"]["target"] == pytest.approx(0.352, abs=0.02)


def test_calibrating_keeps_the_tilt(vpfb: Vpfb, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vpfb_core.uses import calibration

    called = []
    monkeypatch.setattr(calibration, "calibrate", lambda model, *more, **settings: called.append(model.tilt))
    assert vpfb("info", "--match", "brightness=0.33", str(model), "--threads", "1").code == 0
    ran = vpfb("info", "--calibrate", str(model), "--json")
    assert ran.code == 0, ran.err
    assert set(ran.json["match"]) == {"brightness"}
    assert called == [None], "calibrated without its tilt"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--match", "none,edges"], "takes no other statistics"),
        (["--match", "none", "--data", "digits"], "no use with --match none"),
        (["--match", "brightness=0.3", "--data", "digits"], "every statistic has a value"),
        (["--match", "edgse"], "did you mean 'edges'"),
        (["--match", ","], "names no statistic"),
        (["--match", "classes"], "needs a conditional model"),
        (["--match", "classes", "--calibrate"], "exclude each other"),
        (["--match", "brightness,brightness=0.3"], "given twice"),
    ],
)
def test_what_cannot_be_kept_is_a_usage_error(vpfb: Vpfb, model: Path, argv: list[str], words: str) -> None:
    ran = vpfb("info", *argv, str(model), "--threads", "1", "--json")
    assert (ran.code, ran.json["error"]["kind"]) == (2, "config")
    assert words in f"{ran.json['error']['message']} {ran.json['error']['hint']}"


# --- training ---------------------------------------------------------------------------------------------------------

SMALL = ["--set", "widths=[4]", "--batch-size", "16", "--threads", "1", "--val-fraction", "0.02", "--device", "cpu"]


def test_a_run_ends_with_the_statistics_of_its_data(vpfb: Vpfb) -> None:
    argv = ["train", "--data", "digits", *SMALL, "--steps", "2", "--out", "run", "--match", "brightness,top=0.32"]
    ran = vpfb(*argv, "--json")
    assert ran.code == 0, ran.err
    shown = vpfb("info", "run", "--json").json["match"]
    assert shown["brightness"]["target"] == pytest.approx(0.305, abs=0.002)
    assert shown["top"]["target"] == 0.32
    again = vpfb_core.train(vpfb_core.TrainConfig(resume="run", data="digits"))
    assert again.status == "already finished"
    assert again.model.tilt is not None
    assert set(again.model.tilt.names) == {"brightness", "top"}
    drawn, kept_model = (each.sample(2, nfe=2).images for each in (again.model, vpfb_core.load("run", device="cpu")))
    assert np.allclose(drawn, kept_model, atol=1e-5)


def test_a_run_keeps_its_masks_so_that_it_can_be_moved_and_resumed(vpfb: Vpfb) -> None:
    name = upper_half("upper, half=1.png")
    argv = ["train", "--data", "digits", *SMALL, "--steps", "1", "--out", "run", "--match", f"{name},brightness"]
    assert vpfb(*argv, "-q").code == 0
    Path("upper, half=1.png").unlink()
    Path("run").rename("moved")
    ran = vpfb("train", "--resume", "moved", "--steps", "2")
    assert (ran.code, "not matched" in ran.err) == (0, False), ran.err
    assert set(vpfb("info", "moved", "--json").json["match"]) == {name, "brightness"}


def test_a_run_that_cannot_be_matched_is_kept_with_a_warning(vpfb: Vpfb) -> None:
    argv = ["train", "--data", "digits", *SMALL, "--steps", "1", "--out", "run", "--match", "edges=0.9"]
    ran = vpfb(*argv)
    assert ran.code == 0, ran.err
    assert "not matched: no samples have edges = 0.9" in ran.err
    assert vpfb("info", "run", "--json").json["match"] is None


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--match", "brightnes"], "did you mean 'brightness'"),
        (["--match", "classes"], "needs --conditional"),
        (["--match", "red"], "no statistic 'red'"),
        (["--match", "top=x"], "'x' is not a number"),
        (["--match", "brightness:mask.png", "--method", "flow-matching"], "sampling would need the file"),
        (["--match", "top", "--conditional", "--set", "condition_dropout=0"], "samples without a class"),
    ],
)
def test_statistics_that_the_model_will_not_have_are_refused_before_the_run(
    vpfb: Vpfb, argv: list[str], words: str
) -> None:
    ran = vpfb("train", "--data", "digits", *SMALL, "--steps", "1", "--out", "run", *argv, "--json")
    assert (ran.code, ran.json["error"]["kind"]) == (2, "config")
    assert words in f"{ran.json['error']['message']} {ran.json['error']['hint']}"
    assert not Path("run").exists()


def test_a_built_in_model_keeps_no_tilt(vpfb: Vpfb) -> None:
    ran = vpfb("info", "--match", "edges", "digits", "--json")
    assert ran.code == 2
    assert "built-in model" in json.loads(ran.out)["error"]["message"]
