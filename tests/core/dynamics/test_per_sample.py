"""Numbers per sample, against values found by hand."""

from __future__ import annotations

import torch

from vpfb_core.dynamics.per_sample import rms_distance


def test_the_rms_distance_is_that_of_each_pair_of_images() -> None:
    a = torch.zeros(2, 1, 2, 2)
    b = torch.tensor([[[[0.5, 0.5], [0.5, 0.5]]], [[[1.0, 0], [0, 0]]]])
    torch.testing.assert_close(rms_distance(a, b), torch.tensor([0.5, 0.5]))
