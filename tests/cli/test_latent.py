"""A model of the method latent: the commands that work with it and those that refuse."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from cli_runner import Vpfb
from PIL import Image

from vpfb_cli.app import build
from vpfb_cli.command_line import run
from vpfb_core.methods.latent import posterior

TRAIN = ["train", "--method", "latent", "--set", "width=16", "--set", "pool=64", "--threads", "1", "--steps", "30",
         "--out", "run", "-q"]  # fmt: skip
CASES = {
    "images": ["--data", "digits", "--val-fraction", "0.02", "--batch-size", "16"],
    "rows": ["--data", "moons", "--val-fraction", "0.02", "--batch-size", "16"],
}


@pytest.fixture(autouse=True)
def short_chains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posterior, "BURN_IN", 5)
    monkeypatch.setattr(posterior, "STEPS", 20)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A run on images and one on rows."""
    found = {}
    for case, words in CASES.items():
        folder = tmp_path_factory.mktemp(case)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            patch.setattr(posterior, "BURN_IN", 5)
            patch.setattr(posterior, "STEPS", 5)
            patch.setattr("vpfb_core.uses.ood.fit.IMAGES", 60)
            patch.setattr("vpfb_core.methods.latent.two_stages.CHAINS", 40)
            assert run(build(), [*TRAIN, *words]) == 0
        found[case] = str(folder / "run")
    return found


def read(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def test_images_are_drawn_encoded_scored_and_interpolated(models: dict[str, str], vpfb: Vpfb) -> None:
    model = models["images"]
    assert vpfb("sample", "-m", model, "-n", "8", "--nfe", "3", "-o", "pictures/").code == 0
    assert vpfb("sample", "-m", model, "-n", "2", "--nfe", "3", "--start", "fresh", "-o", "fresh.png").code == 0
    ran = vpfb("encode", "pictures", "-m", model, "--clusters", "2", "--montage", "groups.png", "--json")
    assert ran.code == 0, ran.err
    assert (ran.json["n"], ran.json["dimension"], ran.json["clusters"]) == (8, 8, 2)
    assert list(read("codes.csv")[0]) == ["file", *(f"code_{i}" for i in range(8)), "cluster"]
    scored = vpfb("score", "pictures", "-m", model, "-o", "scores.csv", "--json")
    assert scored.code == 0, scored.err
    assert all(float(row["bits_per_dim"]) for row in read("scores.csv"))
    a, b = sorted(Path("pictures").iterdir())[:2]
    way = vpfb("interpolate", "-m", model, "--from", str(a), "--to", str(b), "-n", "3", "-o", "way.png", "--json")
    assert way.json["reconstruction_rms"] > 0


def test_outliers_are_found_and_samples_are_evaluated(models: dict[str, str], vpfb: Vpfb) -> None:
    model = models["images"]
    ran = vpfb("ood", "--in", "digits", "--out", "noise", "-m", model, "--limit", "30", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["results"][0]["auroc"] > 0.9
    ran = vpfb("eval", "--data", "digits", "-m", model, "-n", "20", "--metrics", "residual,bpd", "--json")
    assert {"residual", "bpd"} <= set(ran.json["metrics"]), ran.err


def test_rows_are_drawn_scored_and_encoded(models: dict[str, str], vpfb: Vpfb) -> None:
    model = models["rows"]
    assert vpfb("sample", "-m", model, "-n", "5", "--nfe", "3", "-o", "rows.csv").code == 0
    assert len(read("rows.csv")) == 5
    scored = vpfb("score", "rows.csv", "-m", model, "-o", "scores.csv")
    assert scored.code == 0, scored.err
    assert all(float(row["log_density"]) for row in read("scores.csv"))
    ran = vpfb("encode", "rows.csv", "-m", model, "--json")
    assert (ran.json["n"], ran.json["dimension"]) == (5, 2)


def test_info_shows_the_method_and_the_error_of_its_normaliser(models: dict[str, str], vpfb: Vpfb) -> None:
    shown = vpfb("info", models["images"], "--json").json
    assert (shown["method"], shown["calibrated"]) == ("latent", True)


@pytest.mark.parametrize(
    "line",
    [
        "compose 3&5 -m MODEL",
        "sample -n 1 --langevin 3 -m MODEL",
        "sample -n 1 --known a.png --mask a.png -m MODEL",
        "ood --in digits --out noise --score dimension -m MODEL",
        "ood --in digits --out noise --score likelihood -m MODEL",
    ],
)
def test_what_needs_more_is_refused_in_a_sentence_that_names_the_methods(
    line: str, models: dict[str, str], vpfb: Vpfb
) -> None:
    Image.new("L", (8, 8)).save("a.png")
    ran = vpfb(*line.replace("MODEL", models["images"]).split())
    assert (ran.code, ran.out) == (2, "")
    assert "which a model of the method latent does not have" in ran.err
    assert "methods that have one: vpfb" in ran.err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("sample -m MODEL --solver heun", "come from a Markov chain, which takes no solver"),
        ("sample -m MODEL -o path.gif", "without a path from noise"),
        ("sample -m MODEL --start middle", "unknown start 'middle'"),
        ("sample -m digits --start pool", "a model of the method vpfb is sampled without start"),
        ("encode digits -m MODEL --nfe 4", "are not found along a flow"),
        ("train --data digits --method latent --conditional", "the method latent trains without classes"),
        ("train --data digits --method latent --set network=unet", "does not train the network unet"),
        ("train --data digits --set network=decoder", "the method vpfb does not train the network decoder"),
    ],
)
def test_options_that_do_not_fit_are_refused(line: str, words: str, models: dict[str, str], vpfb: Vpfb) -> None:
    ran = vpfb(*line.replace("MODEL", models["images"]).split())
    assert (ran.code, ran.out) == (2, "")
    assert words in ran.err
    assert not list(Path().iterdir())
