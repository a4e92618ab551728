"""Digits and letters drawn by one program, in the manner of MNIST.

The strokes are those of the single-stroke fonts of A. V. Hershey (1967) in the package Hershey-Fonts. Each character is
slanted, turned, stretched and bent at random, scaled into a box of 20×20 pixels, drawn with a pen of random width, and
placed with its centre of mass in the middle of 28×28 pixels, as the digits of MNIST were.
"""

from __future__ import annotations

import numpy as np
import torch
from HersheyFonts import HersheyFonts
from PIL import Image, ImageDraw
from torch import Tensor

FONTS = ("futural", "rowmans", "scripts", "cursive")
DIGITS = "0123456789"
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
SIZE, BOX = 28, 20
FINE = 8  # times as fine is the picture in which the pen draws
Strokes = list[np.ndarray]  # of points (N, 2)


def drawn(characters: str, count: int, seed: int) -> Tensor:
    """`count` pictures of random ones of the characters, uint8 (N, 1, 28, 28)."""
    draws = np.random.default_rng(seed)
    fonts = []
    for name in FONTS:
        fonts.append(HersheyFonts())
        fonts[-1].load_default_font(name)
    pictures = []
    for _ in range(count):
        font, character = fonts[draws.integers(len(fonts))], characters[draws.integers(len(characters))]
        strokes = [np.array(stroke, dtype=float) for stroke in font.strokes_for_text(character)]
        pictures.append(_picture(_bent(strokes, draws), draws))
    return torch.from_numpy(np.stack(pictures))[:, None]


def _bent(strokes: Strokes, draws: np.random.Generator) -> Strokes:
    """The strokes under a random linear map and smooth random shifts, the longer side of their box BOX − 2 pixels."""
    every = np.concatenate(strokes)
    middle, extent = (every.max(0) + every.min(0)) / 2, np.ptp(every, 0).max()
    slant, turn, stretch = draws.normal(0, (0.25, 0.12, 0.15))
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ np.array(
        [[np.exp(stretch), -slant], [0, np.exp(-stretch)]]
    )
    shifts, phases = draws.normal(0, 0.04, (2, 2)), draws.uniform(0, 2 * np.pi, (2, 2))
    found = []
    for stroke in strokes:
        points = _finer((stroke - middle) / extent) @ matrix.T
        waves = np.sin(2 * np.pi * points[:, None, :] * np.array([0.7, 1.3])[None, :, None] + phases)
        found.append(points + (shifts[None] * waves).sum(1)[:, ::-1])
    every = np.concatenate(found)
    middle, extent = (every.max(0) + every.min(0)) / 2, max(np.ptp(every, 0).max(), 1e-6)
    return [(points - middle) / extent * (BOX - 2) for points in found]


def _finer(stroke: np.ndarray) -> np.ndarray:
    """The stroke with eight points on each of its lines."""
    steps = np.arange(0, len(stroke) - 1 + 1e-9, 1 / 8)
    return np.stack([np.interp(steps, np.arange(len(stroke)), stroke[:, axis]) for axis in range(2)], 1)


def _picture(strokes: Strokes, draws: np.random.Generator) -> np.ndarray:
    """The strokes drawn with a pen, the centre of mass in the middle, uint8 (28, 28)."""
    width = FINE * draws.uniform(1.6, 3.2)
    canvas = Image.new("L", (SIZE * FINE, SIZE * FINE))
    pen, radius = ImageDraw.Draw(canvas), width / 2
    for stroke in strokes:
        points = [tuple(point) for point in (stroke + SIZE / 2) * FINE]
        pen.line(points, fill=255, width=round(width))
        for x, y in points:  # round ends and joints
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    fine = np.asarray(canvas, dtype=float)
    small = fine.reshape(SIZE, FINE, SIZE, FINE).mean((1, 3))
    places = np.arange(SIZE) + 0.5
    across, down = (small.sum(0) @ places, small.sum(1) @ places) / small.sum()
    return np.roll(small, (round(SIZE / 2 - down), round(SIZE / 2 - across)), (0, 1)).round().astype(np.uint8)
