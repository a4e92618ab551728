"""The training of detectors of alterations, each on the images of one half."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from vpfb_core.data.image_statistics import in_unit_range
from vpfb_core.machine import noise
from vpfb_core.machine.precision import has_fast_bf16, run_in
from vpfb_core.model.detector import HALVES, Detector, halves_of
from vpfb_core.uses.ood.random_alterations import alter

STEPS, BATCH, RATE, DECAY = 2_000, 32, 2e-3, 0.05
FEWEST_STEPS = 100
FEWEST_IMAGES = 256
MOST_IMAGES = 20_000
STEP_COST = 2 * BATCH * HALVES  # of all detectors, about that of as many gradients of the model per image
_CHANGE = 0.05  # the mean change of the values of a cell, from which on it is fully altered


def affordable(steps: int, shape: tuple[int, ...], images: int) -> int:
    """The number of steps of which detectors are trained on so many images or rows of a shape: `steps`, or none."""
    enough = len(shape) == 3 and images >= FEWEST_IMAGES and steps >= FEWEST_STEPS
    return min(steps, STEPS) if enough else 0


def useful(steps: int) -> int:
    """The number of images that so many steps use."""
    return min(MOST_IMAGES, steps * BATCH * HALVES)


def train(
    pictures: Tensor, device: torch.device, steps: int, on_step: Callable[[], object] = lambda: None
) -> list[Detector]:
    """Detectors of alterations.

    Args:
        pictures: as `pictures_of` gives them, uint8 (N, C, H, W), of which each half has some.
        device: the device of the training.
        steps: the number of steps for each.
        on_step: called before each step.
    """
    halves = halves_of(pictures)
    with torch.inference_mode(False), torch.enable_grad():
        return [_train(pictures[halves == half], device, half, steps, on_step) for half in range(HALVES)]


def _train(pictures: Tensor, device: torch.device, half: int, steps: int, on_step: Callable[[], object]) -> Detector:
    with noise.seeded_global_generator(torch.device("cpu"), noise.derive_seed(half, "detector")):
        detector = Detector(pictures.shape[1], min(pictures.shape[2:]))
    detector = detector.to(device).to(memory_format=torch.channels_last)
    random, dtype = noise.generator(half, "alterations"), torch.bfloat16 if has_fast_bf16(device) else None
    optimiser = torch.optim.AdamW(detector.parameters(), RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, steps)
    for _ in range(steps):
        on_step()
        # Alterations are drawn on the CPU, and so they are the same on every device.
        chosen = in_unit_range(pictures[torch.randint(len(pictures), (BATCH,), generator=random)])
        both = torch.cat([chosen, alter(chosen, random)])
        logits = run_in(dtype, detector, both.to(device).to(memory_format=torch.channels_last))
        loss = F.binary_cross_entropy_with_logits(logits, _altered(both, logits.shape[1:]).to(device))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
    return detector.eval().requires_grad_(False)


def _altered(both: Tensor, cells: torch.Size) -> Tensor:
    """How much each cell is altered, from 0 to 1, of images and of their altered copies together, (2N, h, w)."""
    before, after = both.chunk(2)
    change = F.adaptive_avg_pool2d((after - before).abs().mean(1, keepdim=True), (cells[0], cells[1]))[:, 0]
    altered = (change / _CHANGE).clamp(max=1)
    return torch.cat([torch.zeros_like(altered), altered])
