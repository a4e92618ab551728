"""`vpfb compose`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from vpfb_cli import output, signals
from vpfb_cli.drawn import write_images
from vpfb_cli.models import open_model
from vpfb_cli.options import (
    PANEL_OUTPUT,
    BatchSizeOption,
    DeviceOption,
    JsonOption,
    ModelOption,
    QuietOption,
    SeedOption,
    ThreadsOption,
    at_least_one,
)
from vpfb_cli.progress import progress
from vpfb_core.errors import ConfigError

if TYPE_CHECKING:
    from vpfb_cli.output import Output
    from vpfb_core.model.trained import Model
    from vpfb_core.uses.composition import Expression

CHAINS = "Markov chains"


def compose(
    expression: Annotated[
        str,
        typer.Argument(
            metavar="EXPRESSION",
            help="What to draw, in quotes: classes joined by & | ~ and weights; circle,red asks for both at once.",
        ),
    ],
    n: Annotated[
        int,
        typer.Option("-n", callback=at_least_one, metavar="N", help="How many images.", rich_help_panel=PANEL_OUTPUT),
    ] = 16,
    out: Annotated[
        str,
        typer.Option(
            "-o",
            "--out",
            metavar="OUT",
            help=".png: a grid; .npz: an array; a folder: one PNG each; -: a PNG on stdout.",
            rich_help_panel=PANEL_OUTPUT,
        ),
    ] = "composed.png",
    model: ModelOption = None,
    mcmc: Annotated[
        str,
        typer.Option(
            "--mcmc",
            metavar="none|ula|mala",
            help="mala is exact; none, the composed flow alone, is biased for & and ~.",
            rich_help_panel=CHAINS,
        ),
    ] = "mala",
    mcmc_steps: Annotated[
        int | None,
        typer.Option(
            "--mcmc-steps",
            callback=at_least_one,
            metavar="N",
            show_default="4",
            help="Steps at each noise level.",
            rich_help_panel=CHAINS,
        ),
    ] = None,
    levels: Annotated[
        int,
        typer.Option("--levels", metavar="N", help="Noise levels, each a step of the flow.", rich_help_panel=CHAINS),
    ] = 50,
    batch_size: BatchSizeOption = 64,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    seed: SeedOption = 0,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Draw images of what classes have in common, or not: and, or, not.

    red & large   both;              2*red & large   red counts twice
    red | blue    one or the other;  2*red | blue    red twice as often
    ~red          not red            (...)           ~, then *, &, | bind

    colour=red says which, where several attributes have a class "red".
    MODEL:red is a class of another model, MODEL: all that it draws.
    Names with odd characters go in single quotes: 'my runs/a':red.

    Example:
      vpfb compose "circle & red & ~large" -m shapes -n 16 -o out.png
      vpfb compose "runs/001-shapes:red | runs/002-shapes:blue" --seed 7
    """
    say = output.start(json_mode=json, quiet=quiet)
    to_stdout = say.binary_stdout("-o -") if out == "-" else None
    with signals.importing():
        from vpfb_core.uses import composition, pictures
    parsed = composition.parse(expression)
    kind = pictures.output_format(out)
    if kind == "gif":
        raise ConfigError(f"cannot write {out!r}: chains have no single way from noise", hint=".png writes a grid")
    models, name = _open_models(say, parsed, model, device, threads)
    composed = composition.Composition(parsed, models)

    began = time.monotonic()
    with progress(say, "composing") as bar:
        drawn = composition.sample(
            composed, n, seed, mcmc=mcmc, mcmc_steps=mcmc_steps, levels=levels, batch_size=batch_size,
            on_level=bar.update,
        )  # fmt: skip
    write_images(kind, out, drawn.images, to_stdout)
    document = {
        "model": name,
        "output": out,
        "expression": expression,
        "n": n,
        "nfe": drawn.nfe,
        "acceptance": drawn.acceptance,
        "seconds": time.monotonic() - began,
    }
    accepted = "" if drawn.acceptance is None else f", {sum(drawn.acceptance) / len(drawn.acceptance):.0%} accepted"
    say.note(f"{n} images, {drawn.nfe:,} evaluations each{accepted}, {document['seconds']:.1f} s")
    say.result(document, out)


def _open_models(
    say: Output, expression: Expression, model: str | None, device: str, threads: int | None
) -> tuple[dict[str | None, Model], str]:
    """The models that an expression needs, by the names it has for them, and the names to report them by."""
    from vpfb_core.uses.composition import models_named

    wanted = models_named(expression)
    if model is not None and None not in wanted:
        raise ConfigError(f"-m {model}: every name of the expression has a model of its own", hint="leave -m out")
    opened = {name: open_model(say, model if name is None else name, device, threads) for name in wanted}
    return {name: loaded for name, (loaded, _) in opened.items()}, ", ".join(name for _, name in opened.values())
