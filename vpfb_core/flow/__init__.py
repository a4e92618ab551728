"""The flow of the potential: ODE solvers, and sampling and encoding on the arc."""

from vpfb_core.flow.sampling import Solver, decode, encode
from vpfb_core.flow.solvers import METHODS, Solution, Status, evaluations, solve, steps_for

__all__ = ["METHODS", "Solution", "Solver", "Status", "decode", "encode", "evaluations", "solve", "steps_for"]
