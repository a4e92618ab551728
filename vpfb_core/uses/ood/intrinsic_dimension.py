"""The local intrinsic dimension of images: the number of directions in which the energy is flat.

Near a manifold of data the Hessian of the energy is steep across the manifold and flat along it (Balcerak et al. 2025,
arXiv 2504.10612). In few dimensions its eigenvalues are computed. In many, their distribution is estimated by
stochastic Lanczos quadrature (Ubaru, Chen & Saad 2017): the Lanczos matrix of a random direction gives nodes and
weights of a quadrature over the spectrum, and the weights of the flat nodes are added.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vpfb_core.machine import noise
from vpfb_core.methods.fields import Field

EXACT_DIMENSION = 64  # up to this number of dimensions all eigenvalues are computed
LANCZOS_STEPS = 24  # products with the Hessian per image in more dimensions
_BREAKDOWN = 1e-6  # relative to the largest coefficient: below, the Krylov space is complete

Product = Callable[[Tensor], Tensor]  # directions (N, d) → Hessians times directions, (N, d)


def local_dimension(field: Field, data: Tensor, level: float, seed: int, first: int = 0) -> Tensor:
    """The number of flat directions of each datum, (N,); with the estimate it is no whole number.

    Args:
        field: a field with an energy. `Field.flat` says which curvature counts as flat.
        data: data of unit variance, (N, …), on the device of the field.
        level: the noise level of the energy.
        seed, first: the random direction of datum i depends only on (seed, first + i).
    """
    x = field.at_level(data, level)
    n, dimension = len(x), x[0].numel()
    most = field.flat / field.chain_variance(level)

    def product(directions: Tensor) -> Tensor:
        return field.hessian_product(x, level, directions.reshape(x.shape).to(x)).flatten(1)

    if dimension <= EXACT_DIMENSION:
        return (eigenvalues(product, n, dimension, like=x).abs() < most).double().sum(1)
    probes = noise.normal((dimension,), seed, range(first, first + n), "intrinsic dimension").to(x)
    nodes, weights = lanczos(product, probes, LANCZOS_STEPS)
    return dimension * (weights * (nodes.abs() < most)).sum(1)


def eigenvalues(product: Product, n: int, dimension: int, like: Tensor) -> Tensor:
    """All eigenvalues of N symmetric matrices that are known by their products, (N, d)."""
    axes = torch.eye(dimension, dtype=like.dtype, device=like.device)
    columns = [product(axis.expand(n, -1)) for axis in axes]
    matrices = torch.stack(columns, 2).cpu().double()
    return torch.linalg.eigvalsh((matrices + matrices.mT) / 2)


def lanczos(product: Product, probes: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """The nodes and weights, (N, steps) each, of the quadratures of N symmetric matrices for their probes (N, d).

    The basis is orthogonalised in full. When it spans all that a probe reaches, the rest of the weights is zero.
    """
    q = probes / probes.norm(dim=1, keepdim=True)
    basis, diagonal, beside = [q], [], []
    alive = torch.ones(len(q), dtype=torch.bool, device=q.device)
    for _ in range(steps):
        grown = product(basis[-1])
        diagonal.append((grown * basis[-1]).sum(1))
        done = torch.stack(basis, 1)
        for _again in range(2):
            grown = grown - torch.einsum("nk,nkd->nd", torch.einsum("nkd,nd->nk", done, grown), done)
        size = grown.norm(dim=1)
        alive = alive & (size > _BREAKDOWN * diagonal[0].abs().clamp(min=1e-30))
        size = torch.where(alive, size, 0.0)
        beside.append(size)
        basis.append(torch.where(alive[:, None], grown / size.clamp(min=1e-30)[:, None], 0.0))
    matrix = torch.diag_embed(torch.stack(diagonal, 1))
    if steps > 1:
        off = torch.stack(beside[:-1], 1)
        matrix = matrix + torch.diag_embed(off, 1) + torch.diag_embed(off, -1)
    nodes, vectors = torch.linalg.eigh(matrix.cpu().double())
    return nodes, vectors[:, 0].square()
