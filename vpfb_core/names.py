"""Every name that people type, without importing torch.

The modules behind the names are imported when one is asked for. Adding a method is its own file and a row here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MethodName:
    """A training method.

    Attributes:
        summary: what it is, in one line.
        module: that holds its class.
        attribute: the name of the class.
        gives: what its fields can do: "energy", "flow".
    """

    summary: str
    module: str
    attribute: str
    gives: tuple[str, ...]


METHODS: dict[str, MethodName] = {
    "vpfb": MethodName(
        "Variational Potential Flow Bayes: one potential that is a flow and an energy",
        "vpfb_core.methods.vpfb.method",
        "VPFB",
        ("energy", "flow"),
    ),
    "flow-matching": MethodName(
        "flow matching: a velocity without an energy, the baseline",
        "vpfb_core.methods.flow_matching",
        "FlowMatching",
        ("flow",),
    ),
}
DEFAULT_METHOD = "vpfb"

OBJECTIVES = ("stein", "ritz", "official")
SCHEDULES = ("ot", "vp", "log-homotopy")
NETWORKS = ("unet", "paper-unet", "mlp")
PRESETS = ("tiny", "small", "base", "paper", "celeba64")
SOLVERS = ("arc3", "euler", "midpoint", "heun", "rk4", "ab2", "ab3", "bosh3", "dopri5")
SCORES = ("multiscale", "energy", "gradient", "typicality", "density", "likelihood")
MCMC = ("none", "ula", "mala")


def methods_with(capability: str) -> list[str]:
    """The names of the methods whose fields have a capability."""
    return [name for name, method in METHODS.items() if capability in method.gives]
