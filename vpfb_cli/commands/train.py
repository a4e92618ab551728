# ruff: noqa: E501, ARG001  (one option a line reads best; they are read from the context)
"""`vpfb train`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vpfb_cli import output, signals
from vpfb_cli.options import (
    PANEL_DATA,
    PANEL_MACHINE,
    DataRootOption,
    DeviceOption,
    DownloadOption,
    JsonOption,
    QuietOption,
    SeedOption,
    ThreadsOption,
)
from vpfb_cli.progress import progress
from vpfb_core.config import CHOICES, TrainConfig, merge_levels, parse_setting, read_file
from vpfb_core.errors import ConfigError
from vpfb_core.machine.launch import place

if TYPE_CHECKING:
    from vpfb_core.training import Plan, Progress, Result

LENGTH, METHOD, RUN = "Length and size", "Method", "Run"


def _option(*names: str, panel: str, help: str, metavar: str | None = None, **more: Any) -> Any:
    return typer.Option(*names, help=help, metavar=metavar, rich_help_panel=panel, show_default=False, **more)


def _choice(setting: str, *names: str, panel: str, help: str) -> Any:
    return _option(*names, panel=panel, help=help, metavar="|".join(CHOICES[setting]))


def train(
    ctx: typer.Context,
    data: Annotated[str | None, _option("--data", panel=PANEL_DATA, metavar="DATA", help="A folder of images, an .npz or .npy file, or a name (vpfb data lists them).")] = None,
    size: Annotated[int | None, _option("--size", panel=PANEL_DATA, metavar="PIXELS", help="Side of the images; chosen from the data otherwise.")] = None,
    channels: Annotated[int | None, _option("--channels", panel=PANEL_DATA, metavar="1|3", help="Grey or colour; found from the data otherwise.")] = None,
    conditional: Annotated[bool | None, _option("--conditional", panel=PANEL_DATA, metavar="", help="Learn the classes too: labels, sub-folder names, or attributes.csv.")] = None,
    augment: Annotated[str | None, _choice("augment", "--augment", panel=PANEL_DATA, help="Mirror images at random; auto: where it makes sense.")] = None,
    val_fraction: Annotated[float | None, _option("--val-fraction", panel=PANEL_DATA, metavar="SHARE", help="Held out for the residual (0.1).")] = None,
    data_root: DataRootOption = None,
    download: DownloadOption = True,
    preset: Annotated[str | None, _choice("preset", "--preset", panel=LENGTH, help="Size of network and run; by image size and machine otherwise.")] = None,
    steps: Annotated[int | None, _option("--steps", panel=LENGTH, metavar="N", help="Train so many steps; not with --time-budget.")] = None,
    time_budget: Annotated[str | None, _option("--time-budget", panel=LENGTH, metavar="TIME", help="Train so long, grids and saving included: 90s, 10m, 1h30m.")] = None,
    batch_size: Annotated[int | None, _option("--batch-size", panel=LENGTH, metavar="N", help="Images a step, of all processes together.")] = None,
    lr: Annotated[float | None, _option("--lr", panel=METHOD, metavar="RATE", help="Adam's learning rate.")] = None,
    objective: Annotated[str | None, _choice("objective", "--objective", panel=METHOD, help="The loss (stein).")] = None,
    schedule: Annotated[str | None, _choice("schedule", "--schedule", panel=METHOD, help="The homotopy from noise to data (ot).")] = None,
    config: Annotated[Path | None, _option("--config", panel=METHOD, metavar="FILE.toml", help="Settings from a file, such as a run's config.toml.")] = None,
    set_: Annotated[list[str] | None, _option("--set", panel=METHOD, metavar="KEY=VALUE", help="Any setting by its name in config.toml; repeatable.")] = None,
    out: Annotated[str | None, _option("--out", panel=RUN, metavar="DIR", help="The run folder; a new runs/NNN-data otherwise.")] = None,
    resume: Annotated[str | None, _option("--resume", panel=RUN, metavar="auto|never|DIR", help="Go on with an unfinished run of the same settings.")] = None,
    save_every: Annotated[int | None, _option("--save-every", panel=RUN, metavar="STEPS", help="Save so often; every minute otherwise.")] = None,
    sample_every: Annotated[int | None, _option("--sample-every", panel=RUN, metavar="STEPS", help="Grid and residual so often; ten times a run otherwise.")] = None,
    keep: Annotated[int | None, _option("--keep", panel=RUN, metavar="N", help="Earlier states kept beside the newest (1).")] = None,
    on_nonfinite: Annotated[str | None, _choice("on_nonfinite", "--on-nonfinite", panel=RUN, help="When a loss or gradient is not finite (stop).")] = None,
    dry_run: Annotated[bool, _option("--dry-run", panel=RUN, metavar="", help="Show the settings, parameters and memory, and exit.")] = False,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    workers: Annotated[int | None, _option("--workers", panel=PANEL_MACHINE, metavar="N", help="Threads that decode images.")] = None,
    precision: Annotated[str | None, _choice("precision", "--precision", panel=PANEL_MACHINE, help="Of the network; gradients and energies stay fp32.")] = None,
    compile: Annotated[str | None, _choice("compile", "--compile", panel=PANEL_MACHINE, help="Compile the step; auto: in long runs on CUDA.")] = None,
    seed: SeedOption = 0,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:  # fmt: skip
    """Train a model on a folder of images, an array file, or a named data set.

    Everything that is not said is chosen from the data and the machine, printed first, and kept in the run folder.

    Ctrl-C saves and stops; the same command with --resume auto goes on.

    Settings can also stand in the environment (VPFB_TRAIN_STEPS=1000) and in a file (--config).

    Example:
      vpfb train --data ./imgs
      vpfb train --data digits --conditional --time-budget 3m
    """
    say = output.start(json_mode=json, quiet=quiet)
    settings = _settings(ctx, config, set_ or [])
    with signals.importing():
        from vpfb_core import training
    plan = training.prepare(settings)
    for note in plan.images.notes:
        say.note(f"data: {note}")
    say.note(_describe(plan))
    if dry_run:
        document = {"config": plan.config.to_dict(), "parameters": plan.parameters, "memory_bytes": plan.memory_bytes}
        rows = [(name, "" if value is None else value) for name, value in plan.config.to_dict().items()]
        figures = [("parameters", f"{plan.parameters:,}"), ("memory", _bytes(plan.memory_bytes))]
        say.result(document, output.table(["setting", "value"], rows + figures))
        return
    with signals.graceful(say.note) as stop, progress(say, "training") as bar:
        result = training.run(
            plan, on_step=lambda now: bar.update(now.fraction, lambda: _fields(now, plan)), should_stop=stop
        )
    for note in result.notes:
        say.note(f"data: {note}")
    if result.status == "interrupted":
        raise signals.Interrupted(
            f"stopped at step {result.step}; saved in {result.run.path}",
            hint=f"go on with: vpfb train --resume {result.run.path}",
        )
    if result.status == "already finished":
        say.note(f"{result.run.path} is finished already, at step {result.step}")
    _report(say, plan, result)


def _settings(ctx: typer.Context, config: Path | None, assignments: list[str]) -> TrainConfig:
    """option > environment > file > default; a preset comes in below the file, when the data is known."""
    known = [field.name for field in fields(TrainConfig)]
    variables = {name: os.environ.get(f"VPFB_TRAIN_{name.upper()}") for name in known}
    environment = dict(parse_setting(f"{name}={value}") for name, value in variables.items() if value)
    if os.environ.get("VPFB_DATA"):
        environment.setdefault("data_root", os.environ["VPFB_DATA"])
    typed = dict(map(parse_setting, assignments))
    for name, value in ctx.params.items():
        source = ctx.get_parameter_source(name)
        if name in known and source is not None and source.name == "COMMANDLINE":
            typed[name] = value
    if typed.get("steps") is not None and typed.get("time_budget") is not None:
        raise ConfigError("--steps and --time-budget exclude each other", hint="say how long in one way")
    return TrainConfig(**merge_levels([read_file(config) if config else {}, environment, typed]))


def _describe(plan: Plan) -> str:
    config = plan.config
    length = [f"{config.steps:,} steps"] if config.steps else []
    length += [f"{config.time_budget / 60:g} minutes"] if config.time_budget else []
    classes = sum(len(group.classes) for group in plan.images.groups)
    processes = place().count
    batch = f"batch {config.batch_size}{f' shared by {processes} processes' if processes > 1 else ''}"
    if config.micro_batch != -(-(config.batch_size or 1) // processes):
        batch += f", {config.micro_batch} at a time"
    return (
        f"preset {config.preset}: {plan.parameters:,} parameters{f', {classes} classes' if classes else ''}, "
        f"{batch}, {config.precision}{', compiled,' if config.compile == 'on' else ''} on {config.device} "
        f"({config.threads} threads), "
        f"at most {' or '.join(length)}, about {_bytes(plan.memory_bytes)} of memory"
    )


def _fields(now: Progress, plan: Plan) -> Mapping[str, object]:
    steps = f"{now.step}/{plan.config.steps}" if plan.config.steps and not plan.config.time_budget else str(now.step)
    if now.finishing:
        return {"step": steps, "now": "calibrating energies", "held-out residual": now.val_residual}
    return {
        "step": steps,
        "loss": now.loss,
        "held-out residual": now.val_residual,
        "gradient": now.grad_norm,
        "images/s": round(now.images_per_second),
        "memory": _bytes(now.memory_bytes),
    }


def _report(say: output.Output, plan: Plan, result: Result) -> None:
    document = {
        "command": "train",
        "run": result.run.path,
        "model": result.run.model,
        "steps": result.step,
        "images": result.images,
        "seconds": result.seconds,
        "images_per_second": result.images_per_second,
        "loss": result.loss,
        "val_residual": result.val_residual,
        "parameters": plan.parameters,
        "device": plan.config.device,
    }
    say.note(
        f"{result.step} steps in {result.seconds:.0f} s, held-out residual {result.val_residual:.4f}; "
        f"next: vpfb sample -m {result.run.path} -n 64 -o grid.png"
    )
    say.result(document, str(result.run.path))


def _bytes(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
