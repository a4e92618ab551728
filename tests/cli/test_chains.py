"""`vpfb interpolate`, and `vpfb sample` with guidance, Langevin steps and known pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from cli_runner import Vpfb
from models import vpfb_model
from PIL import Image, ImageSequence

from vpfb_core import networks
from vpfb_core.data.image_statistics import ImageStatistics
from vpfb_core.data.source import ConditionGroup
from vpfb_core.dynamics.solver import DEFAULT_NFE
from vpfb_core.methods.path.homotopy import OT
from vpfb_core.methods.vpfb.potential import Potential
from vpfb_core.uses import inpainting

pytestmark = pytest.mark.usefixtures("on_the_cpu")

CLASSES = ("ring", "bar")
SAMPLE = {"model", "output", "n", "nfe", "solver", "seconds", "seed"}
LOOSE = ("--rtol", "1e-3", "--atol", "1e-3")


def write_model(path: Path, classes: tuple[str, ...]) -> str:
    """A small grey 8×8 model with random weights."""
    network = {"name": "unet", "channels": 1, "size": 8, "widths": [8], "classes": [len(classes)] if classes else []}
    built = networks.build(network)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for parameter in built.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
    groups = (ConditionGroup("class", classes),) if classes else ()
    vpfb_model(
        Potential(built, OT(sigma_min=0.01), 0.5),
        network=network,
        statistics=ImageStatistics((0.5,), 0.15),
        groups=groups,
    ).save(path)
    return str(path)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_model(tmp_path_factory.mktemp("model") / "classes.safetensors", CLASSES)


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_model(tmp_path_factory.mktemp("model") / "plain.safetensors", ())


@pytest.fixture
def pictures(tmp_path: Path) -> np.ndarray:
    """a.png, b.png, mask.png (white above), wide.png, white.png and broken.png; returns the pixels of a.png."""
    random = np.random.default_rng(0)
    pixels = random.integers(60, 200, (8, 8), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(random.integers(60, 200, (8, 8), dtype=np.uint8)).save(tmp_path / "b.png")
    mask = np.zeros((8, 8), np.uint8)
    mask[:4] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    Image.fromarray(np.zeros((8, 16), np.uint8)).save(tmp_path / "wide.png")
    Image.fromarray(np.full((8, 8), 255, np.uint8)).save(tmp_path / "white.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    return pixels


# --- interpolate ------------------------------------------------------------------------------------------------------


def test_interpolation_between_prior_points_is_a_grid_whose_ends_are_samples(vpfb: Vpfb, model: str) -> None:
    pairs = ["interpolate", "-m", model, "--rows", "3", "-n", "5", "-o", "a/grid.png", "--seed", "4"]
    ran = vpfb(*pairs, *LOOSE, "--json")
    assert ran.code == 0, ran.err
    assert ran.json == {"model": model, "output": "a/grid.png", "frames": 5, "reconstruction_rms": None, "seed": 4}
    grid = np.asarray(Image.open("a/grid.png")).astype(int)
    assert grid.shape == (3 * 66 + 2, 5 * 66 + 2)
    vpfb("sample", "-m", model, "-n", "6", "-o", "ends.npz", "--seed", "4", "--solver", "dopri5", *LOOSE)
    ends = np.load("ends.npz")["images"][:, :, :, 0].astype(int)
    for row in range(3):
        for column, end in [(0, ends[2 * row]), (4, ends[2 * row + 1])]:
            top, left = 2 + 66 * row, 2 + 66 * column
            assert np.abs(grid[top : top + 64 : 8, left : left + 64 : 8] - end).max() <= 1


def test_interpolation_between_images_states_how_well_they_come_back(
    vpfb: Vpfb, model: str, pictures: np.ndarray
) -> None:
    way = ["interpolate", "-m", model, "--from", "a.png", "--to", "b.png", "-n", "4", "-o", "way.png"]
    ran = vpfb(*way, *LOOSE, "--json")
    assert ran.code == 0, ran.err
    assert 0 < ran.json["reconstruction_rms"] < 0.01
    first = np.asarray(Image.open("way.png")).astype(int)[2:66:8, 2:66:8]
    assert np.sqrt(np.mean((first - pictures.astype(int)) ** 2)) / 255 < ran.json["reconstruction_rms"] + 1 / 255
    assert f"{ran.json['reconstruction_rms']:.4f}" in ran.err
    coarse = vpfb("interpolate", "-m", model, "--from", "a.png", "--to", "b.png", "--nfe", "2", "--json").json
    assert coarse["reconstruction_rms"] > ran.json["reconstruction_rms"], "the figure is measured"


def test_interpolation_can_be_a_gif_of_a_class(vpfb: Vpfb, model: str) -> None:
    command = ["interpolate", "-m", model, "--rows", "2", "-n", "6", "-o", "way.gif", "--solver", "ab2", "--nfe", "8"]
    frames = []
    for extra in ([], ["--class", "ring"], ["--class", "bar"], ["--class", "bar", "--guidance", "3"]):
        ran = vpfb(*command, *extra, "-q")
        assert (ran.code, ran.out, ran.err) == (0, "way.gif\n", "")
        gif = Image.open("way.gif")
        assert len(ImageSequence.all_frames(gif)) == 6
        frames.append(np.asarray(gif.convert("L")).astype(int))
    assert all(np.abs(a - b).max() > 10 for i, a in enumerate(frames) for b in frames[:i])


# --- sample: guidance -------------------------------------------------------------------------------------------------


def test_guidance_strengthens_a_class(vpfb: Vpfb, model: str) -> None:
    drawn = {}
    for weight in ("1", "0", "3"):
        assert vpfb("sample", "-m", model, "-n", "4", "-o", "a.npz", "--class", "bar", "--guidance", weight).code == 0
        drawn[weight] = np.load("a.npz")["images"].astype(int)
    vpfb("sample", "-m", model, "-n", "4", "-o", "bar.npz", "--class", "bar")
    vpfb("sample", "-m", model, "-n", "4", "-o", "any.npz")
    assert np.abs(drawn["1"] - np.load("bar.npz")["images"]).max() <= 1
    assert np.abs(drawn["0"] - np.load("any.npz")["images"]).max() <= 1
    assert np.abs(drawn["3"] - drawn["1"]).max() > 10
    idle = vpfb("sample", "-m", model, "-n", "1", "--guidance", "1e308", "--json")
    assert "no --class" in idle.err
    assert idle.json["nfe"] == vpfb("sample", "-m", model, "-n", "1", "--json").json["nfe"]


# --- sample: Langevin -------------------------------------------------------------------------------------------------


def test_a_long_run_reports_its_chains(vpfb: Vpfb, model: str) -> None:
    command = ["sample", "-m", model, "-n", "4", "--class", "ring", "--seed", "2"]
    ran = vpfb(*command, "-o", "walked.npz", "--langevin", "60", "--json")
    assert ran.code == 0, ran.err
    report = ran.json
    assert set(report) == SAMPLE | {"acceptance", "energy_trace", "moved"}
    assert 0.2 < report["acceptance"] <= 1
    assert len(report["energy_trace"]) == 50
    assert all(isinstance(energy, float) for energy in report["energy_trace"])
    assert report["nfe"] > DEFAULT_NFE + 60
    vpfb(*command, "-o", "start.npz")
    walked, start = (np.load(name)["images"].astype(float) / 255 for name in ("walked.npz", "start.npz"))
    both = ["--class", "ring", "--class", "bar", "--langevin", "2"]
    assert vpfb(*command[:5], *both, "-o", "both.png").code == 0, "classes alternate over the chains"
    moved = np.sqrt(((walked - start) ** 2).mean((1, 2, 3))).mean()
    assert report["moved"] == pytest.approx(moved, abs=0.005)
    assert moved > 0.01
    assert "accepted" in ran.err


def test_a_long_run_writes_what_other_samples_write(vpfb: Vpfb, model: str) -> None:
    for out in ("grid.png", "folder/"):
        assert vpfb("sample", "-m", model, "-n", "3", "--langevin", "1", "--batch-size", "2", "-o", out).code == 0
    assert Image.open("grid.png").size == (134, 134)
    assert sorted(path.name for path in Path("folder").iterdir()) == ["000000.png", "000001.png", "000002.png"]


# --- sample: known pixels ---------------------------------------------------------------------------------------------


def test_known_pixels_stay_and_the_others_differ(
    vpfb: Vpfb, model: str, pictures: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, few = inpainting.inpaint, {"levels": 9, "steps": 4}
    monkeypatch.setattr(inpainting, "inpaint", lambda *given, **settings: honest(*given, **settings | few))
    ran = vpfb("sample", "-m", model, "-n", "3", "--known", "a.png", "--mask", "mask.png", "-o", "filled.npz", "--json")
    assert ran.code == 0, ran.err
    report = ran.json
    assert set(report) == SAMPLE | {"acceptance", "energy_trace", "moved"}
    assert (report["n"], report["solver"], len(report["energy_trace"])) == (3, "heun", 9)
    filled = np.load("filled.npz")["images"][:, :, :, 0]
    assert (filled[:, :4] == pictures[:4]).all(), "white is kept"
    assert (filled[:, 4:] != pictures[4:]).mean() > 0.9, "black is filled in"
    assert all((filled[i, 4:] != filled[j, 4:]).mean() > 0.8 for i in range(3) for j in range(i))
    distances = np.sqrt(((filled[:, 4:] / 255 - pictures[4:] / 255) ** 2).mean((1, 2)))
    assert report["moved"] == pytest.approx(distances.mean(), abs=0.005)
    assert "32 of 64 pixels kept" in ran.err


# --- what goes wrong --------------------------------------------------------------------------------------------------

WRONGS = [
    ("sample -m PLAIN --guidance 2", 2, "unconditional"),
    ("sample -m PLAIN --guidance 1", 2, "unconditional"),
    ("interpolate -m PLAIN --guidance 2", 2, "unconditional"),
    ("sample -m MODEL --guidance nan", 2, "nan"),
    ("sample -m MODEL --langevin 0", 2, "0"),
    ("sample -m MODEL --langevin 5 -o way.gif", 2, ".gif"),
    ("sample -m MODEL --known a.png", 2, "--known needs --mask"),
    ("sample -m MODEL --mask mask.png", 2, "--mask needs --known"),
    ("sample -m MODEL --known a.png --mask mask.png --langevin 3", 2, "exclude each other"),
    ("sample -m MODEL --known a.png --mask mask.png --nfe 3", 2, "--known"),
    ("sample -m MODEL --known a.png --mask mask.png --rtol 1e-3", 2, "--known"),
    ("sample -m MODEL --known a.png --mask mask.png -o way.gif", 2, ".gif"),
    ("sample -m MODEL --known absent.png --mask mask.png", 3, "absent.png"),
    ("sample -m MODEL --known a.png --mask absent.png", 3, "absent.png"),
    ("sample -m MODEL --known broken.png --mask mask.png", 3, "broken.png"),
    ("sample -m MODEL --known a.png --mask wide.png", 3, "16x8 pixels, but 'a.png' has 8x8"),
    ("sample -m MODEL --known a.png --mask white.png", 3, "white everywhere"),
    ("interpolate -m MODEL --from a.png", 2, "--from needs --to"),
    ("interpolate -m MODEL --to a.png", 2, "--to needs --from"),
    ("interpolate -m MODEL --from a.png --to absent.png", 3, "absent.png"),
    ("interpolate -m MODEL --from a.png --to broken.png", 3, "broken.png"),
    ("interpolate -m MODEL --from a.png --to b.png --rows 2", 2, "exclude each other"),
    ("interpolate -m MODEL --from a.png --to b.png --class ring --class bar", 2, "2 classes"),
    ("interpolate -m MODEL --class ring --class bar --rows 1", 2, "2 classes were given for 1 row"),
    ("sample -m MODEL -n 1 --class ring --class bar", 2, "2 classes were given for 1 sample"),
    ("interpolate -m MODEL --class cross", 2, "classes: ring, bar"),
    ("interpolate -m MODEL -n 1", 2, "1 is not at least 2"),
    ("interpolate -m MODEL -o way.npz", 2, "way.npz"),
    ("interpolate -m MODEL -o folder/", 3, "it is a folder"),
    ("interpolate -m MODEL --rows 0", 2, "0"),
    ("interpolate -m MODEL --solver dopri5 --nfe 5", 2, "dopri5"),
    ("interpolate -m absent", 4, "absent"),
]


@pytest.mark.parametrize(("line", "code", "words"), WRONGS, ids=[line for line, _, _ in WRONGS])
def test_an_error_has_at_most_two_lines_and_its_exit_code(
    line: str, code: int, words: str, vpfb: Vpfb, model: str, plain: str, pictures: np.ndarray
) -> None:
    argv = [{"MODEL": model, "PLAIN": plain}.get(word, word) for word in line.split()]
    before = sorted(Path().iterdir())
    ran = vpfb(*argv, "-q")
    assert ran.code == code, ran.err
    assert words in ran.err
    assert ran.out == ""
    assert len(ran.err.strip().splitlines()) <= 2
    assert sorted(Path().iterdir()) == before
    report = vpfb(*argv, "--json", "-q").json["error"]
    assert (report["exit_code"], set(report)) == (code, {"kind", "message", "hint", "exit_code"})
