"""`vpfb info --calibrate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import vpfb_model
from present import present

import vpfb_core as vpfb
from vpfb_cli.app import build
from vpfb_cli.command_line import run
from vpfb_core import networks
from vpfb_core.data.image_statistics import ImageStatistics
from vpfb_core.data.source import ConditionGroup
from vpfb_core.methods.path.homotopy import OT
from vpfb_core.methods.vpfb import estimation
from vpfb_core.methods.vpfb.potential import Potential
from vpfb_core.uses import calibration
from vpfb_core.uses.ood import fit

TWO = (ConditionGroup("class", ("0", "1")),)
ABOUT = {
    "data": {"name": "two.npz"}, "step": 1, "versions": {}, "figures": {}, "seconds": 1.0, "seed": 0, "device": "cpu",
}  # fmt: skip


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An untrained model of digits of two classes, calibrated on a few of them only."""
    monkeypatch.chdir(tmp_path)
    digits = vpfb.data.load("digits", conditional=True)
    labels = present(digits.labels)[:, 0].numpy()
    chosen = np.flatnonzero(labels < 2)[:60]
    np.savez("two.npz", images=digits.images[chosen, 0].numpy(), labels=labels[chosen])
    monkeypatch.setattr(calibration, "IMAGES", 24)
    monkeypatch.setattr(fit, "IMAGES", 24)
    monkeypatch.setattr(estimation, "ANCHOR_POINTS", 4)
    network = {"name": "unet", "channels": 1, "size": 8, "widths": [4], "classes": [2]}
    potential = Potential(networks.build(network), OT(sigma_min=0.04))
    statistics = ImageStatistics((0.3,), 0.37)
    vpfb_model(potential, network=network, statistics=statistics, groups=TWO, about=ABOUT).save("model.safetensors")
    return tmp_path / "model.safetensors"


def vpfb_info(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = run(build(), ["info", *argv])
    return code, *capsys.readouterr()


def test_calibrating_writes_the_normaliser_into_the_model_and_shows_it(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before: dict[str, Any] = json.loads(vpfb_info(capsys, str(model), "--json")[1])
    assert (before["calibrated"], before["normaliser"]) == (False, None)
    code, out, err = vpfb_info(capsys, "--calibrate", str(model), "--json", "--threads", "1", "--seed", "7")
    assert code == 0, err
    shown = json.loads(out)
    assert shown["calibrated"] is True
    assert [round(level["noise"], 1) for level in shown["normaliser"]] == [2.0, 1.0, 0.5, 0.2, 0.1]
    for level in shown["normaliser"]:
        # N = 0 is exact, so the normaliser is the Gaussian's and the anchor agrees but for the solver.
        assert level["constant"] == pytest.approx(-32 * np.log(2 * np.pi), abs=1e-3)
        assert level["anchor_difference"] == pytest.approx(0, abs=0.05)
        assert level["blur"] == pytest.approx(level["noise"] * 0.37 * 255)
    assert vpfb_info(capsys, str(model), "--json")[1] == out
    text = vpfb_info(capsys, str(model))[1]
    assert "yes; densities for noise of 0.1 or more" in text
    assert "-58.81 +/- 0.00" in text
    loaded = vpfb.load(model, device="cpu")
    assert loaded.about["calibration_seed"] == 7
    assert loaded.log_density(torch.zeros(1, 1, 8, 8)).isfinite().all()


def test_other_images_can_be_named_and_must_fit(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez("grey.npz", images=np.zeros((30, 8, 8), np.uint8), labels=np.zeros(30, np.int64))
    untouched = model.read_bytes()
    code, _, err = vpfb_info(capsys, "--calibrate", str(model), "--data", "grey.npz")
    assert (code, "classes" in err) == (3, True), err
    code, _, err = vpfb_info(capsys, "--calibrate", str(model), "--data", "absent")
    assert (code, "absent" in err) == (3, True), err
    code, _, err = vpfb_info(capsys, str(model), "--data", "digits")
    assert (code, "--calibrate" in err) == (2, True), err
    assert model.read_bytes() == untouched


def test_the_built_in_model_is_not_written_to(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = vpfb_info(capsys, "--calibrate", "digits")
    assert code == 2
    assert "built-in" in err
