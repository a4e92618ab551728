"""The pretended GPU refuses what a GPU refuses, and notices where the host would wait for it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pretended_gpu import pretend


@pytest.mark.parametrize(
    "mistake",
    [
        lambda x: x + torch.ones(3, 2),
        lambda x: x.numpy(),
        lambda x: torch.rand(3, generator=torch.Generator(), device="cuda"),
        lambda x: torch.rand(3, generator=torch.Generator("cuda")),
        lambda x: x.clone().normal_(generator=torch.Generator()),
        lambda x: torch.stack([x.sum(), torch.zeros(())]),
    ],
    ids=["mixed", "array", "generator of the CPU", "generator of the GPU", "in place", "list"],
)
def test_what_a_gpu_refuses_is_refused(
    mistake: Callable[[torch.Tensor], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pretend("cuda", monkeypatch) as gpu:
        x = torch.ones(3, 2, device=gpu.device)
        assert x.device.type == (x * 2).device.type == "cuda"
        with pytest.raises((RuntimeError, TypeError), match=r"same device|generator|numpy"):
            mistake(x)


@pytest.mark.parametrize(
    ("action", "waits"),
    [
        (lambda x: x.sum().item(), 1),
        (lambda x: bool((x > 0).all()), 1),
        (lambda x: x.tolist(), 1),
        (lambda x: x.cpu(), 1),
        (lambda x: torch.ones(2).to(x), 1),
        (lambda x: torch.tensor([1.0], device=x.device), 1),
        (lambda x: x[[0, 1]], 1),
        (lambda x: x[x[:, 0] > 0], 1),
        (lambda x: torch.ones(2).pin_memory().to(x.device, non_blocking=True), 0),
        (lambda x: torch.where(x > 0, 1.0, x).mean(), 0),
        (lambda x: torch.arange(3, device=x.device) + x[:, 0], 0),
    ],
)
def test_waits_are_noticed(
    action: Callable[[torch.Tensor], object], waits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pretend("cuda", monkeypatch) as gpu:
        x = torch.ones(3, 2, device=gpu.device)
        with gpu.waits() as waited:
            action(x)
    assert len(waited) == waits


@pytest.mark.parametrize("change", [lambda x: x.unsqueeze_(1), lambda x: x.t_(), lambda x: x[:1].squeeze_(0)])
def test_a_tensor_whose_shape_is_changed_in_place_shows_its_new_shape(
    change: Callable[[torch.Tensor], torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = change(torch.arange(6.0).view(2, 3))
    with pretend("cuda", monkeypatch) as gpu:
        found = change(torch.arange(6.0, device=gpu.device).view(2, 3))
        assert (found.shape, found.stride()) == (expected.shape, expected.stride())
        assert torch.equal(found.cpu(), expected)


def test_mps_has_no_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    with pretend("mps", monkeypatch) as gpu:
        x = torch.ones(3, device=gpu.device)
        with pytest.raises(TypeError, match="float64"):
            x.double()
        with pytest.raises(TypeError, match="float64"):
            torch.zeros(2, dtype=torch.float64, device=gpu.device)


def test_torch_is_as_before_afterwards() -> None:
    before = (torch.rand, torch.Tensor.to, torch.Generator, torch.autocast)
    with pytest.MonkeyPatch.context() as patch, pretend("cuda", patch):
        assert torch.cuda.is_available()
    assert (torch.rand, torch.Tensor.to, torch.Generator, torch.autocast) == before
