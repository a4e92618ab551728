"""The flow of the potential: ODE solvers, and sampling, encoding, likelihood and Langevin chains on the arc."""

from vpfb_core.flow.inpainting import Inpainting, inpaint
from vpfb_core.flow.interpolation import slerp
from vpfb_core.flow.likelihood import Likelihood, log_likelihood
from vpfb_core.flow.long_runs import LongRun, long_run
from vpfb_core.flow.sampling import Solver, decode, encode
from vpfb_core.flow.solvers import METHODS, Solution, Status, evaluations, solve, steps_for

__all__ = [
    "METHODS",
    "Inpainting",
    "Likelihood",
    "LongRun",
    "Solution",
    "Solver",
    "Status",
    "decode",
    "encode",
    "evaluations",
    "inpaint",
    "log_likelihood",
    "long_run",
    "slerp",
    "solve",
    "steps_for",
]
