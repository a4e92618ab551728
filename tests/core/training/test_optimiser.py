"""The optimiser: what Muon does to a matrix, which parameters it moves, and what is kept of it."""

from __future__ import annotations

import math

import pytest
import torch
from present import present
from torch import Tensor, nn

from vpfb_core import networks
from vpfb_core.training.muon import Muon, orthogonalised
from vpfb_core.training.optimiser import LEAST_SIDE, Optimiser

CHANNELS_LAST, CONTIGUOUS = torch.channels_last, torch.contiguous_format


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", [(24, 24), (16, 90), (90, 16)])
def test_an_orthogonalised_matrix_keeps_its_singular_vectors_and_loses_its_singular_values(
    shape: tuple[int, int],
) -> None:
    random = torch.randn(2, *shape, generator=generator(), dtype=torch.float64)
    left, _, right = torch.linalg.svd(random, full_matrices=False)
    values = torch.logspace(0, -1.5, min(shape), dtype=torch.float64)  # over a factor of thirty
    found = orthogonalised(left * values @ right)
    turned = left.mT @ found @ right.mT
    diagonal = torch.diagonal(turned, dim1=1, dim2=2)
    assert diagonal.min() > 0.65
    assert diagonal.max() < 1.25
    torch.testing.assert_close(turned, torch.diag_embed(diagonal), rtol=0, atol=1e-9)


def test_muon_moves_matrices_as_that_of_torch_does_in_bf16() -> None:
    ours, theirs = ([nn.Parameter(torch.ones(shape)) for shape in ((20, 50), (20, 50), (64, 32))] for _ in range(2))
    muon = Muon(ours)
    of_torch = torch.optim.Muon(theirs, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    draws = generator()
    for _ in range(3):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn(one.shape, generator=draws)
            other.grad = present(one.grad).clone()
        muon.step()
        of_torch.step()
    for one, other in zip(ours, theirs, strict=True):
        assert (one - other).norm() < 0.02 * (one - 1).norm()


def network(memory: torch.memory_format) -> nn.Module:
    built = networks.build({"name": "unet", "channels": 1, "size": 8, "widths": [16, 24], "classes": [20]}, 3)
    return built.to(memory_format=memory)


def give_gradients(parameters: nn.Module, draws: torch.Generator) -> None:
    for parameter in parameters.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=draws)


def test_muon_moves_large_matrices_and_adam_the_rest() -> None:
    trained = network(CONTIGUOUS)
    optimiser = Optimiser(trained, "muon")
    give_gradients(trained, generator())
    optimiser.step(1e-3)
    moved = {name.split("/", 2)[2]: name.split("/")[0] for name in optimiser.tensors()}
    assert moved.keys() == dict(trained.named_parameters()).keys()
    for name, layer in trained.named_modules():
        if isinstance(layer, nn.Embedding | nn.GroupNorm):
            assert moved[f"{name}.weight"] == "adam", name
    assert moved["down.0.0.conv1.weight"] == moved["down.0.0.modulation.weight"] == "muon"
    assert moved["first.weight"] == moved["last.weight"] == "adam", f"with fewer than {LEAST_SIDE} columns or rows"
    assert {moved[name] for name in moved if name.endswith("bias")} == {"adam"}


@pytest.mark.parametrize("memory", [CONTIGUOUS, CHANNELS_LAST])
def test_a_convolution_moves_by_its_orthogonalised_kernel_in_every_memory_format(memory: torch.memory_format) -> None:
    trained = network(memory)
    weight = dict(trained.named_parameters())["down.0.0.conv1.weight"]
    before = weight.detach().clone()
    optimiser = Optimiser(trained, "muon")
    give_gradients(trained, generator())
    optimiser.step(0.01)
    expected = orthogonalised(present(weight.grad).flatten(1)[None]).view(before.shape)
    scale = 0.01 * 0.2 * math.sqrt(16 * 9)
    torch.testing.assert_close(weight.detach(), before - scale * expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("algorithm", ["adam", "muon"])
def test_a_restored_optimiser_goes_on_bit_for_bit(algorithm: str) -> None:
    first, second = network(CHANNELS_LAST), network(CHANNELS_LAST)
    one, other = Optimiser(first, algorithm), Optimiser(second, algorithm)
    draws = generator()
    for step in range(4):
        give_gradients(first, draws)
        if step == 2:
            second.load_state_dict(first.state_dict())
            other.load({name: tensor.clone() for name, tensor in one.tensors().items()}, step)
        one.step(0.01)
        if step >= 2:
            for ours, theirs in zip(second.parameters(), first.parameters(), strict=True):
                ours.grad = present(theirs.grad).clone()
            other.step(0.01)
    assert same(first, second)
    assert not same(first, network(CHANNELS_LAST))


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs: list[tuple[Tensor, Tensor]] = list(zip(one.parameters(), other.parameters(), strict=True))
    return all(torch.equal(ours, theirs) for ours, theirs in pairs)


def test_factors_multiply_the_rate_of_adam_and_muon_alike() -> None:
    trained = network(CONTIGUOUS)
    before = {name: parameter.detach().clone() for name, parameter in trained.named_parameters()}
    optimiser = Optimiser(trained, "muon")
    optimiser.set_factors(lambda name: float(not name.startswith("down.")))
    give_gradients(trained, generator())
    optimiser.step(0.01)
    for name, parameter in trained.named_parameters():
        assert torch.equal(parameter, before[name]) == name.startswith("down."), name


@pytest.mark.parametrize("missing", [True, False])
def test_moments_that_do_not_fit_are_an_error(missing: bool) -> None:
    trained = network(CONTIGUOUS)
    optimiser = Optimiser(trained, "muon")
    give_gradients(trained, generator())
    optimiser.step(0.01)
    name = "muon/momentum/down.0.0.conv1.weight"
    tensors = optimiser.tensors()
    tensors = {key: tensor for key, tensor in tensors.items() if key != name} | (
        {} if missing else {name: torch.ones(3, 3)}
    )
    with pytest.raises(KeyError if missing else RuntimeError):
        optimiser.load(tensors, 1)
