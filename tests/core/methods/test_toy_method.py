# ruff: noqa: ARG002  (the signatures are those of the method interface)
"""A method that this file adds and no other file knows: a Gaussian by its energy alone, at one noise level, no flow.

E(x) = 1/2 (x - m)^T P (x - m) with a diagonal P, fitted by maximum likelihood; it draws x = m + P^(-1/2) code.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from cli_runner import Ran, Vpfb
from stopped_runs import assert_equal_bit_for_bit, state_of
from torch import Tensor, nn

from vpfb_cli import signals
from vpfb_cli.app import build
from vpfb_cli.command_line import run as run_command
from vpfb_core import methods, names
from vpfb_core.dynamics.ladder import Levels
from vpfb_core.dynamics.ode import Solution
from vpfb_core.dynamics.solver import Solver
from vpfb_core.methods.base import Method, MethodSettings
from vpfb_core.methods.fields import Field
from vpfb_core.methods.step import Batch, DataShape, Loss, Moment, Validation
from vpfb_core.model.runs import Run
from vpfb_core.uses.ood import detectors

LEVEL = 0.1
QUICK = [
    "--batch-size",
    "32",
    "--steps",
    "40",
    "--threads",
    "1",
    "--device",
    "cpu",
    "--set",
    "lr=0.05",
    "--set",
    "warmup=0",
]


class GaussianField(Field):
    """The mean and the diagonal of the precision, of the shape of the data."""

    levels = Levels(LEVEL, LEVEL)

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.network = nn.Identity()
        self.mean, self.log_precision = nn.Parameter(torch.zeros(shape)), nn.Parameter(torch.zeros(shape))

    def scales(self, level: float) -> tuple[float, float]:
        assert level == LEVEL, "no other level is trained"
        return 1.0, LEVEL

    def energy_and_score(self, x: Tensor, level: float, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        assert level == LEVEL, "no other level is trained"
        pull = self.log_precision.exp() * (x - self.mean)
        return 0.5 * (pull * (x - self.mean)).flatten(1).sum(1), -pull

    def negative_log_likelihood(self, data: Tensor) -> Tensor:
        """Without a constant, per dimension, (N,)."""
        energy, _ = self.energy_and_score(data, LEVEL)
        return (energy - 0.5 * self.log_precision.sum()) / self.mean.numel()


class Gaussian(Method):
    """A Gaussian."""

    name: ClassVar[str] = "gaussian"
    figures: ClassVar[tuple[str, ...]] = ("nll",)
    Settings = MethodSettings

    def field(self, network: nn.Module, data: DataShape) -> GaussianField:
        return GaussianField(data.shape)

    def losses(self, field: GaussianField, batch: Batch, at: Moment) -> Iterable[Loss]:
        def mean(rows: slice) -> Tensor:
            data, _ = batch.rows(rows)
            draws = torch.randn((batch.total, *data.shape[1:]), generator=at.generator("step"), device=data.device)
            noise = draws[batch.in_whole(rows)]
            return field.negative_log_likelihood(field.at_level(data, LEVEL, noise)).mean()

        yield Loss("nll", mean)

    def held_out(self, field: GaussianField, data: Validation) -> dict[str, Tensor]:
        _, z, _ = data.share()
        with torch.no_grad():
            return {"nll": field.negative_log_likelihood(z)}

    def draw(
        self, field: GaussianField, codes: Tensor, condition: Tensor | None, solver: Solver, *,
        options: Any = None, seed: int = 0, first: int = 0, guidance: float | None = None, keep_path: bool = False,
    ) -> Solution:  # fmt: skip
        zeros = torch.zeros(len(codes), dtype=torch.int64)
        x = (field.mean + (-0.5 * field.log_precision).exp() * codes).detach()
        return Solution(x=x, t=torch.zeros(len(codes)), nfe=zeros, accepted=zeros, rejected=zeros, status=zeros)


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    """The method is known within a test."""
    methods.register(Gaussian, summary="a Gaussian by its energy", gives=("energy",))
    yield
    del names.METHODS["gaussian"], methods._registered["gaussian"]


@pytest.fixture
def vpfb(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Vpfb:
    """Runs a command line in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*argv: str) -> Ran:
        code = run_command(build(), list(argv))
        return Ran(code, *capsys.readouterr())

    return call


def test_a_loss_that_is_not_one_number_is_named(vpfb: Vpfb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Gaussian, "losses", lambda _self, _field, batch, _at: [Loss("each", lambda _: batch.data)])
    ran = vpfb("train", "--data", "digits", "--method", "gaussian", *QUICK)
    assert ran.code == 1
    assert "the loss 'each' of some rows has shape (" in ran.err


def test_it_trains_resumes_and_serves_every_command_that_an_energy_serves(
    vpfb: Vpfb, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = ["train", "--data", "digits", "--method", "gaussian", *QUICK]
    whole = vpfb(*train, "--out", "whole", "--json")
    assert whole.code == 0, whole.err
    with monkeypatch.context() as patch:
        patch.setattr(signals._StopRequest, "stop", lambda _request: True)
        assert vpfb(*train, "--out", "parts").code == 130
    resumed = vpfb("train", "--resume", "parts", "--json")
    assert (resumed.code, resumed.json["steps"]) == (0, 40), resumed.err
    assert_equal_bit_for_bit(state_of("parts"), state_of("whole"))
    rows = list(csv.DictReader(Run(Path("whole")).log.open()))
    assert float(rows[-1]["val_nll"]) < float(rows[0]["val_nll"]) - 0.1

    drawn = vpfb("sample", "-m", "whole", "-n", "200", "-o", "a.npz", "--json")
    assert (drawn.code, drawn.json["nfe"]) == (0, 0), drawn.err
    images = np.load("a.npz")["images"]
    assert images[:, :, 0].mean() < 0.75 * images[:, :, 4].mean(), "digits leave their left edge dark"

    walked = vpfb("sample", "-m", "whole", "-n", "3", "--langevin", "20", "-o", "b.png", "--json")
    assert walked.code == 0, walked.err
    assert 0 < walked.json["acceptance"] <= 1, "chains at the one level need no flow"

    # Pixels at random are no digits; the Gaussian of the pixels of a digit says so.
    common = ["-m", "whole", "--json", "--score", "energy"]
    found = vpfb("ood", "--in", "digits", "--out", "noise", *common, "--limit", "60")
    assert found.code == 0, found.err
    assert found.json["results"][0]["auroc"] > 0.99
    scored = vpfb("score", "digits", *common)
    assert (scored.code, scored.json["n"]) == (0, 1797), scored.err
    evaluated = vpfb("eval", "--data", "digits", "-m", "whole", "-n", "50", "--json")
    assert evaluated.code == 0, evaluated.err
    assert "frechet" in evaluated.json["metrics"]

    shown = vpfb("info", "whole", "--json").json
    assert (shown["method"], shown["calibrated"]) == ("gaussian", False)
    assert set(shown["figures"]) == {"val_nll"}
    monkeypatch.setattr(detectors, "STEPS", 0)  # they take a minute
    calibrated = vpfb("info", "--calibrate", "whole", "--json")
    assert calibrated.code == 0, calibrated.err
    every = vpfb("ood", "--in", "digits", "--out", "noise", "-m", "whole", "--limit", "60", "--json")
    assert every.code == 0, every.err
    assert every.json["results"][0]["auroc"] > 0.99, "the reference reads the one level that there is"


def test_what_needs_a_code_is_refused_in_a_sentence_that_names_the_methods_that_have_one(vpfb: Vpfb) -> None:
    assert vpfb("train", "--data", "digits", "--method", "gaussian", *QUICK, "--steps", "2", "--out", "run").code == 0
    ran = vpfb("interpolate", "-n", "3", "-m", "run", "--json")
    error: dict[str, Any] = ran.json["error"]
    assert (ran.code, "needs a code of each datum" in error["message"]) == (2, True), ran.err

    assert error["hint"].endswith("vpfb, flow-matching, latent")
