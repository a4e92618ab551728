"""`vpfb score`."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from vpfb_cli import signals
from vpfb_cli.models import find, open_model, require_images, use_threads
from vpfb_cli.options import (
    MODEL,
    MODEL_HELP,
    OUTPUT,
    BatchSizeOption,
    DataAccess,
    Machine,
    file_option,
    naming_options,
    option,
    path_argument,
    path_option,
    share,
)
from vpfb_cli.output import Output
from vpfb_cli.outputs import require_file
from vpfb_cli.own_features import OwnFeatures
from vpfb_cli.progress import progress
from vpfb_cli.ranking_outputs import FlaggedFiles, write_and_relocate
from vpfb_cli.wording import one_of
from vpfb_core.errors import CheckpointError, ConfigError, NoStepError, counted
from vpfb_core.machine.file_names import printable, typed
from vpfb_core.machine.origin import Origin
from vpfb_core.names import SCORES

if TYPE_CHECKING:
    from vpfb_core.api import Model
    from vpfb_core.model.choice import Choice, Needs
    from vpfb_core.uses.ood.ranking import Ranking

IN_MONTAGE, IN_JSON, IN_NOTE = 64, 20, 5  # how many of the greatest outliers are shown


def score(
    source: Annotated[str, path_argument("DIR|FILE", "The data: a folder, a table, a file, or the name of a set.")],
    *,
    out: Annotated[
        str, path_option("-o --out OUT.csv", OUTPUT, "The table of scores; - writes to stdout.")
    ] = "scores.csv",
    montage: Annotated[
        Path | None,
        file_option(
            "--montage OUT.png",
            OUTPUT,
            f"The {IN_MONTAGE} greatest outliers, from the top left, as the model saw them.",
        ),
    ] = None,
    html: Annotated[
        Path | None,
        file_option("--html OUT.html", OUTPUT, "A page to look at: pictures, scores, and a list of those you choose."),
    ] = None,
    name: Annotated[str, option("--score NAME", "Score", f"{one_of(SCORES)}.")] = SCORES[0],
    flag: Annotated[
        float | None,
        option(
            "--flag RATE",
            "Score",
            "Expected share of ordinary images that are flagged (false positive rate).",
            callback=share,
            show_default="0.01",
        ),
    ] = None,
    density: Annotated[
        str | None,
        option(
            "--density explicit|ode",
            "Score",
            "Densities of slightly blurred data, or of the data as they are by the flow (slow).",
            show_default="explicit; ode for tables of up to 100,000 values",
        ),
    ] = None,
    flagged: FlaggedFiles,
    own: OwnFeatures,
    model: Annotated[
        str | None, path_option("--model -m MODEL", MODEL, MODEL_HELP, show_default="a model that fits the data")
    ] = None,
    train: Annotated[
        str | None,
        option("--train TIME", MODEL, "Train a model on the data first, for this time: 90s, 10m, 1h30m."),
    ] = None,
    access: DataAccess,
    batch_size: BatchSizeOption = 64,
    machine: Machine,
    say: Output,
) -> None:
    """Score every image of a folder or every row of a table, and find the outliers.

    Writes a table, the greatest outlier first: file, score (higher means more
    out-of-distribution), energy (nats, up to a constant), bits_per_dim.
    For rows: row (1 is the first one after the names), score, log_density (nats,
    in the units of the columns). Then: p_value (the share of training images that
    are at least as unusual), flagged, p-values by kind of evidence, and nearest
    (the three nearest training images or rows, counted from 0).

    Without a model that fits, images are compared with each other by their edges
    and details, which needs no training. A model that was trained on the data
    fits; if there is none, the newest run of images with as many channels does,
    or the newest run of a table.

    Images are cropped and resized (Lanczos) to the shape of the model. Columns
    of a table are found by their names, in any order.

    Example:
      vpfb score ./imgs -o scores.csv --montage outliers.png
      vpfb score ./imgs --html report.html
      vpfb score ./imgs --train 10m
      vpfb score ./imgs --move-to ./outliers --dry-run
      vpfb score ./imgs -m runs/001-imgs -o - | head
      vpfb score table.csv -m runs/002-table -o scores.csv
    """
    began = time.monotonic()
    if out == "-":
        say.require_free_stdout("-o -")
    else:
        require_file("-o", out, [".csv", ".txt", ""], {"score": Path(source)})
    if montage is not None:
        require_file("--montage", montage, [".png"], {"score": Path(source)})
    if html is not None:
        require_file("--html", html, [".html", ".htm"], {"score": Path(source)})
    if flag is not None and name != SCORES[0]:
        raise ConfigError(f"--flag {flag:g} is for the score {SCORES[0]}, and --score {name} flags none")
    flagged.require_usable(name)
    own.require_usable([name])
    with signals.importing():
        from vpfb_core import data
        from vpfb_core.machine.devices import resolve_device
        from vpfb_core.machine.files import write_bytes
        from vpfb_core.model import choice
        from vpfb_core.uses import pictures
        from vpfb_core.uses.density import METHODS
        from vpfb_core.uses.ood.ranking import FLAG, needs_of, rank, rank_without_model
        from vpfb_core.uses.ood.scores import find_score, require_ready
        from vpfb_core.uses.training_set import TrainingSet
    find_score(name)
    if density not in (None, *METHODS):
        raise ConfigError(f"unknown density {density!r}", hint=f"--density {one_of(METHODS)}")
    if train is not None and model is not None:
        raise ConfigError("--train and --model exclude each other", hint="give one of them")
    flag = FLAG if flag is None else flag
    needs = needs_of(name, density)
    if model is not None:
        chosen = choice.Choice(find(say, model))
    elif train is not None:
        chosen = _trained(say, source, train, needs, access, machine, began)
    else:
        chosen = choice.choose(source, needs, choice.of_the_kind_of(source, **access.settings))
    path = chosen.model
    if path is None:
        use_threads(machine)
        images = data.load(source, max_size=choice.PREVIEW, split="all", **access.settings)
        if len(images.shape) != 3 or name != SCORES[0] or density is not None:
            path = chosen.passed_over  # what it lacks is said when it is used
            if path is None:
                reason = chosen.note or f"no model fits {source!r}"
                raise CheckpointError(reason, hint=f"vpfb train --data {typed(source)}")
    if path == chosen.model and chosen.note is not None:
        say.note(chosen.note)
    if path is None:
        loaded, model_name, training = None, None, None
    else:
        loaded, model_name = open_model(say, str(path), machine)
        if model is None:
            say.note(f"model: {model_name}")
        require_ready(loaded, name)
        if montage is not None:
            require_images(loaded, "--montage")
        if html is not None:
            require_images(loaded, "--html")
        training = TrainingSet(loaded, **access.settings)
        own.add_to(loaded, training)
        images = data.load(source, **loaded.reading, split="all", **access.settings)
    flagged.require_files(images)
    for note in images.notes:
        say.note(note)
    if loaded is None:
        say.note(f"no model fits {source!r}: each image is compared with the others by its edges and details alone")
        say.note(f"to train a model as well: vpfb score {typed(source)} --train 10m")
        ranking = rank_without_model(images, flag=flag, seed=machine.seed, own=own.find(resolve_device(machine.device)))
    else:
        with progress(say, "scoring") as bar:
            ranking = rank(
                loaded, images, name, flag=flag, seed=machine.seed, batch_size=batch_size, density_method=density,
                on_batch=lambda n: bar.update(n / len(images)),
            )  # fmt: skip
        _say_what_densities_are(say, loaded, ranking)

    table, origin = ranking.table(), Origin.of(machine.seed, model_name)
    if out != "-":
        write_bytes(Path(out), table)
    if montage is not None:
        shown = images.data[[one.index for one in ranking.ranked[:IN_MONTAGE]]]
        write_bytes(montage, pictures.png(pictures.tile(shown.float() / 255), origin))
    relocated = write_and_relocate(say, html, flagged, ranking, images, training, model_name, machine.seed)
    greatest = ", ".join(printable(one.name) for one in ranking.ranked[:IN_NOTE])
    say.note(f"{counted(len(images), images.noun)}; seed {machine.seed}; greatest outliers: {greatest}")
    if name == SCORES[0]:
        expected = flag * len(images)
        say.note(
            f"{len(ranking.flagged):,} flagged; without any outlier, {expected:.2g} would be expected (--flag {flag:g})"
        )
    document = {
        "model": model_name, "output": out, "n": len(images), "flag": flag, "flagged": len(ranking.flagged),
        "seed": machine.seed, "worst": ranking.documents(IN_JSON), **relocated,
    }  # fmt: skip
    say.result(document, table if out == "-" else out)


def _trained(
    say: Output, source: str, budget: str, needs: Needs, access: DataAccess, machine: Machine, began: float
) -> Choice:
    """The model that is trained on the data until this time after the command began; none if the time is too short."""
    from vpfb_core import training
    from vpfb_core.config import TrainConfig, parse_setting
    from vpfb_core.model.choice import Choice, choice_of

    use_threads(machine)
    settings = {
        "data": source, "device": machine.device, "seed": machine.seed, "threads": machine.threads,
        "data_root": access.data_root and str(access.data_root), "download": access.download,
        **dict([parse_setting(f"time_budget={budget}")]),
    }  # fmt: skip
    with naming_options({"time_budget": "--train"}):
        config = TrainConfig(**settings)
    plan = training.prepare(config)
    too_short = f"--train {budget} is too short"
    try:
        with signals.graceful(say.note) as stop, progress(say, "training") as bar:
            result = training.run(plan, on_step=lambda now: bar.update(now.fraction), should_stop=stop, began=began)
    except NoStepError as error:
        return Choice(None, note=f"{too_short}: {error.message}")
    if result.status == "interrupted":
        raise signals.Interrupted(f"stopped at step {result.step}; saved in {result.run.path}")
    say.note(f"trained {result.run.path}: {counted(result.step, 'steps')}")
    found = choice_of(result.run.model, needs)
    return found if found.note is None else replace(found, note=f"{too_short}: {found.note}")


def _say_what_densities_are(say: Output, model: Model, ranking: Ranking) -> None:
    """Say what the last figure of a ranking describes, or why it is empty."""
    from vpfb_core import methods

    figure = ranking.columns[-1]
    if ranking.density is None and not methods.gives(model.method.name, "density"):
        say.note(f"{figure} is empty, since a model of the method {model.method.name} has no density")
    elif ranking.density is None:
        say.warn(f"the model's density is not calibrated, so {figure} is empty: vpfb info --calibrate MODEL")
    elif ranking.density == "explicit":
        say.note(f"{figure} describes {model.statistics.noun} blurred by {model.blur():.2g} {model.statistics.unit[1]}")
    if discrete := model.statistics.facts().get("discrete"):
        say.note(f"whole numbers are spread over their cells for log_density: {', '.join(discrete)}")
