"""Settings of torch that hold during a run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

import vpfb_core as vpfb
from vpfb_core.machine import devices


def test_deterministic_algorithms_are_used_inside_the_context_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    assert not torch.are_deterministic_algorithms_enabled()
    with devices.deterministic(False):
        assert not torch.are_deterministic_algorithms_enabled()
        assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    with pytest.raises(RuntimeError, match="ends"), devices.deterministic(True):
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        raise RuntimeError("ends")
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_deterministic_run_uses_them_in_every_step_and_says_so(tmp_path: Path) -> None:
    seen: list[bool] = []
    config = vpfb.TrainConfig(
        data="digits", widths=(8, 8), batch_size=8, steps=2, val_fraction=0.02, threads=1, deterministic=True,
        out=str(tmp_path / "run"),
    )  # fmt: skip
    vpfb.train(config, on_step=lambda _: seen.append(torch.are_deterministic_algorithms_enabled()))
    assert seen
    assert all(seen)
    assert not torch.are_deterministic_algorithms_enabled()
    assert "deterministic = true" in (tmp_path / "run" / "config.toml").read_text()
