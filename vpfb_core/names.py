"""The names of methods, networks, schedules, presets, solvers and scores, available without importing torch.

The module of a method or a network is imported when it is first used. A new one needs its own file and a row here.
"""

from __future__ import annotations

from dataclasses import dataclass

VERSION = "0.1.0"


@dataclass(frozen=True)
class MethodName:
    """A training method.

    Attributes:
        summary: one line that says what it is.
        module: the module that contains its class.
        attribute: the name of the class.
        gives: the capabilities of the method: "energy", explicit and with a gradient; "free-energy", one that has to be
            estimated; "flow", from noise to data and back; "density", if its energies are calibrated to normalised
            densities; "code", if it describes each datum by a code; "tilt", if its field of tilted data is known.
        sampling: the options of sampling that only this method has, beside the solver.
        network: the only network that it trains, which no other method trains; None if it trains all others.
    """

    summary: str
    module: str
    attribute: str
    gives: tuple[str, ...]
    sampling: tuple[str, ...] = ()
    network: str | None = None

    def has(self, capability: str) -> bool:
        """Whether the method has a capability, or one that includes it.

        A flow gives each datum a code: the noise from which it comes. An energy is also a free energy.
        """
        including = {"code": "flow", "free-energy": "energy"}.get(capability)
        return capability in self.gives or including in self.gives


METHODS: dict[str, MethodName] = {
    "vpfb": MethodName(
        "Variational Potential Flow Bayes: one potential that is a flow and an energy",
        "vpfb_core.methods.vpfb.method",
        "VPFB",
        ("energy", "flow", "density", "tilt"),
    ),
    "flow-matching": MethodName(
        "flow matching: a velocity without an energy, the baseline",
        "vpfb_core.methods.flow_matching",
        "FlowMatching",
        ("flow",),
    ),
    "energy-matching": MethodName(
        "Energy Matching: one energy of clean data without time, trained in two phases",
        "vpfb_core.methods.energy_matching.two_phases",
        "EnergyMatching",
        ("energy",),
        ("tau",),
    ),
    "latent": MethodName(
        "latent: a joint energy of data and codes of a few numbers, trained by particles",
        "vpfb_core.methods.latent.two_stages",
        "Latent",
        ("free-energy", "density", "code"),
        ("start",),
        "decoder",
    ),
}
DEFAULT_METHOD = "vpfb"

OBJECTIVES = ("stein", "ritz", "official")
SCHEDULES = ("ot", "vp", "log-homotopy")
# Where the class of each network is, as "module:class".
NETWORKS: dict[str, str] = {
    "unet": "vpfb_core.networks.unet:UNet",
    "encoder": "vpfb_core.networks.encoder:Encoder",
    "paper-unet": "vpfb_core.networks.paper:PaperUNet",
    "mlp": "vpfb_core.networks.mlp:MLP",
    "residual-mlp": "vpfb_core.networks.residual_mlp:ResidualMLP",
    "vector-mlp": "vpfb_core.networks.vector_mlp:VectorMLP",
    "decoder": "vpfb_core.networks.decoder:Decoder",
}
PRESETS = ("tiny", "small", "base", "paper", "celeba64", "mlp")
SOLVERS = ("arc3", "euler", "midpoint", "heun", "rk4", "ab2", "ab3", "bosh3", "dopri5")
SOLVER_ARGUMENTS = ("method", "nfe", "rtol", "atol")  # those of `Solver.choose`
SCORES = ("multiscale", "energy", "gradient", "typicality", "density", "dimension", "likelihood")
OURS = "vpfb:"  # before the name of a built-in model in configurations of earlier versions
MCMC = ("none", "ula", "mala", "smc")


def methods_with(capability: str) -> list[str]:
    """The names of the methods that have a capability, such as "flow" (see `MethodName.gives`)."""
    return [name for name, method in METHODS.items() if method.has(capability)]
