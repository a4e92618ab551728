"""The share of composed pictures that satisfy an expression, as judged from their pixels.

    python benchmarks/compose.py [--time-budget 15m] [-n 256] [--runs runs/compose]
    python benchmarks/compose.py -m MODEL -n 64 -e "circle & red" -e "circle | square" --ways flow mala

Trains two conditional models on `shapes`, 16×16 in colour, the second without any red circle. Both draw pairs, triples,
"not" and "or": by the composed flow alone, with MALA, with sequential Monte Carlo, and directly, by a condition on all
classes at once, without and with guidance. If several combinations of classes satisfy an expression, the direct samples
alternate between them. A reader that involves no training determines the classes of each picture. A picture without a
clear single shape satisfies nothing. For "or", the share of the first side among the pictures that satisfy the
expression is given as well; it should be one half. --runs keeps the models, and a second call evaluates those that
exist. -m evaluates another model of `shapes` instead, for the expressions that need no left-out pair unless --left-out-
model is given too. --ways draws in some of the five ways only.
"""

from __future__ import annotations

import argparse
import itertools
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import shapes_reader
import torch
from record import folder, parsed, record, show, training
from torch import Tensor

import vpfb_core as vpfb
from vpfb_core.api import Model
from vpfb_core.data import ConditionGroup
from vpfb_core.data.sets import shapes
from vpfb_core.model.conditions import parse_condition
from vpfb_core.training import prepare, run
from vpfb_core.uses import pictures
from vpfb_core.uses.composition import And, Composition, Expression, Name, Not, Or, Weighted, names_of, parse, sample

SEEN = (
    "circle & red", "square & blue", "cross & small", "triangle & left",
    "circle & red & large", "square & green & small", "cross & yellow & left",
    "red & ~circle", "triangle & ~green & large", "circle & ~red & ~large",
    "circle | square", "(circle & red) | (square & blue)", "(cross | triangle) & yellow",
)  # fmt: skip
LEFT_OUT = (
    "circle & red", "circle & red & large", "circle & red & small & left",
    "4*circle,red", "4*circle,red,large", "4*circle,red,small,left",
)  # fmt: skip
WITHOUT = (("circle", "red"),)

GUIDANCE = 4.0
# The ways of drawing, with the heading of their column: composed flows by their kind of Monte Carlo, then directly.
WAYS = {
    "flow": "flow alone", "mala": "with MALA", "smc": "with SMC",
    "direct": "directly", "guided": f"directly, guidance {GUIDANCE:g}",
}  # fmt: skip
MCMC = {"flow": "none", "mala": "mala", "smc": "smc"}
SHOWN = 8  # of each expression in the picture


def holds(expression: Expression, labels: Tensor, groups: Sequence[ConditionGroup]) -> Tensor:
    """Whether labels (N, G) satisfy an expression, bool (N,).

    A label of −1 is no class. It satisfies neither a class of its group nor the negation of one.
    """
    match expression:
        case Name():
            condition = torch.tensor(parse_condition(expression.name, groups))
            return ((labels == condition) | (condition < 0)).all(1)
        case And(parts):
            return torch.stack([holds(part, labels, groups) for part in parts]).all(0)
        case Or(parts):
            return torch.stack([holds(part, labels, groups) for part in parts]).any(0)
        case Not(part):
            return ~holds(part, labels, groups) & (labels >= 0).all(1)
        case Weighted(_, part):
            return holds(part, labels, groups)


def ways(expression: Expression, groups: Sequence[ConditionGroup]) -> list[str]:
    """The combinations of classes that satisfy an expression, such as "circle,red", of the groups that occur in it."""
    asked = torch.tensor([parse_condition(name.name, groups) for name in names_of(expression)])
    named = torch.nonzero((asked >= 0).any(0))[:, 0].tolist()
    choices = [range(len(groups[group].classes)) for group in named]
    rows = torch.zeros(math.prod(map(len, choices)), len(groups), dtype=torch.int64)
    rows[:, named] = torch.tensor(list(itertools.product(*choices)))
    return [
        ",".join(groups[group].classes[row[group]] for group in named)
        for row in rows[holds(expression, rows, groups)].tolist()
    ]


def judged(expression: Expression, labels: Tensor, groups: Sequence[ConditionGroup]) -> dict[str, int | None]:
    """The number of pictures that satisfy an expression, and for an | the number of these that satisfy its first side.

    Args:
        labels: the labels of the pictures, int64 (n, G).
    """
    first = int(holds(expression.parts[0], labels, groups).sum()) if isinstance(expression, Or) else None
    return {"satisfied": int(holds(expression, labels, groups).sum()), "n": len(labels), "first": first}


def shown(figures: dict[str, Any]) -> str:
    """The share of pictures with its standard error, and in brackets the share of the first side."""
    share = figures["satisfied"] / figures["n"]
    text = f"{share:.1%} ± {math.sqrt(share * (1 - share) / figures['n']):.1%}"
    return text if figures["first"] is None or not share else f"{text} ({figures['first'] / figures['satisfied']:.0%})"


def model(
    path: str | None, name: str, without: Sequence[Sequence[str]], arguments: argparse.Namespace, runs: Path
) -> Model:
    """The model at `path`, or if that is None the one of this name under `runs`, which is trained if it is missing."""
    run_folder = runs / name
    if path is None and not (run_folder / "model.safetensors").is_file():
        settings = {"steps": arguments.steps} if arguments.steps else {"time_budget": arguments.time_budget}
        config = vpfb.TrainConfig(
            data="shapes", size=16, channels=3, conditional=True, device=arguments.device, threads=arguments.threads,
            prototypes=arguments.prototypes, out=str(run_folder), **settings,
        )  # fmt: skip
        plan = prepare(config)
        run(replace(plan, images=shapes.draw(len(plan.images), 16, without=without)))
    return vpfb.load(path or run_folder, device=arguments.device)


def evaluate(
    model: Model, text: str, read: Callable[[Tensor], Tensor], arguments: argparse.Namespace
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The figures of one expression, and the pictures, by the way of drawing; `read` returns the labels of pictures."""
    expression, n, seed = parse(text), arguments.n, arguments.seed
    composed = Composition(expression, model)
    drawn: dict[str, Tensor] = {}
    figures: dict[str, Any] = {}
    for way in arguments.ways:
        began = time.perf_counter()
        if way in MCMC:
            composition = sample(composed, n, seed, mcmc=MCMC[way], batch_size=arguments.batch_size)
            drawn[way], nfe, acceptance = composition.images, composition.nfe, composition.acceptance
        else:
            guidance = GUIDANCE if way == "guided" else None
            directly = model.sample(
                n, seed, condition=ways(expression, model.groups), guidance=guidance, batch_size=arguments.batch_size
            )
            drawn[way], nfe, acceptance = directly.images, int(directly.nfe.max()), None
        figures[way] = {"seconds": time.perf_counter() - began, "nfe": nfe, "acceptance": acceptance}
    judgements = {way: judged(expression, read(images), model.groups) for way, images in drawn.items()}
    return {way: figures[way] | judgement for way, judgement in judgements.items()}, drawn


def sampling_options(parser: argparse.ArgumentParser, n: int, batch_size: int) -> None:
    """Add the options that `evaluate` reads, with their defaults."""
    parser.add_argument("-n", type=int, default=n, help="number of pictures per expression")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="ways of drawing")
    parser.add_argument("--batch-size", type=int, default=batch_size)
    parser.add_argument("--seed", type=int, default=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    sampling_options(parser, n=256, batch_size=256)
    parser.add_argument("--time-budget", default="15m", help="time budget of each of the two trainings")
    parser.add_argument("--steps", type=int, help="steps of each training, instead of a time budget")
    parser.add_argument("-m", "--model", help="a model trained on all of shapes")
    parser.add_argument("--left-out-model", help="a model trained without red circles")
    parser.add_argument("-e", "--expression", action="append", help="for the model of all shapes; by default thirteen")
    parser.add_argument("--runs", type=Path, help="folder in which the models are kept")
    parser.add_argument("--name", default="compose", help="name of the files of results")
    parser.add_argument("--prototypes", action="store_true", default=None, help="train with prototypes")
    arguments = parsed(parser)
    with tempfile.TemporaryDirectory() as scratch:
        runs = arguments.runs or Path(scratch)
        models = {"all": model(arguments.model, "all", (), arguments, runs)}
        if arguments.left_out_model or not arguments.model:
            models["no red circles"] = model(arguments.left_out_model, "no-red-circles", WITHOUT, arguments, runs)
    asked = [("all", text) for text in arguments.expression or SEEN]
    asked += [("no red circles", text) for text in LEFT_OUT if "no red circles" in models]
    results, rows, grids = [], [], []
    for name, text in asked:
        figures, drawn = evaluate(models[name], text, lambda images: shapes_reader.read(images).labels, arguments)
        results.append({"data": name, "expression": text, **figures})
        rows.append([name, text, *(shown(figures[way]) for way in arguments.ways)])
        grids.append(drawn["mala" if "mala" in drawn else arguments.ways[0]][:SHOWN])
    show(["data", "expression", *(WAYS[way] for way in arguments.ways)], rows)
    real = shapes.draw(arguments.n, 16, arguments.seed + 1)
    assert real.labels is not None  # shapes are always labelled
    read = float((shapes_reader.read(real.images).labels == real.labels).all(1).double().mean())
    print(f"the reader reads {read:.1%} of {arguments.n} real pictures right")
    device = models["all"].device
    label = f"{arguments.name}-shapes.png"
    (folder(device) / label).write_bytes(pictures.png(pictures.tile(torch.cat(grids), columns=min(SHOWN, arguments.n))))
    about = {name: training(model) for name, model in models.items()}
    record(arguments.name, {"results": results, "reader": read, "models": about}, device)


if __name__ == "__main__":
    main()
