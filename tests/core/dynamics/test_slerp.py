"""Interpolation along the sphere."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vpfb_core.dynamics.slerp import slerp
from vpfb_core.errors import ConfigError


def normal(n: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))


def test_both_ends_are_the_points_themselves() -> None:
    a, b = normal(5, 1, 8, 8), normal(5, 1, 8, 8, seed=1)
    path = slerp(a, b, 7)
    assert (path.shape, path.dtype) == ((7, 5, 1, 8, 8), torch.float32)
    assert torch.equal(path[0], a)
    assert torch.equal(path[-1], b)


@pytest.mark.parametrize("turn", [0.3, math.pi / 2, 3.0])
def test_the_path_between_unit_vectors_is_the_arc_at_equal_angles(turn: float) -> None:
    a = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    b = torch.tensor([[math.cos(turn), math.sin(turn)]], dtype=torch.float64)
    angles = torch.linspace(0, turn, 6, dtype=torch.float64)
    exact = torch.stack([torch.cos(angles), torch.sin(angles)], 1)[:, None]
    torch.testing.assert_close(slerp(a, b, 6), exact)


def test_each_sample_turns_by_its_own_angle_and_its_length_goes_straight() -> None:
    a = torch.tensor([[2.0, 0, 0], [0, 3, 0]], dtype=torch.float64)
    b = torch.tensor([[0, 4.0, 0], [0, 0, 1]], dtype=torch.float64)
    path = slerp(a, b, 5)
    torch.testing.assert_close(path.norm(dim=2)[:, 0], torch.linspace(2, 4, 5, dtype=torch.float64))
    torch.testing.assert_close(path.norm(dim=2)[:, 1], torch.linspace(3, 1, 5, dtype=torch.float64))
    half = math.sqrt(0.5)
    middle = torch.tensor([[3 * half, 3 * half, 0], [0, 2 * half, 2 * half]], dtype=torch.float64)
    torch.testing.assert_close(path[2], middle)


def test_the_middle_of_normal_noise_is_as_long_as_noise() -> None:
    a, b = normal(20, 3072), normal(20, 3072, seed=1)
    middle = slerp(a, b, 3)[1]
    assert middle.square().mean(1).sub(1).abs().max() < 0.1
    assert (0.5 * (a + b)).square().mean(1).max() < 0.6, "the straight line leaves the sphere"


@pytest.mark.parametrize("factor", [1.0, 1 + 1e-6, 2.0, -1.0, 0.0])
def test_parallel_opposite_and_absent_vectors_are_joined_by_a_line(factor: float) -> None:
    a = normal(3, 6)
    b = factor * a
    path = slerp(a, b, 5)
    exact = torch.stack([torch.lerp(a, b, share) for share in (0, 0.25, 0.5, 0.75, 1)])
    torch.testing.assert_close(path, exact)


def test_fewer_than_two_frames_are_refused() -> None:
    with pytest.raises(ConfigError, match="1 frames"):
        slerp(normal(1, 2), normal(1, 2), 1)
