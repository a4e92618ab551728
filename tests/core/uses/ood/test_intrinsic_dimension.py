"""Local intrinsic dimension on quadratic energies, whose spectra are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from vpfb_core.dynamics.ladder import Levels
from vpfb_core.methods.energy_matching.static_energy import DATA_STD, StaticEnergy
from vpfb_core.methods.fields import Field
from vpfb_core.uses.ood.intrinsic_dimension import eigenvalues, lanczos, local_dimension

LEVEL = 0.5


class Quadratic(Field):
    """E = ½ xᵀ H x, where H has some eigenvalues of each kind."""

    levels = Levels(LEVEL, LEVEL)

    def __init__(self, spectrum: Tensor) -> None:
        super().__init__()
        axes, _ = torch.linalg.qr(torch.randn(len(spectrum), len(spectrum), generator=torch.Generator().manual_seed(0)))
        self.hessian = axes @ torch.diag(spectrum) @ axes.mT

    def scales(self, level: float) -> tuple[float, float]:
        return 1.0, level

    def energy_and_score(self, x: Tensor, level: float, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        return 0.5 * ((x @ self.hessian) * x).sum(1), -x @ self.hessian


def spectrum(flat: int, steep: int) -> Tensor:
    """Curvatures of 0.01 and of ±4, where those below 0.5/0.25 = 2 count as flat."""
    return torch.tensor([0.01] * flat + [4.0, -4.0] * (steep // 2))


def normal(n: int, dimension: int) -> Tensor:
    return torch.randn(n, dimension, generator=torch.Generator().manual_seed(1))


def test_flat_directions_are_counted_exactly_in_few_dimensions() -> None:
    found = local_dimension(Quadratic(spectrum(5, 8)), normal(3, 13), LEVEL, 0)
    assert found.tolist() == [5.0] * 3


def test_flat_directions_are_estimated_in_many_dimensions_by_seed_and_index() -> None:
    field, data = Quadratic(spectrum(60, 140)), normal(64, 200)
    found = local_dimension(field, data, LEVEL, 3)
    # The share of a random direction in 60 of 200 dimensions has a beta distribution of mean 0.3.
    error = 200 * (0.3 * 0.7 / 101) ** 0.5
    assert abs(float(found.mean()) - 60) < 4 * error / 8
    assert torch.allclose(local_dimension(field, data[5:9], LEVEL, 3, first=5), found[5:9])


def test_nodes_and_weights_are_those_of_the_probe() -> None:
    """The measure of the probe: its squared coordinates along the eigenvectors, at the eigenvalues."""
    values = torch.tensor([1.0, 2.0, 5.0, 5.0])
    probe = torch.tensor([[1.0, 2.0, 2.0, 4.0]])
    nodes, weights = lanczos(lambda v: v * values, probe, 3)
    torch.testing.assert_close(nodes, torch.tensor([[1.0, 2.0, 5.0]], dtype=nodes.dtype), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(weights, torch.tensor([[1.0, 4.0, 20.0]], dtype=nodes.dtype) / 25, rtol=1e-5, atol=1e-5)
    longer, weights = lanczos(lambda v: v * values, probe, 6)
    assert float(weights[longer < 1.5].sum()) == pytest.approx(1 / 25, abs=1e-5)
    assert float((weights * longer).sum()) == pytest.approx((1 + 2 * 4 + 5 * 20) / 25, rel=1e-5)


def test_the_products_of_a_static_energy_are_those_of_its_hessian() -> None:
    class Cubic(nn.Module):
        def forward(self, x: Tensor, level: None, condition: Tensor | None = None) -> Tensor:  # noqa: ARG002
            return x.pow(3).sum(1) / 6

    field, z = StaticEnergy(Cubic(), 0.2), normal(2, 4)
    curvature = DATA_STD**2 * (1 + DATA_STD * z) / 0.2
    found = eigenvalues(lambda v: field.hessian_product(z, 0.0, v), 2, 4, like=z)
    torch.testing.assert_close(found, curvature.sort(1).values.to(found))
    differences = eigenvalues(lambda v: Field.hessian_product(field, z, 0.0, v), 2, 4, like=z)
    torch.testing.assert_close(differences, found, rtol=1e-4, atol=1e-4)
