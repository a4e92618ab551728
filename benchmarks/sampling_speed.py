"""Images per second at equal accuracy: our default sampler, our dopri5, and other libraries' solvers on the same flow.

    python benchmarks/sampling_speed.py [-m digits] [-n 64] [--rounds 3] [--device auto] [--threads N]

Each adaptive solver gets the loosest tolerance of a list at which its samples are as close to the converged samples
from the same noise as those of the default sampler, in the root mean square. torchdiffeq and scipy choose one step for
the whole batch. The solvers alternate in one run, and each figure is the least of several.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torchdiffeq
from record import parsed, record, show
from scipy.integrate import solve_ivp
from solvers import TRUTH
from torch import Tensor

import vpfb_core as vpfb
from vpfb_core.dynamics.solver import DEFAULT_SOLVER, Solver
from vpfb_core.machine import noise
from vpfb_core.methods.fields import Transports
from vpfb_core.methods.transport import decode

TOLERANCES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5)

Sampler = Callable[[float], Tensor]  # tolerance → samples


class Counted:
    """The velocity of the flow, and the number of samples for which it was evaluated."""

    def __init__(self, field: Transports) -> None:
        self.field, self.samples = field, 0

    def __call__(self, u: Tensor, angle: float | Tensor) -> Tensor:
        self.samples += len(u)
        angles = torch.as_tensor(angle, dtype=u.dtype, device=u.device).expand(len(u))
        with torch.no_grad():
            return self.field.velocity(u, angles)


@dataclass
class Contestant:
    """A sampler with the tolerance that it needs."""

    name: str
    sample: Sampler
    tolerance: float = 0.0
    nfe: float = 0.0
    distance: float = float("inf")
    seconds: float = float("inf")


def contestants(field: Transports, codes: Tensor, velocity: Counted) -> list[Contestant]:
    first, last = field.span
    span = torch.tensor([first, last], device=codes.device)

    def ours(solver: Solver) -> Tensor:
        solution = decode(field, codes, solver=solver).require_success()
        velocity.samples += int(solution.nfe.sum())
        return solution.x

    def of_torchdiffeq(tolerance: float) -> Tensor:
        ends: Tensor = torchdiffeq.odeint(
            lambda angle, u: velocity(u, angle), codes, span, method="dopri5", rtol=tolerance, atol=tolerance
        )
        return ends[-1]

    def of_scipy(tolerance: float) -> Tensor:
        def slope(angle: float, state: np.ndarray) -> np.ndarray:
            u = torch.from_numpy(state).reshape(codes.shape).to(codes)
            return velocity(u, angle).flatten().cpu().double().numpy()

        start = codes.flatten().cpu().double().numpy()
        ends = solve_ivp(slope, (first, last), start, method="RK45", rtol=tolerance, atol=tolerance).y[:, -1]
        return torch.from_numpy(ends).reshape(codes.shape).to(codes)

    return [
        Contestant(f"vpfb, {DEFAULT_SOLVER.method} at {DEFAULT_SOLVER.nfe}", lambda _: ours(DEFAULT_SOLVER)),
        Contestant("vpfb, dopri5", lambda tolerance: ours(Solver.choose("dopri5", rtol=tolerance))),
        Contestant("torchdiffeq, dopri5", of_torchdiffeq),
        Contestant("scipy, RK45", of_scipy),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", default="digits")
    parser.add_argument("-n", type=int, default=64, help="number of images, computed in one batch")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parsed(parser)
    model = vpfb.load(arguments.model, device=arguments.device)
    field, codes = model.field, noise.normal(model.shape, 0, range(arguments.n)).to(model.device)
    assert isinstance(field, Transports)
    truth = decode(field, codes, solver=TRUTH).require_success().x
    velocity = Counted(field)
    default, *others = every = contestants(field, codes, velocity)

    def measure(contestant: Contestant, tolerance: float) -> None:
        velocity.samples = 0
        began = time.perf_counter()
        ends = contestant.sample(tolerance)
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        contestant.seconds = min(contestant.seconds, time.perf_counter() - began)
        contestant.tolerance, contestant.nfe = tolerance, velocity.samples / len(codes)
        contestant.distance = float((ends - truth).square().mean().sqrt())

    measure(default, 0.0)
    for contestant in others:
        for tolerance in TOLERANCES:
            measure(contestant, tolerance)
            if contestant.distance <= default.distance:
                break
        contestant.seconds = float("inf")  # of other tolerances
    for _ in range(arguments.rounds):
        for contestant in every:
            measure(contestant, contestant.tolerance)

    rows = [
        {"solver": one.name, "tolerance": one.tolerance or None, "nfe": one.nfe, "distance": one.distance,
         "images_per_second": len(codes) / one.seconds, "times_slower": one.seconds / default.seconds}
        for one in every
    ]  # fmt: skip
    show(
        ["solver", "tolerance", "evaluations", "distance", "images/s", "× slower"],
        [
            [row["solver"], row["tolerance"], f"{row['nfe']:.0f}", f"{row['distance']:.4f}",
             f"{row['images_per_second']:.1f}", f"{row['times_slower']:.2f}"]
            for row in rows
        ],
    )  # fmt: skip
    name = f"sampling-speed-{'x'.join(str(side) for side in model.shape)}"
    record(name, {"model": arguments.model, "samples": len(codes), "solvers": rows}, model.device)


if __name__ == "__main__":
    main()
