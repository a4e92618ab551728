"""Problems with known answers: on a Gaussian mixture everything that vpfb computes is known in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from vpfb_core.methods.path.homotopy import OT, VP, Homotopy, LogHomotopy, Time, as_time
from vpfb_core.methods.vpfb.field import PotentialField
from vpfb_core.methods.vpfb.potential import Potential

STD = 0.5  # a: the standard deviation of the problems' data per dimension, unless said otherwise


@dataclass(frozen=True)
class Mixture:
    """x̄ ~ Σₖ wₖ N(mₖ, Qₖ diag(vₖ) Qₖᵀ), float64, with mean 0 and standard deviation `std` in each dimension.

    A blurred mixture x = μ x̄ + σ ε is given by its coefficients μ and σ, each (N,) or ().

    Attributes:
        weights: wₖ, (K,).
        means: mₖ, (K, d).
        axes: Qₖ, the eigenvectors in columns, (K, d, d).
        variances: vₖ along them, (K, d).
        std: a.
    """

    weights: Tensor
    means: Tensor
    axes: Tensor
    variances: Tensor
    std: float

    @classmethod
    def standardised(cls, weights: list[float], means: Tensor, covariances: Tensor, std: float = STD) -> Mixture:
        """The mixture of these components, shifted and scaled dimension by dimension."""
        w = torch.tensor(weights, dtype=torch.float64)
        w, means, covariances = w / w.sum(), means.double(), covariances.double()
        means = means - w @ means
        scale = std / (w @ (means.square() + covariances.diagonal(dim1=1, dim2=2))).sqrt()
        variances, axes = torch.linalg.eigh(covariances * scale[:, None] * scale)
        return cls(w, means * scale, axes, variances, std)

    @property
    def dimension(self) -> int:
        return self.means.shape[1]

    @property
    def covariance(self) -> Tensor:
        """Cov x̄, (d, d); its diagonal is std²."""
        spread = self.axes * self.variances[:, None] @ self.axes.mT
        return torch.einsum("k,kij->ij", self.weights, spread + self.means[:, :, None] * self.means[:, None])

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """x̄, (n, d)."""
        return self.labelled(n, generator)[0]

    def labelled(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """x̄, (n, d), and the component of each, int64 (n,)."""
        component = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(n, self.dimension, generator=generator, dtype=torch.float64)
        spread = torch.einsum("nij,nj->ni", self.axes[component], self.variances[component].sqrt() * noise)
        return self.means[component] + spread, component

    def part(self, components: slice) -> Mixture:
        """The mixture of some components alone, in the coordinates of the whole."""
        weights = self.weights[components]
        return replace(
            self, weights=weights / weights.sum(), means=self.means[components], axes=self.axes[components],
            variances=self.variances[components],
        )  # fmt: skip

    def tilted(self, direction: Tensor) -> tuple[Mixture, Tensor]:
        """The mixture of z = x̄/std with the density multiplied by exp(direction·z), and log E exp(direction·z)."""
        slope = direction.double() / self.std
        along = torch.einsum("kij,i->kj", self.axes, slope)
        moved = torch.einsum("kij,kj->ki", self.axes, self.variances * along)  # C_k slope
        exponents = torch.log(self.weights) + self.means @ slope + 0.5 * moved @ slope
        return replace(self, weights=torch.softmax(exponents, 0), means=self.means + moved), exponents.logsumexp(0)

    def log_density(self, x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """log density of μ x̄ + σ ε at x (N, d), normalised, (N,)."""
        return torch.logsumexp(self._joint(*self._offsets(x, mean, std)), 1)

    def score(self, x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """∇ₓ of `log_density`, (N, d)."""
        x = x.detach().requires_grad_()
        return torch.autograd.grad(self.log_density(x, mean, std).sum(), x)[0]

    def posterior(self, x: Tensor, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        """(E[x̄ | x], E[ε | x]) at x = μ x̄ + σ ε, (N, d) each, by conditioning the Gaussian of each component."""
        offsets, variances = self._offsets(x, mean, std)
        responsibilities = torch.softmax(self._joint(offsets, variances), 1)
        whitened = offsets / variances
        data = self.means + torch.einsum("kij,nkj->nki", self.axes, _column(mean) * self.variances * whitened)
        noise = torch.einsum("kij,nkj->nki", self.axes, _column(std) * whitened)
        return torch.einsum("nk,nki->ni", responsibilities, data), torch.einsum("nk,nki->ni", responsibilities, noise)

    def velocity(self, homotopy: Homotopy, x: Tensor, t: Tensor) -> Tensor:
        """E[μ̇ x̄ + σ̇ ε | x, t], the velocity of the marginal homotopy, (N, d)."""
        data, noise = self.posterior(x, homotopy.mean(t), homotopy.std(t))
        return homotopy.mean_derivative(t)[..., None] * data + homotopy.std_derivative(t)[..., None] * noise

    def arc_velocity(self, u: Tensor, angle: Tensor) -> Tensor:
        """E[cos φ z − sin φ ε | u] at u = sin φ z + cos φ ε, z = x̄/std; the velocity of the arc, (N, d)."""
        sine, cosine = torch.sin(angle), torch.cos(angle)
        data, noise = self.posterior(u, sine / self.std, cosine)
        return cosine[..., None] * data / self.std - sine[..., None] * noise

    def _offsets(self, x: Tensor, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        """x − μ mₖ and the variances μ² vₖ + σ² along the axes of each component, (N, K, d) each."""
        mean, std = _column(mean), _column(std)
        offsets = torch.einsum("kij,nki->nkj", self.axes, x.double()[:, None] - mean * self.means)
        return offsets, mean.square() * self.variances + std.square()

    def _joint(self, offsets: Tensor, variances: Tensor) -> Tensor:
        """log wₖ + log N(x; μ mₖ, μ² Cₖ + σ² I), (N, K)."""
        exponent = offsets.square() / variances + torch.log(2 * math.pi * variances)
        return torch.log(self.weights) - 0.5 * exponent.sum(2)


def _column(coefficient: Tensor) -> Tensor:
    """(N,) or () → (N, 1, 1) or (1, 1, 1)."""
    return torch.as_tensor(coefficient, dtype=torch.float64).reshape(-1, 1, 1)


def ring(modes: int = 8, spread: float = 1 / 8, std: float = STD) -> Mixture:
    """Equal Gaussians on a circle, of standard deviation `spread` times its radius."""
    turn = 2 * math.pi * torch.arange(modes, dtype=torch.float64) / modes
    means = torch.stack([torch.cos(turn), torch.sin(turn)], 1)
    return Mixture.standardised([1.0] * modes, means, spread**2 * torch.eye(2).expand(modes, 2, 2), std)


def anisotropic() -> Mixture:
    """Three Gaussians in the plane of different weights, widths and directions."""
    means = torch.tensor([[1.0, 0.2], [-0.8, 1.1], [-0.3, -1.3]])
    covariances = torch.tensor(
        [[[0.30, 0.20], [0.20, 0.25]], [[0.08, -0.05], [-0.05, 0.20]], [[0.5, 0.0], [0.0, 0.04]]]
    )
    return Mixture.standardised([0.5, 0.3, 0.2], means, covariances)


def scattered(dimension: int = 5) -> Mixture:
    """Four round Gaussians of different weights and widths at random places."""
    draws = torch.Generator().manual_seed(dimension)
    means = torch.randn(4, dimension, generator=draws, dtype=torch.float64)
    widths = torch.tensor([0.2, 0.3, 0.5, 0.8], dtype=torch.float64)
    return Mixture.standardised([0.1, 0.2, 0.3, 0.4], means, widths[:, None, None] ** 2 * torch.eye(dimension))


def isotropic_gaussian(dimension: int = 2) -> Mixture:
    """N(0, STD² I), for which N = 0."""
    return Mixture.standardised([1.0], torch.zeros(1, dimension), torch.eye(dimension)[None])


def correlated_gaussian(correlation: float = 0.8) -> Mixture:
    """One Gaussian in the plane; the flow stretches its two axes by √(sin² φ (1 ± correlation) + cos² φ)."""
    covariance = torch.tensor([[[1.0, correlation], [correlation, 1.0]]], dtype=torch.float64)
    return Mixture.standardised([1.0], torch.zeros(1, 2), covariance)


MIXTURES = {
    "ring": ring(),
    "anisotropic": anisotropic(),
    "scattered": scattered(),
    "isotropic Gaussian": isotropic_gaussian(),
    "correlated Gaussian": correlated_gaussian(),
}


class ExactNetwork(nn.Module):
    """The exact N of a mixture, from its normalised density: N = (log ρ_u + ½‖u‖² − C)/tan φ.

    C = −(d/2) log 2π at every φ, so a potential around this network must return the normalised log ρ̄. Answers (N,).
    """

    def __init__(self, mixture: Mixture) -> None:
        super().__init__()
        self.mixture = mixture

    def forward(self, u: Tensor, angle: Tensor, condition: Tensor | None = None) -> Tensor:  # noqa: ARG002
        u = u.flatten(1)
        tangent = torch.tan(angle)
        log_density = self.mixture.log_density(u, torch.sin(angle) / self.mixture.std, torch.cos(angle))
        excess = log_density + 0.5 * u.square().sum(1) + 0.5 * u.shape[1] * math.log(2 * math.pi)
        noise_only = tangent < 1e-9  # N(u, 0) = u · E[z] = 0
        return torch.where(noise_only, 0.0, excess / torch.where(noise_only, 1.0, tangent)).to(u.dtype)


@dataclass(frozen=True)
class PowerHomotopy(LogHomotopy):
    """A log-homotopy with α = 1 − t², β = (t + t²)/2."""

    name = "power"

    def prior_weight(self, t: Time) -> Tensor:
        return 1 - as_time(t) ** 2

    def prior_weight_derivative(self, t: Time) -> Tensor:
        return -2 * as_time(t)

    def likelihood_weight(self, t: Time) -> Tensor:
        return (as_time(t) + as_time(t) ** 2) / 2

    def likelihood_weight_derivative(self, t: Time) -> Tensor:
        return 0.5 + as_time(t)


@dataclass(frozen=True)
class LateHomotopy(LogHomotopy):
    """A log-homotopy that has seen some data at t = 0 and keeps some prior at t = 1: α = 1 − t/2, β = 0.1 + 0.9 t."""

    name = "late"

    def prior_weight(self, t: Time) -> Tensor:
        return 1 - as_time(t) / 2

    def prior_weight_derivative(self, t: Time) -> Tensor:
        return torch.full_like(as_time(t), -0.5)

    def likelihood_weight(self, t: Time) -> Tensor:
        return 0.1 + 0.9 * as_time(t)

    def likelihood_weight_derivative(self, t: Time) -> Tensor:
        return torch.full_like(as_time(t), 0.9)


SCHEDULES: dict[str, Homotopy] = {
    "ot": OT(),
    "ot, high floor": OT(sigma_min=0.05),
    "vp": VP(),
    "vp, high floor": VP(sigma_min=0.1),
    "log-homotopy": LogHomotopy(),
    "log-homotopy, wide prior": LogHomotopy(omega=2.0, nu=0.1),
    "log-homotopy, narrow prior": LogHomotopy(omega=0.5, nu=0.3),
    "power": PowerHomotopy(omega=0.8, nu=0.2),
    "late": LateHomotopy(omega=1.5, nu=0.4),
}


def draw(mixture: Mixture, homotopy: Homotopy, t: float, n: int = 64, seed: int = 0) -> tuple[Tensor, Tensor]:
    """n points of ρ̄(·, t), (n, d), and t as (n,), both float64."""
    draws = torch.Generator().manual_seed(seed)
    data = mixture.sample(n, draws)
    noise = torch.randn(data.shape, generator=draws, dtype=torch.float64)
    times = torch.full((n,), t, dtype=torch.float64)
    return homotopy.sample(data, times, noise), times


def exact_field(mixture: Mixture, homotopy: Homotopy = OT()) -> PotentialField:
    """The field of the mixture's exact potential."""
    return PotentialField(Potential(ExactNetwork(mixture), homotopy, mixture.std))


def draw_at(mixture: Mixture, level: float, n: int, seed: int = 0) -> Tensor:
    """n exact points of unit variance at a ratio of noise to data, float64 (n, d)."""
    draws = torch.Generator().manual_seed(seed)
    z = mixture.sample(n, draws) / mixture.std
    noise = torch.randn(z.shape, generator=draws, dtype=torch.float64)
    return (z + level * noise) / math.hypot(1, level)
