"""The optimiser of a network: Adam for all parameters, or Muon for large matrices and Adam for the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vpfb_core.training.muon import Muon

LEAST_SIDE = 16  # of a matrix for Muon; Adam moves narrower ones, such as those of the layer that writes pixels


@dataclass(frozen=True)
class Part:
    """The parameters that one optimiser moves.

    Attributes:
        name: the name of the optimiser in saved states.
        optimiser: the optimiser.
        parameters: its parameters by name.
        moments: the names of the tensors that it keeps per parameter.
    """

    name: str
    optimiser: torch.optim.Optimizer
    parameters: dict[str, nn.Parameter]
    moments: tuple[str, ...]


class Optimiser:
    """The update of the parameters of a network from their gradients.

    The kernel of a convolution, (K, C, k, k), is the matrix (K, C·k²). Adam and Muon have the same learning rate.

    Args:
        network: the network. Its parameters must already be on their device and in their memory format.
        algorithm: "adam", or "muon" for the weights of convolutions and linear layers with at least `LEAST_SIDE` rows
            and columns.
    """

    def __init__(self, network: nn.Module, algorithm: str) -> None:
        self._parameters = dict(network.named_parameters())
        names = _large_matrices(network) if algorithm == "muon" else []
        # These are views: an update of a matrix is one of the parameter.
        self._matrices = {name: nn.Parameter(_matrix(self._parameters[name])) for name in names}
        others = {name: parameter for name, parameter in self._parameters.items() if name not in self._matrices}
        self._parts = []
        if others:
            adam = torch.optim.Adam(others.values(), betas=(0.9, 0.99), fused=True)
            self._parts.append(Part("adam", adam, others, ("exp_avg", "exp_avg_sq")))
        if self._matrices:
            muon = Muon(self._matrices.values())
            self._parts.append(Part("muon", muon, self._matrices, ("momentum",)))

    def set_factors(self, factor: Callable[[str], float]) -> None:
        """Multiply the learning rate of every parameter with the factor of its name."""
        for part in self._parts:
            groups: dict[float, list[nn.Parameter]] = {}
            for name, parameter in part.parameters.items():
                groups.setdefault(factor(name), []).append(parameter)
            common = part.optimiser.param_groups[0]
            part.optimiser.param_groups = [
                {**common, "params": members, "factor": value} for value, members in groups.items()
            ]

    def step(self, rate: float) -> None:
        """Move all parameters that have a gradient, with this learning rate times their factors."""
        for name, matrix in self._matrices.items():
            parameter = self._parameters[name]
            matrix.grad = None if parameter.grad is None else _matrix(parameter.grad, layout_of=parameter)
        for part in self._parts:
            for group in part.optimiser.param_groups:
                group["lr"] = group.get("factor", 1.0) * rate
            part.optimiser.step()

    def tensors(self) -> dict[str, Tensor]:
        """The moments of all parameters that have been moved, by name."""
        return {
            f"{part.name}/{moment}/{name}": part.optimiser.state[parameter][moment]
            for part in self._parts
            for name, parameter in part.parameters.items()
            for moment in part.moments
            if moment in part.optimiser.state.get(parameter, {})
        }

    def load(self, tensors: dict[str, Tensor], step: int) -> None:
        """Restore what `tensors` returned after `step` steps.

        Raises:
            KeyError, RuntimeError: the moments do not fit the parameters.
        """
        for part in self._parts:
            part.optimiser.state.clear()
            for name, parameter in part.parameters.items() if step else ():
                kept = {moment: tensors[f"{part.name}/{moment}/{name}"] for moment in part.moments}
                if any(tensor.shape != parameter.shape for tensor in kept.values()):
                    raise RuntimeError(f"the moments of {name} do not have its shape")
                # In the parameter's layout: the fused optimiser walks through both as they lie in memory.
                state: dict[str, Any] = {
                    moment: torch.empty_like(parameter).copy_(tensor) for moment, tensor in kept.items()
                }
                if part.name == "adam":
                    state["step"] = torch.tensor(float(step), device=parameter.device)
                part.optimiser.state[parameter] = state


def _large_matrices(network: nn.Module) -> list[str]:
    """The names of the weights of convolutions and linear layers with at least `LEAST_SIDE` rows and columns."""
    return [
        f"{prefix}.weight" if prefix else "weight"
        for prefix, layer in network.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
        if min(layer.weight.shape[0], layer.weight[0].numel()) >= LEAST_SIDE
    ]


def _matrix(tensor: Tensor, layout_of: Tensor | None = None) -> Tensor:
    """A weight (K, C, k, k) or (K, C), detached, as a matrix with K rows whose columns are in the order of memory.

    It is a view of a weight that is contiguous or has the memory format "channels last".

    Args:
        layout_of: the weight by whose memory the columns are ordered; None for the tensor itself.
    """
    weight = tensor if layout_of is None else layout_of
    rows = tensor.detach()
    return (rows if weight.is_contiguous() else rows.movedim(1, -1)).flatten(1)
