from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from vpfb_core.data import framing
from vpfb_core.data.framing import choose_size, square


def test_pictures_of_one_square_size_keep_it():
    assert choose_size([(28, 28)] * 5, 5, 1, None) == 28
    assert choose_size([(28, 28)] * 5, 5, 1, 28) == 28


@pytest.mark.parametrize(
    ("shapes", "max_size", "size"),
    [
        ([(28, 28)], 27, 16),
        ([(28, 30)], None, 16),
        ([(640, 480), (4000, 3000), (100, 5000)], None, 256),
        ([(640, 480), (4000, 3000), (100, 5000)], 64, 64),
        ([(64, 70), (65, 70), (5, 5)], None, 64),
        ([(1000, 1000)], None, 256),
        ([(4, 4)], None, 8),
        ([(1, 900)], None, 8),
        ([(64, 64)], 3, 8),
    ],
)
def test_otherwise_the_size_is_the_largest_step_that_half_of_the_pictures_reach(shapes, max_size, size):
    assert choose_size(shapes, len(shapes), 3, max_size) == size


def test_a_chosen_size_always_fits_into_memory(monkeypatch):
    monkeypatch.setattr(framing, "MAX_BYTES", 100 * 3 * 40 * 40)
    assert choose_size([(64, 64)], 100, 3, None) == 32


def test_a_picture_of_the_right_size_is_not_resampled():
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    assert (np.asarray(square(Image.fromarray(pixels), 16)) == pixels).all()


def test_cropping_alone_copies_the_centre_exactly():
    pixels = np.random.default_rng(0).integers(0, 256, (16, 29), dtype=np.uint8)
    assert (np.asarray(square(Image.fromarray(pixels), 16)) == pixels[:, 6:22]).all()


def test_reduction_averages_instead_of_picking_pixels():
    checks = (np.indices((400, 400)).sum(0) % 2 * 255).astype(np.uint8)
    small = np.asarray(square(Image.fromarray(checks), 16)).astype(int)
    assert np.abs(small - 127).max() <= 2
