# ruff: noqa: E501, ARG001  (one option per line reads best; their values are read from the context)
"""`vpfb train`."""

from __future__ import annotations

import difflib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vpfb_cli import output, signals
from vpfb_cli.models import note_namesake
from vpfb_cli.options import DATA, MACHINE, DataAccess, Machine, file_option, naming_options, option, path_option
from vpfb_cli.output import Output
from vpfb_cli.progress import progress
from vpfb_cli.wording import byte_count, duration, one_of
from vpfb_cli.writers import FORMATS
from vpfb_core import names
from vpfb_core.config import (
    SECTIONS,
    DataSettings,
    MachineSettings,
    RunSettings,
    TrainConfig,
    known_names,
    merge_levels,
    parse_setting,
    read_file,
)
from vpfb_core.errors import ConfigError, counted
from vpfb_core.machine.launch import process_rank
from vpfb_core.model.runs import typed_model
from vpfb_core.uses.measuring.masks import statistics_in

if TYPE_CHECKING:
    from vpfb_core.model.trained import TrainedModel
    from vpfb_core.training import Plan, Progress, Result

PREFIX = "VPFB_TRAIN_"  # of the environment variables that are settings
LENGTH, METHOD, RUN = "Length and size", "Method", "Run"
# Defaults that --help shows; only options that are given count.
DATA_DEFAULTS, MACHINE_DEFAULTS, RUN_DEFAULTS = DataSettings(), MachineSettings(), RunSettings()


def _listed(value: str) -> list[str]:
    return [name.strip() for name in value.split(",")]


_LISTS: dict[str, Callable[[str], list[str]]] = {"columns": _listed, "match": statistics_in}
CHOICES: dict[str, tuple[Any, ...]] = {
    field.name: field.metadata["choices"] for section in SECTIONS.values() for field in fields(section)
} | {"method": tuple(names.METHODS), "objective": names.OBJECTIVES, "schedule": names.SCHEDULES}


def _choice(setting: str, usage: str, panel: str, help: str, **more: Any) -> Any:
    """An option whose help names the values that exist, in the place of {}."""
    return option(usage, panel, help.format(one_of(CHOICES[setting])), **more)


def train(
    ctx: typer.Context,
    *,
    data: Annotated[str | None, path_option("--data DATA", DATA, "A folder of images, an array, a table of numbers (.csv, .tsv, .parquet, .npy), or a name (vpfb data lists the names).")] = None,
    size: Annotated[int | None, option("--size PIXELS", DATA, "Side of the images.", show_default="that of the data, at most 32 on a CPU and 64 on a GPU")] = None,
    channels: Annotated[int | None, option("--channels 1|3", DATA, "1 for grey, 3 for colour.", show_default="found from the data")] = None,
    conditional: Annotated[bool, option("--conditional", DATA, "Train with classes: labels, names of sub-folders, or attributes.csv.")] = DATA_DEFAULTS.conditional,
    columns: Annotated[str | None, option("--columns a,b,c", DATA, "Columns of a table.", show_default="all that hold numbers")] = None,
    label: Annotated[str | None, option("--label COLUMN", DATA, "Column of a table with the classes, for --conditional.")] = None,
    augment: Annotated[str, _choice("augment", "--augment NAME", DATA, "Random mirroring of images: {}. auto mirrors images where it makes sense.")] = DATA_DEFAULTS.augment,
    val_fraction: Annotated[float, option("--val-fraction SHARE", DATA, "Share of the images that is kept for validation, between 0 and 1.")] = DATA_DEFAULTS.val_fraction,
    access: DataAccess,
    preset: Annotated[str | None, _choice("preset", "--preset NAME", LENGTH, "Size of the network and length of the run: {}.", show_default="chosen from the image size and the machine")] = None,
    steps: Annotated[int | None, option("--steps N", LENGTH, "Number of training steps; not together with --time-budget.", show_default="set by the preset")] = None,
    time_budget: Annotated[str | None, option("--time-budget TIME", LENGTH, "Length of the run, including calibration and saving: 90s, 10m, 1h30m.", show_default="none; on a CPU at most 15m, unless --steps is given")] = None,
    batch_size: Annotated[int | None, option("--batch-size N", LENGTH, "Number of images per step, over all processes.", show_default="set by the preset")] = None,
    lr: Annotated[float | None, option("--lr RATE", METHOD, "Learning rate.", show_default="set by the preset")] = None,
    method: Annotated[str, _choice("method", "--method NAME", METHOD, "Training method: {}.")] = names.DEFAULT_METHOD,
    objective: Annotated[str, _choice("objective", "--objective NAME", METHOD, "Training loss: {}.")] = names.OBJECTIVES[0],
    schedule: Annotated[str, _choice("schedule", "--schedule NAME", METHOD, "Noise schedule: {}.")] = names.SCHEDULES[0],
    match: Annotated[str | None, option("--match STAT,STAT", METHOD, "At the end, give samples the mean of these statistics in the data: brightness, contrast, edges, classes, ...")] = None,
    config: Annotated[Path | None, file_option("--config FILE.toml", METHOD, "Read settings from a file, such as the config.toml of a run.")] = None,
    assignments: Annotated[list[str] | None, option("--set KEY=VALUE", METHOD, "Set any setting of config.toml by its name. Can be repeated.")] = None,
    out: Annotated[str | None, path_option("--out DIR", RUN, "The run folder.", show_default="a new folder runs/NNN-data")] = None,
    resume: Annotated[str, path_option("--resume auto|never|DIR", RUN, "Continue the run in DIR, or with auto the newest unfinished run with the same settings; with never, begin a new run.")] = RUN_DEFAULTS.resume,
    init: Annotated[str | None, path_option("--init MODEL", RUN, "Start from the weights of this model; sizes and classes must fit.", show_default="random weights")] = None,
    save_every: Annotated[int | None, option("--save-every STEPS", RUN, "Number of steps between saves.", show_default="once per minute")] = None,
    sample_every: Annotated[int | None, option("--sample-every STEPS", RUN, "Number of steps between sample grids and validations.", show_default="ten times per run")] = None,
    log: Annotated[str, _choice("log", "--log NAME", RUN, "Format of the log: {}. tensorboard writes TensorBoard events beside the .csv file and needs the extra tensorboard.")] = RUN_DEFAULTS.log,
    keep: Annotated[int, option("--keep N", RUN, "Number of earlier saved states that are kept.")] = RUN_DEFAULTS.keep,
    on_nonfinite: Annotated[str, _choice("on_nonfinite", "--on-nonfinite NAME", RUN, "Action after a loss or gradient that is not finite: {}. rollback goes on from the last saved state with a lower learning rate.")] = RUN_DEFAULTS.on_nonfinite,
    dry_run: Annotated[bool, option("--dry-run", RUN, "Show the settings, the number of parameters and the memory, and exit.")] = False,
    machine: Machine,
    workers: Annotated[int | None, option("--workers N", MACHINE, "Number of threads that decode images.", show_default="chosen from the machine")] = None,
    precision: Annotated[str | None, _choice("precision", "--precision NAME", MACHINE, "Precision of the network in training: {}. Weights, samples and energies are always fp32.", show_default="bf16 if the device computes fast in it")] = None,
    compile: Annotated[str, _choice("compile", "--compile NAME", MACHINE, "Compile the training step: {}. auto compiles long runs.")] = MACHINE_DEFAULTS.compile,
    deterministic: Annotated[bool, option("--deterministic", MACHINE, "Make runs repeatable bit for bit on CUDA too, as they are on a CPU. This may be slower.")] = MACHINE_DEFAULTS.deterministic,
    say: Output,
) -> None:  # fmt: skip
    """Train a model on a folder of images, an array file, or a named data set.

    Options that are not given are chosen from the data and the machine, printed
    before the run begins, and saved in the run folder.

    Ctrl-C saves the run and stops; the same command with --resume auto continues.

    Settings are also read from the environment (VPFB_TRAIN_STEPS=1000) and from
    a file (--config). Options override the environment, which overrides the file.
    On the same machine a resumed run keeps its settings, the number of threads
    among them.

    Example:
      vpfb train --data ./imgs
      vpfb train --data digits --conditional --time-budget 3m
      vpfb train --resume runs/001-imgs --steps 40000
    """
    began = time.monotonic()
    with signals.importing():
        from vpfb_core import training
    settings = _settings(ctx, config, assignments or [])
    if settings.run.init is not None:
        note_namesake(say, settings.run.init)
    plan = training.prepare(settings)
    for note in plan.images.notes:
        say.note(f"data: {note}")
    for line in [*plan.notes, *_summary(plan), *plan.method.notes()]:
        say.note(line)
    if dry_run:
        _show_plan(say, plan)
        return
    with signals.graceful(say.note) as stop, progress(say, "training") as bar:
        result = training.run(
            plan, on_step=lambda now: bar.update(now.fraction, lambda: _fields(now, plan)), should_stop=stop,
            began=began,
        )  # fmt: skip
    for note in result.notes:
        say.note(f"data: {note}")
    for remark in result.remarks:
        say.note(remark)
    if result.status == "interrupted":
        raise signals.Interrupted(
            f"stopped at step {result.step}; saved in {result.run.path}",
            hint=f"continue with: vpfb train --resume {typed_model(result.run.path)}",
        )
    if result.status == "already finished":
        say.note(f"{result.run.path} is already finished, at step {result.step:,}")
    _show_result(say, plan, result)


# --- settings ---------------------------------------------------------------------------------------------------------


def _settings(ctx: typer.Context, config: Path | None, assignments: Sequence[str]) -> TrainConfig:
    """The settings by precedence: option, environment, file, default. The preset's come later, from the data."""
    options = _given_options(ctx)
    typed = dict(map(parse_setting, assignments)) | options
    if typed.get("steps") is not None and typed.get("time_budget") is not None:
        raise ConfigError("--steps and --time-budget exclude each other", hint="give one of them")
    settings = merge_levels([read_file(config) if config else {}, _environment(), typed])
    with naming_options({name: f"--{name.replace('_', '-')}" for name in options}):
        return TrainConfig(**settings)


def _given_options(ctx: typer.Context) -> dict[str, Any]:
    """The settings among the options that were typed."""
    known = known_names()
    return {
        name: _LISTS[name](value) if name in _LISTS else str(value) if isinstance(value, Path) else value
        for name, value in ctx.params.items()
        if name in known and (source := ctx.get_parameter_source(name)) is not None and source.name == "COMMANDLINE"
    }


def _environment() -> dict[str, Any]:
    """The settings in VPFB_TRAIN_..., and VPFB_DATA.

    Raises:
        ConfigError: a variable is misspelt.
    """
    known = {f"{PREFIX}{name.upper()}": name for name in known_names()}
    given = {name: value for name, value in os.environ.items() if value}
    for name in given.keys() - known.keys():
        _refuse_misspelt(name, [*known, "VPFB_DATA", "VPFB_DEBUG"])
    found = dict(parse_setting(f"{known[name]}={value}") for name, value in given.items() if name in known)
    if os.environ.get("VPFB_DATA"):
        found.setdefault("data_root", os.environ["VPFB_DATA"])
    return found


def _refuse_misspelt(name: str, known: Sequence[str]) -> None:
    """Refuse an environment variable that is meant for us, but that we do not know."""
    near = difflib.get_close_matches(name.upper(), known, 1, cutoff=0.85)
    setting = name.upper().replace("VPFB_", PREFIX, 1)  # VPFB_STEPS, without TRAIN; STEPS is some other program's
    if name not in known and (near or setting in known or name.startswith(PREFIX)):
        near = [setting] if setting in known else near or difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else "vpfb train --dry-run lists the settings"
        raise ConfigError(f"unknown environment variable {name}", hint=hint)


# --- words ------------------------------------------------------------------------------------------------------------


def _summary(plan: Plan) -> list[str]:
    """What was chosen: a line on the model, one on the run, and one on what it waits for."""
    config, processes = plan.config, process_rank().count
    classes = sum(len(group.classes) for group in plan.images.groups)
    batch = f"batch size {config.optimiser.batch_size}"
    if processes > 1:
        batch += f" shared by {processes} processes"
    if config.machine.micro_batch != -(-(config.optimiser.batch_size or 1) // processes):
        batch += f", {config.machine.micro_batch} at a time"
    lengths = [counted(config.optimiser.steps, "steps")] if config.optimiser.steps else []
    lengths += [duration(config.optimiser.time_budget)] if config.optimiser.time_budget else []
    length = f"{'at most ' if config.optimiser.time_budget else ''}{' or '.join(lengths)}"
    how = f"{config.machine.precision}{' compiled' if config.machine.compile == 'on' else ''}"
    machine = f"{config.machine.device} with {counted(config.machine.threads or 1, 'threads')}"
    memory = f"{byte_count(plan.memory_bytes)} for weights and optimiser"
    of_classes = f", {counted(classes, 'classes')}" if classes else ""
    return [
        f"preset {config.run.preset}: {plan.parameters:,} parameters{of_classes}",
        f"{length}, {batch}, {how} on {machine}, {memory}",
        *["the first step comes after compiling, which takes minutes"] * (config.machine.compile == "on"),
    ]


def _show_plan(say: Output, plan: Plan) -> None:
    config = plan.config.to_dict()
    rows = [(name, "" if value is None else value) for name, value in plan.config.flat().items()]
    rows += [("parameters", f"{plan.parameters:,}"), ("memory of weights and optimiser", byte_count(plan.memory_bytes))]
    document = {"config": config, "parameters": plan.parameters, "memory_bytes": plan.memory_bytes}
    say.result(document, output.table(["setting", "value"], rows))


def _fields(now: Progress, plan: Plan) -> Mapping[str, object]:
    """What the progress shows."""
    steps = (
        f"{now.step}/{plan.config.optimiser.steps}"
        if plan.config.optimiser.steps and not plan.config.optimiser.time_budget
        else str(now.step)
    )
    if now.calibrating:
        return {"step": steps, "now": "calibrating energies", "validation residual": now.val_residual}
    return {
        "step": steps,
        "loss": now.loss,
        "validation residual": now.val_residual,
        "gradient norm": now.grad_norm,
        "images/s": round(now.images_per_second),
        "memory": byte_count(now.memory_bytes),
    }


def _show_result(say: Output, plan: Plan, result: Result[TrainedModel]) -> None:
    document = {
        "command": "train", "run": result.run.path, "model": result.run.model,
        "steps": result.step, "images": result.images, "seconds": result.seconds,
        "images_per_second": result.images_per_second, "loss": result.loss, "val_residual": result.val_residual,
        "parameters": plan.parameters, "device": plan.config.machine.device,
    }  # fmt: skip
    steps = counted(result.step, "steps")
    say.note(f"{steps} in {duration(result.seconds)}, validation residual {result.val_residual:.4f}")
    say.note(f"pictures: samples in {result.run.samples}, training curves in {result.run.curves}")
    options = FORMATS[result.model.statistics.kind].next
    say.note(f"next: vpfb sample -m {typed_model(result.run.path)} {options}")
    say.result(document, str(result.run.path))
