"""The algebra of composition: the log-ratio of an expression to its base, and how its flow departs from its density.

Every name i has a log density log ρ_i and a velocity v_i. Relative to a base, the unconditional density ρ_∅, each node
of the tree has a log-ratio r = log ρ − log ρ_∅:

    name      r_i = log ρ_i − log ρ_∅
    AND       Σ r                   weight w of an exponent: w r                   NOT: −r
    OR        log Σ π_k exp r_k,    π_k the weights of the sides over their sum: a mixture, exact at every level

Its score and its velocity are those of the base plus Σ_i ∂r/∂r_i times the difference of those of i and the base. AND
and NOT keep a total weight of 1.

Without an unconditional density, the base is a standard Gaussian, whose surplus or deficit is removed towards the data:
with w the sum of the exponents and s the factor of the data in a point of the level, r is increased by ½ (1 − w) s²
‖x‖². This correction is a further factor of the product, the `bend`.

A velocity carries a density ρ(x, s) if ∂ₛ log ρ + ∇·v + v·∇log ρ = 0. The left side, the rate, is zero for each name,
for a mixture of such densities with the velocity v = Σ share_k v_k, but not for a product. Let q = ∂ₛ log ρ + ∇·v. It
is −v·∇log ρ for a name, it adds up over the factors of a product with their exponents, and for a mixture it is
Σ share_k (q_k + v_k·∇log ρ_k) − v·∇log ρ. So the rate needs no divergence. Samples that follow the composed velocity
have the composed density if their log-weights change at this rate (Skreta et al. 2025, arXiv 2503.02819).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vpfb_core.uses.composition.expression import And, Expression, Name, Not, Or, Weighted, parts_of


@dataclass(frozen=True)
class Ratio:
    """The log-ratio r of a node at N points, with its derivatives.

    Attributes:
        value: r, (N,).
        shares: ∂r/∂r_i for each term, (terms, N).
        surplus: the sum of the exponents minus one: the exponent of the bend, (N,).
    """

    value: Tensor
    shares: Tensor
    surplus: Tensor

    @property
    def coefficients(self) -> Tensor:
        """The share of each term, of the base and of the bend in the score and the velocity, (terms + 2, N)."""
        return torch.cat([self.shares, 1 - self.shares.sum(0, keepdim=True), self.surplus[None]])


@dataclass(frozen=True)
class Ratios:
    """The log-ratios of the terms of an expression at N points.

    Attributes:
        rows: the row of each name among the terms.
        values: r_i of each term, (terms, N).
        bend: the change of r per exponent beyond one, (N,); zero if there is an unconditional base.
    """

    rows: Mapping[Name, int]
    values: Tensor
    bend: Tensor

    def of(self, node: Expression) -> Ratio:
        """The log-ratio of a node."""
        if isinstance(node, Name):
            shares = torch.zeros_like(self.values)
            shares[self.rows[node]] = 1
            return Ratio(self.values[self.rows[node]], shares, torch.zeros_like(self.bend))
        if isinstance(node, Or):
            return self._mixture(node)[0]
        parts, powers = [self.of(part) for part in parts_of(node)], exponents(node)
        beyond = sum(powers) - 1
        return Ratio(
            sum(power * part.value for power, part in zip(powers, parts, strict=True)) + beyond * self.bend,
            torch.stack([power * part.shares for power, part in zip(powers, parts, strict=True)]).sum(0),
            torch.stack([power * part.surplus for power, part in zip(powers, parts, strict=True)]).sum(0) + beyond,
        )

    def _mixture(self, node: Or) -> tuple[Ratio, Tensor, list[Ratio]]:
        """The log-ratio of an |, the share of each of its sides at each point, (sides, N), and those of its sides."""
        sides = sides_of(node)
        ratios, total = [self.of(side) for _, side in sides], sum(weight for weight, _ in sides)
        joint = torch.stack(
            [ratio.value + math.log(weight / total) for (weight, _), ratio in zip(sides, ratios, strict=True)]
        )
        share = torch.softmax(joint, 0)
        mixed = Ratio(
            torch.logsumexp(joint, 0),
            (share[:, None] * torch.stack([ratio.shares for ratio in ratios])).sum(0),
            (share * torch.stack([ratio.surplus for ratio in ratios])).sum(0),
        )
        return mixed, share, ratios

    def rate(self, node: Expression, products: Tensor, changes: Tensor) -> Tensor:
        """The rate ∂ₛ log ρ + ∇·v + v·∇log ρ of the whole expression `node`, (N,).

        Args:
            products: v_i·∇log ρ_j of the terms, the base and the bend, (terms + 2, terms + 2, N).
            changes: q of the terms, the base and the bend, (terms + 2, N).
        """
        return self._change(node, products, changes) + changes[-2] + _along(self.of(node), products)

    def _change(self, node: Expression, products: Tensor, changes: Tensor) -> Tensor:
        """q of a node less that of the base, (N,)."""
        if isinstance(node, Name):
            return changes[self.rows[node]] - changes[-2]
        if isinstance(node, Or):
            mixed, share, ratios = self._mixture(node)
            sides = [
                self._change(side, products, changes) + _along(ratio, products)
                for (_, side), ratio in zip(sides_of(node), ratios, strict=True)
            ]
            return (share * torch.stack(sides)).sum(0) - _along(mixed, products)
        powers = exponents(node)
        parts = [self._change(part, products, changes) for part in parts_of(node)]
        beyond = sum(powers) - 1
        return torch.stack([power * part for power, part in zip(powers, parts, strict=True)]).sum(0) + (
            beyond * changes[-1]
        )


def _along(ratio: Ratio, products: Tensor) -> Tensor:
    """v·∇log ρ of a node, (N,)."""
    return torch.einsum("in,ijn,jn->n", ratio.coefficients, products, ratio.coefficients)


def exponents(node: And | Weighted | Not) -> list[float]:
    """The exponent of each part's density in that of the node."""
    match node:
        case Weighted(weight):
            return [weight]
        case Not():
            return [-1.0]
    return [1.0] * len(node.parts)


def total_exponent(node: Expression) -> float:
    """The sum of the exponents of the densities in a node, where a mixture counts as one density."""
    if isinstance(node, Name | Or):
        return 1.0
    return sum(power * total_exponent(part) for power, part in zip(exponents(node), parts_of(node), strict=True))


def sides_of(node: Or) -> list[tuple[float, Expression]]:
    """The sides of an |, each with its weight in the mixture."""
    return [(part.weight, part.part) if isinstance(part, Weighted) else (1.0, part) for part in node.parts]


def densities_of(node: Expression) -> Iterator[Expression]:
    """The nodes that must be densities: the whole expression, and every side of an |."""
    yield node
    for inner in mixtures_of(node):
        for _, side in sides_of(inner):
            yield from densities_of(side)


def mixtures_of(node: Expression) -> Iterator[Or]:
    """The outermost | of a node."""
    if isinstance(node, Or):
        yield node
    else:
        for part in parts_of(node):
            yield from mixtures_of(part)
