"""The options of the commands that draw pictures: what to draw, and how the flow is followed."""

from __future__ import annotations

from typing import Annotated

import typer

from vpfb_cli.options import PANEL_MODEL, at_least_one

PANEL_FLOW = "Flow"

ClassOption = Annotated[
    list[str] | None,
    typer.Option(
        "--class",
        metavar="NAME",
        help="Class to draw, or several attributes with commas; repeated, they take turns.",
        rich_help_panel=PANEL_MODEL,
    ),
]
GuidanceOption = Annotated[
    float | None,
    typer.Option(
        "--guidance",
        metavar="W",
        show_default=False,
        help="How strongly the class is meant: 1 as in the data, more for clearer examples, at twice the price.",
        rich_help_panel=PANEL_MODEL,
    ),
]
SolverOption = Annotated[
    str | None,
    typer.Option(
        "--solver",
        metavar="NAME",
        help="arc3, euler, midpoint, heun, rk4, ab2 or ab3 with --nfe; bosh3 or dopri5 with --rtol.",
        rich_help_panel=PANEL_FLOW,
    ),
]
NfeOption = Annotated[
    int | None,
    typer.Option(
        "--nfe",
        callback=at_least_one,
        metavar="N",
        help="Evaluations of the gradient an image.",
        rich_help_panel=PANEL_FLOW,
    ),
]
RtolOption = Annotated[
    float | None, typer.Option("--rtol", metavar="TOL", help="Relative tolerance.", rich_help_panel=PANEL_FLOW)
]
AtolOption = Annotated[
    float | None,
    typer.Option(
        "--atol", metavar="TOL", help="Absolute tolerance, in deviations of the data.", rich_help_panel=PANEL_FLOW
    ),
]
