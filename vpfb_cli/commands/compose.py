"""`vpfb compose`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from vpfb_cli import signals
from vpfb_cli.models import open_model
from vpfb_cli.options import (
    OUTPUT,
    BatchSizeOption,
    CountOption,
    Machine,
    ModelOption,
    at_least_one,
    at_least_two,
    option,
    path_option,
)
from vpfb_cli.output import Output
from vpfb_cli.progress import progress
from vpfb_cli.wording import duration, one_of
from vpfb_cli.writers import kind_of, open_writer
from vpfb_core.errors import ConfigError, counted
from vpfb_core.machine.origin import Origin
from vpfb_core.names import MCMC

if TYPE_CHECKING:
    from vpfb_core.api import Model
    from vpfb_core.uses.composition import Expression

CHAINS = "Markov chains"


def compose(
    expression: Annotated[
        str,
        typer.Argument(
            metavar="EXPRESSION",
            help="What to draw, in quotes: classes with &, |, ~ and weights. circle,red has both attributes.",
        ),
    ],
    *,
    n: CountOption = 16,
    out: Annotated[
        str | None,
        path_option(
            "-o --out OUT",
            OUTPUT,
            ".png: a grid; .npz: an array; folder: one PNG per image, in place of older samples there; "
            "-: a grid on stdout. Rows of a table: .csv, .tsv or .npy.",
            show_default="composed.png, or composed.csv for a table",
        ),
    ] = None,
    model: ModelOption = None,
    mcmc: Annotated[
        str,
        option(
            "--mcmc NAME",
            CHAINS,
            f"{one_of(MCMC)}. mala is exact within a mode. smc also corrects the shares of modes, with a large -n. "
            "none is the flow alone, which is biased for &.",
        ),
    ] = "mala",
    mcmc_steps: Annotated[
        int | None,
        option("--mcmc-steps N", CHAINS, "Number of steps per noise level.", callback=at_least_one, show_default="4"),
    ] = None,
    levels: Annotated[
        int,
        option("--levels N", CHAINS, "Number of noise levels, each with a step of the flow.", callback=at_least_two),
    ] = 50,
    batch_size: BatchSizeOption = 64,
    machine: Machine,
    say: Output,
) -> None:
    """Draw images, or rows of a table, of a combination of classes: and, or, not.

    red & large   both;              2*red & large   red counts twice
    red | blue    one or the other;  2*red | blue    red twice as often
    ~red          any other colour

    Operators bind in the order ~, *, &, |. Parentheses change the order.

    colour=red names the attribute, if several attributes have a class "red".
    MODEL:red is a class of another model, and MODEL: is all that it draws.
    Names with special characters need single quotes: 'my runs/a':red.

    Example:
      vpfb compose "circle & red & ~large" -m shapes -n 16 -o out.png
      vpfb compose "runs/001-shapes:red | runs/002-shapes:blue" --seed 7
    """
    with signals.importing():
        from vpfb_core.uses import composition
    parsed = composition.parse(expression)
    named = next(iter(composition.models_named(parsed)))
    writer, out = open_writer(kind_of(model if named is None else named), out, "composed", say, {}, animated=False)
    models, used = _open_models(say, parsed, model, machine)
    composed = composition.Composition(parsed, models)

    began = time.monotonic()
    with writer.writing(n, composed.model, Origin.of(machine.seed, *used), at_once=True):
        with progress(say, "composing") as bar:
            drawn = composition.sample(
                composed, n, machine.seed, mcmc=mcmc, mcmc_steps=mcmc_steps, levels=levels, batch_size=batch_size,
                on_level=bar.update,
            )  # fmt: skip
        writer.add(drawn.images)
    seconds = time.monotonic() - began
    document = {
        "model": ", ".join(used), "output": out, "expression": expression, "n": n, "nfe": drawn.nfe,
        "acceptance": drawn.acceptance, "seconds": seconds, "seed": machine.seed,
    }  # fmt: skip
    if mcmc == "smc":
        document |= {"resampled": drawn.resampled, "log_normaliser": drawn.log_normaliser}
    accepted = ""
    if drawn.acceptance is not None:
        accepted = f", {sum(drawn.acceptance) / len(drawn.acceptance):.0%} of proposals accepted"
    if drawn.log_normaliser is not None:
        accepted += (
            f", resampled {counted(drawn.resampled or 0, 'times')}, log normaliser {drawn.log_normaliser:+.2f} nats"
        )
    effort = f"{counted(drawn.nfe, 'gradient evaluations')} each{accepted}"
    noun = composed.model.statistics.noun
    say.note(f"{counted(n, noun)}, {effort}, seed {machine.seed}, {duration(seconds)}")
    say.result(document, writer.table or out)


def _open_models(
    say: Output, expression: Expression, model: str | None, machine: Machine
) -> tuple[dict[str | None, Model], list[str]]:
    """The models that an expression needs, by the names it has for them, and the names to report them by."""
    from vpfb_core.uses.composition import models_named

    wanted = models_named(expression)
    if model is not None and None not in wanted:
        raise ConfigError(f"-m {model} is not used: every name of the expression has a model", hint="leave -m out")
    opened = {name: open_model(say, model if name is None else name, machine) for name in wanted}
    return {name: loaded for name, (loaded, _) in opened.items()}, [name for _, name in opened.values()]
