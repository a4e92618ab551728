"""`vpfb eval` as people type it and scripts read it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from cli_runner import Vpfb
from miniatures import write_mnist
from PIL import Image
from torchvision.models import resnet18

from vpfb_core.data import load
from vpfb_core.dynamics.solver import DEFAULT_METHOD
from vpfb_core.uses.evaluation import classifier, features, weights

CONDITIONS = {"value", "n", "split", "better", "seed", "resize", "extractor", "weights", "solver", "nfe"}
FEW = ["-n", "12", "--nfe", "4"]


@pytest.fixture
def vpfb(vpfb: Vpfb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Vpfb:
    """Runs a command line in an empty folder with an empty cache, on the CPU."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TORCH_HOME", raising=False)
    monkeypatch.setattr(classifier, "STEPS", 10)
    return lambda *argv: vpfb(*argv, "--device", "cpu")


@pytest.fixture(scope="module")
def saved_resnet(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The file of random weights of a ResNet-18."""
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(resnet18().state_dict(), path)
    return str(path)


# --- what is printed --------------------------------------------------------------------------------------------------


def test_the_document_states_the_conditions_of_every_figure(vpfb: Vpfb) -> None:
    ran = vpfb("eval", "--data", "digits", "-m", "digits", *FEW, "--seed", "3", "--json")
    assert ran.code == 0
    report = ran.json
    assert set(report) == {"model", "data", "metrics", "nfe", "seconds"}
    assert (report["model"], report["data"], report["nfe"]) == ("digits", "digits", 4)
    compared = {"frechet", "kernel", "precision", "recall", "density", "coverage", "1nn"}
    assert set(report["metrics"]) == compared | {"residual", "bpd"}
    for name, figure in report["metrics"].items():
        assert set(figure) >= CONDITIONS
        assert (figure["n"], figure["seed"]) == (12, 3)
        if name in compared:
            assert (figure["split"], figure["extractor"], figure["solver"]) == ("all", "pixels", DEFAULT_METHOD)
    assert report["metrics"]["bpd"]["split"] == "held out"
    assert 9 < report["metrics"]["bpd"]["blur_grey_levels"] < 10
    assert "features: pixels" in ran.err
    assert "trained on these images" in ran.err


def test_people_get_a_table_with_the_conditions_beside_it(vpfb: Vpfb) -> None:
    argv = ["eval", "--data", "digits", "-m", "digits", *FEW, "--metrics", "precision,residual,bpd"]
    ran = vpfb(*argv)
    lines = [line.split() for line in ran.out.splitlines()]
    assert lines[0] == ["metric", "value", "better", "n", "split", "features"]
    assert [line[0] for line in lines[1:]] == ["precision", "residual", "bpd"]
    assert lines[1][2:] == ["higher", "12", "all", "pixels"]
    assert lines[2][2:] == ["lower", "12", "held", "out", "-"]
    assert "blurred by 9.6 grey levels" in ran.err
    assert f"4 gradient evaluations per image by {DEFAULT_METHOD}" in ran.err
    quiet = vpfb(*argv, "-q")
    assert (quiet.out, quiet.err) == (ran.out, "")


def test_statistics_are_a_table_of_their_own(vpfb: Vpfb) -> None:
    argv = ["eval", "--data", "digits", "-m", "digits", *FEW, "--metrics", "statistics"]
    ran = vpfb(*argv, "--json")
    assert ran.code == 0, ran.err
    found = ran.json["metrics"]
    assert set(found) == {"statistics"}
    rows = {row["name"]: row for row in found["statistics"]["rows"]}
    assert {"brightness", "contrast", "edges", "histogram:0.5", "class:9"} <= set(rows)
    assert all(set(row) == {"name", "real", "samples", "gap_sd", "gap_se"} for row in rows.values())
    assert (found["statistics"]["n"], found["statistics"]["nfe"], ran.json["nfe"]) == (12, 4, 4)
    images = load("digits", limit=12).images
    assert rows["brightness"]["real"] == pytest.approx(images.numpy().mean() / 255)
    lines = [line.split() for line in vpfb(*argv).out.splitlines()]
    assert lines[0][:3] == ["statistic", "real", "samples"]
    assert [line[0] for line in lines[1:]] == list(rows)


def test_statistics_stand_below_other_figures(vpfb: Vpfb) -> None:
    ran = vpfb("eval", "--data", "digits", "-m", "digits", *FEW, "--metrics", "statistics,frechet")
    assert ran.code == 0, ran.err
    assert [line.split()[0] for line in ran.out.splitlines() if line][:3] == ["metric", "frechet", "statistic"]


def test_the_same_seed_gives_the_same_figures(vpfb: Vpfb) -> None:
    argv = ["eval", "--data", "digits", "-m", "digits", *FEW, "--metrics", "frechet,1nn,residual", "--json"]
    first, second, other = (vpfb(*argv, *more).json["metrics"] for more in ([], [], ["--seed", "1"]))
    assert first == second
    assert all(other[name]["value"] != figure["value"] for name, figure in first.items() if name != "1nn")


def test_a_model_of_another_shape_is_compared_in_its_own(vpfb: Vpfb, tmp_path: Path) -> None:
    write_mnist(tmp_path, count=30)
    ran = vpfb(
        "eval", "--data", "mnist", "--data-root", str(tmp_path), "-m", "digits", "--nfe", "2", "--metrics",
        "frechet,residual", "--json",
    )  # fmt: skip
    figures = ran.json["metrics"]
    for name in ("frechet", "residual"):
        assert (figures[name]["n"], figures[name]["split"]) == (15, "test")
        assert figures[name]["resize"] == "centre square, Lanczos to 8×8, grey"
    assert "trained on 'digits', not on 'mnist'" in ran.err


# --- features ---------------------------------------------------------------------------------------------------------


def test_a_fitted_classifier_is_taken_from_then_on(vpfb: Vpfb) -> None:
    evaluate = ["eval", "--data", "digits", "-m", "digits", *FEW, "--metrics", "recall,1nn", "--json"]
    assert set(vpfb(*evaluate).json["metrics"]) == {"recall", "1nn"}
    unfitted = vpfb(*evaluate, "--features", "classifier")
    assert (unfitted.code, unfitted.json["error"]["kind"]) == (2, "missing")
    assert "--fit-features" in unfitted.json["error"]["hint"]

    fitted = vpfb("eval", "--data", "digits", "--fit-features", "--json").json
    assert {"data", "features", "output", "weights", "accuracy", "n", "held_out", "shape", "seconds"} <= set(fitted)
    assert fitted["shape"] == [1, 8, 8]
    assert fitted["n"] + fitted["held_out"] == 1797
    assert Path(fitted["output"]).is_file()

    found = vpfb(*evaluate)
    figures = found.json["metrics"]
    assert set(figures) == {"recall", "1nn", "1nn_pixels"}
    assert (figures["recall"]["extractor"], figures["recall"]["weights"]) == ("classifier", fitted["weights"])
    assert "features: classifier" in found.err
    assert "kept from an earlier call" not in found.err
    again = vpfb(*evaluate)
    assert "kept from an earlier call" in again.err
    assert again.json["metrics"] == figures
    assert vpfb(*evaluate, "--features", "pixels").json["metrics"]["recall"]["extractor"] == "pixels"


def test_a_classifier_is_fitted_at_the_models_shape_where_one_is_named(vpfb: Vpfb, tmp_path: Path) -> None:
    write_mnist(tmp_path, count=60)
    argv = ["eval", "--data", "mnist:test", "--data-root", str(tmp_path), "--fit-features", "--json"]
    assert vpfb(*argv).json["shape"] == [1, 28, 28]
    fitted = vpfb(*argv, "-m", "digits").json
    assert fitted["shape"] == [1, 8, 8]
    assert fitted["n"] + fitted["held_out"] == 60, "of the training split, whatever split is named"


def test_torchvisions_features_are_named_with_the_hash_of_their_weights(vpfb: Vpfb, saved_resnet: str) -> None:
    ran = vpfb(
        "eval", "--data", "digits", "-m", "digits", "-n", "6", "--nfe", "1", "--solver", "euler", "--metrics",
        "frechet", "--features", "torchvision:resnet18", "--weights-path", saved_resnet, "--json",
    )  # fmt: skip
    figure = ran.json["metrics"]["frechet"]
    assert (figure["extractor"], figure["solver"], figure["nfe"]) == ("torchvision:resnet18", "euler", 1)
    assert figure["weights"] == weights.read(Path(saved_resnet)).digest
    assert "224×224" in figure["resize"]


def test_fid_and_kid_are_of_inceptions_features(vpfb: Vpfb, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network itself has tests of its own; here a small one stands in its place."""
    fake = features.Extractor("inception", "6726825d", "to 299×299", lambda images: images.flatten(1).float() / 255)
    monkeypatch.setattr(features, "find", lambda name, *_more, **_settings: fake if name == "inception" else None)
    ran = vpfb("eval", "--data", "digits", "-m", "digits", *FEW, "--metrics", "fid,kid,precision", "--json")
    figures = ran.json["metrics"]
    assert set(figures) == {"fid", "kid", "precision"}
    assert all(figure["extractor"] == "inception" for figure in figures.values())
    assert "deviation_of_subsets" in figures["kid"]
    assert all(figures[name]["standard_weights"] for name in ("fid", "kid"))
    assert "FIDs of 50,000" in ran.err


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "code", "kind", "words"),
    [
        (["--metrics", "presision"], 2, "config", "did you mean 'precision'"),
        (["--metrics", "fid", "--features", "pixels"], 2, "config", "use frechet"),
        (["--metrics", "fid", "--no-download"], 2, "missing", "weights of FID are not here"),
        (["--metrics", "fid", "--weights-path", "nowhere.pth"], 2, "missing", "nowhere.pth"),
        (["--metrics", "residual", "--features", "pixels"], 2, "config", "compares no features"),
        (["--features", "pixel"], 2, "config", "did you mean 'pixels'"),
        (["--features", "torchvision:resnet18"], 2, "missing", "needs its weights"),
        (["--metrics", "precision", "-n", "5"], 2, "config", "-n 5 is too few"),
        (["-n", "0"], 2, "usage", "0 is not at least 1"),
        (["--metrics", "recall", "-n", "2000"], 3, "data", "2,000 are needed"),
        (["--metrics", "recall", "--solver", "eular"], 2, "config", "eular"),
        (["--fit-features", "--metrics", "recall", "-n", "9"], 2, "config", "takes no --metrics, -n"),
    ],
)
def test_a_metric_that_cannot_be_measured_is_refused_with_the_reason(
    argv: list[str], code: int, kind: str, words: str, vpfb: Vpfb
) -> None:
    ran = vpfb("eval", "--data", "digits", "-m", "digits", *argv, "--json")
    error = ran.json["error"]
    assert (ran.code, error["kind"]) == (code, kind)
    assert words in f"{error['message']} {error['hint']}"


def test_damaged_and_foreign_weights_are_errors_of_the_file(vpfb: Vpfb, saved_resnet: str) -> None:
    argv = ["eval", "--data", "digits", "-m", "digits", *FEW]
    Path("damaged.pth").write_bytes(b"not weights")
    for name in ("torchvision:resnet18", "inception"):
        ran = vpfb(*argv, "--features", name, "--weights-path", "damaged.pth", "--json")
        assert (ran.code, ran.json["error"]["kind"]) == (4, "checkpoint")
        assert "damaged.pth" in ran.json["error"]["message"]
    ran = vpfb(*argv, "--features", "torchvision:resnet34", "--weights-path", saved_resnet, "--json")
    assert (ran.code, "does not fit resnet34" in ran.json["error"]["message"]) == (4, True)


def test_without_the_extra_fid_says_what_to_install(vpfb: Vpfb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "has_torch_fidelity", lambda: False)
    ran = vpfb("eval", "--data", "digits", "-m", "digits", "--metrics", "fid", "--json")
    assert (ran.code, ran.json["error"]["hint"]) == (2, 'pip install "vpfb[fid]"')
    assert vpfb("eval", "--data", "digits", "-m", "digits", *FEW, "--metrics", "frechet").code == 0


def test_features_are_not_fitted_without_labels(vpfb: Vpfb) -> None:
    Path("imgs").mkdir()
    for index in range(3):
        Image.fromarray(np.full((9, 9), index, np.uint8)).save(f"imgs/{index}.png")
    ran = vpfb("eval", "--data", "./imgs", "--fit-features", "--json")
    assert (ran.code, ran.json["error"]["kind"]) == (3, "data")


def test_too_few_images_are_an_error_of_the_data(vpfb: Vpfb) -> None:
    np.save("few.npy", np.zeros((5, 8, 8), np.uint8))
    ran = vpfb("eval", "--data", "few.npy", "-m", "digits", "--json")
    assert (ran.code, ran.json["error"]["kind"]) == (3, "data")
    assert "5 images, and 6 are needed" in ran.json["error"]["message"]


def test_the_residual_is_the_validation_residual_at_the_end_of_the_run(vpfb: Vpfb) -> None:
    small = ["--set", "widths=[8]", "--batch-size", "8", "--threads", "1", "--val-fraction", "0.02", "--steps", "3"]
    trained = vpfb("train", "--data", "digits", "--out", "run", "--seed", "4", *small, "--json")
    assert trained.code == 0, trained.err
    ran = vpfb("eval", "--data", "digits", "-m", "run", "--metrics", "residual", "--seed", "4", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["metrics"]["residual"]["value"] == pytest.approx(trained.json["val_residual"], rel=1e-4)
