"""`vpfb ood`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from vpfb_cli import output, signals
from vpfb_cli.models import open_model, require_images
from vpfb_cli.options import (
    DATA,
    MODEL,
    MODEL_HELP,
    OUTPUT,
    BatchSizeOption,
    DataAccess,
    Machine,
    at_least_one,
    file_option,
    option,
    path_option,
)
from vpfb_cli.output import Output
from vpfb_cli.own_features import OwnFeatures
from vpfb_cli.progress import progress
from vpfb_cli.wording import one_of
from vpfb_core.errors import CheckpointError, ConfigError, VPFBError
from vpfb_core.machine.file_names import typed
from vpfb_core.machine.origin import Origin
from vpfb_core.names import SCORES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from vpfb_core.api import Model
    from vpfb_core.data.in_memory import InMemory
    from vpfb_core.uses.ood.comparison import Row


def ood(
    *,
    in_set: Annotated[
        str, path_option("--in IN", DATA, "In-distribution data: a named data set, a folder, a table or a file.")
    ],
    out_sets: Annotated[list[str], path_option("--out OUT", DATA, "Out-of-distribution data. Can be repeated.")],
    limit: Annotated[
        int, option("--limit N", DATA, "Largest number of images or rows per set.", callback=at_least_one)
    ] = 1_000,
    access: DataAccess,
    scores: Annotated[
        list[str] | None,
        option(
            "--score NAME",
            "Scores",
            f"{one_of(SCORES)}. all selects all but the slow ones. Can be repeated.",
            show_default=SCORES[0],
        ),
    ] = None,
    own: OwnFeatures,
    controls: Annotated[
        bool,
        option(
            "--controls",
            "Scores",
            "Also measure altered copies of IN: turned, mirrored, with a hole, blended, blurred, with noise.",
        ),
    ] = False,
    model: Annotated[
        str | None,
        path_option("--model -m MODEL", MODEL, MODEL_HELP, show_default="a model trained on IN, else the newest run"),
    ] = None,
    batch_size: BatchSizeOption = 64,
    machine: Machine,
    folder: Annotated[
        Path | None,
        file_option(
            "-o --output DIR", OUTPUT, "Folder for scores.csv, report.json and one histogram per OUT and score."
        ),
    ] = None,
    say: Output,
) -> None:
    """Measure how well a model detects out-of-distribution images.

    In every score, higher means more out-of-distribution.

    FPR95 is the false positive rate at the threshold that accepts 95 % of IN.

    Images are cropped and resized (Lanczos) to the shape of the model. If a set
    has a test split, that split is used.

    Example:
      vpfb ood --in cifar --out svhn
      vpfb ood --in digits --out noise --controls
      vpfb ood --in digits --out noise --out shuffled:digits --score all -o report/
    """
    with signals.importing():
        from vpfb_core.machine import distributed
        from vpfb_core.machine.files import require_output_folder
        from vpfb_core.uses.ood import comparison, sources
        from vpfb_core.uses.ood.altered import CONTROLS
        from vpfb_core.uses.ood.scores import find_scores
        from vpfb_core.uses.training_set import TrainingSet
    names = find_scores(scores or [])
    own.require_usable(names)
    if folder is not None:
        require_output_folder(folder)
    for out_set in out_sets:
        sources.check_different(in_set, out_set)
    loaded, model_name = _open(say, model, in_set, scores or names, machine)
    names = _ready(say, loaded, names, scores or [])
    own.add_to(loaded, TrainingSet(loaded, **access.settings))
    if controls:
        require_images(loaded, "--controls")
    altered = {f"{name}:{in_set}": change for name, change in CONTROLS.items()} if controls else {}
    if folder is not None:
        comparison.older_report(folder, [*out_sets, *altered], names)

    def load_sets() -> dict[tuple[str, str], InMemory]:
        sets = {(in_set, "in"): sources.load_in_distribution(loaded, in_set, limit, **access.settings)}
        for name in out_sets:
            sets[name, "out"] = sources.load_out_of_distribution(loaded, name, limit, **access.settings)
        inside = sets[in_set, "in"]
        for name, change in altered.items():
            sets[name, "out"] = replace(inside, data=change(inside.images), notes=(), files=None)
        return sets

    group = distributed.group()
    sets = group.leaders_first(load_sets)
    for (name, _), images in sets.items():
        for note in images.notes:
            say.note(f"{name}: {note}")
    with progress(say, "scoring") as bar:
        found = comparison.score_sets(
            loaded, sets, names, seed=machine.seed, batch_size=batch_size, on_progress=bar.update
        )
    if not group.first:
        return
    rows = comparison.compare_all(found)
    results = [row.document() for row in rows]
    document = {"in": in_set, "model": model_name, "results": results, "seed": machine.seed}
    if folder is not None:
        origin = Origin.of(machine.seed, model_name)
        described = output.jsonable({**document, "limit": limit})
        comparison.write_report(folder, described, sets, found, rows, origin)
        say.note(f"report: {folder}")
    say.note("a higher score means more out-of-distribution; the interval is that of the AUROC")
    say.result(document, _table(rows))


def _open(say: Output, model: str | None, in_set: str, scores: Sequence[str], machine: Machine) -> tuple[Model, str]:
    """The model that was named, or else the one that suits the data, with a warning if it was trained on other data."""
    from vpfb_core.data.catalogue import same_set

    loaded, name = open_model(say, model or _chosen(say, in_set, scores), machine)
    if model is None:
        say.note(f"model: {name}")
    trained_on = str(loaded.about.get("data", {}).get("name"))
    if not same_set(trained_on, in_set):
        say.warn(f"{name} was trained on {trained_on!r}, not on {in_set!r}, so its scores do not describe {in_set!r}")
    return loaded, name


def _chosen(say: Output, in_set: str, scores: Sequence[str]) -> str:
    """The model that suits the data and has what the scores need; else one that lacks it, as is said when it is used.

    Raises:
        CheckpointError: there is no run and no built-in model of these data.
    """
    from vpfb_core.data.catalogue import split_off
    from vpfb_core.model.choice import choose
    from vpfb_core.uses.ood.scores import needs_of

    chosen = choose(in_set, needs_of(scores))
    if chosen.model is not None and chosen.note is not None:
        say.note(chosen.note)
    if (found := chosen.model or chosen.passed_over) is None:
        raise CheckpointError(
            f"no model has been trained on {in_set!r}, and there are no other runs under ./runs",
            hint=f"vpfb train --data {typed(split_off(in_set)[0])}",
        )
    return str(found)


def _ready(say: Output, model: Model, names: Sequence[str], asked: Sequence[str]) -> list[str]:
    """The scores that the model has what they need for; "all" leaves out the others, a name alone is an error."""
    from vpfb_core.uses.ood.scores import ALL, require_ready

    lacking: dict[str, VPFBError] = {}
    for name in names:
        try:
            require_ready(model, name)
        except VPFBError as error:
            lacking[name] = error
    if lacking and (ALL not in asked or len(lacking) == len(names)):
        raise next(iter(lacking.values()))
    for kind, reason in (
        (CheckpointError, "not calibrated: vpfb info --calibrate MODEL"),
        (ConfigError, f"not possible with --method {model.method.name}"),
    ):
        if those := [name for name, error in lacking.items() if isinstance(error, kind)]:
            say.warn(f"left out: {', '.join(those)} ({reason})")
    return [name for name in names if name not in lacking]


def _table(rows: Sequence[Row]) -> RenderableType:
    columns = ["out", "score", "AUROC", "95 %\ninterval", "AUPR\nin", "AUPR\nout", "FPR95", "n\nin", "n\nout"]
    cells = []
    for row in rows:
        found = row.detection
        interval = "-".join(f"{end:.3f}" for end in found.auroc_ci)
        figures = (f"{value:.3f}" for value in (found.aupr_in, found.aupr_out, found.fpr95))
        cells.append((row.out, row.score, f"{found.auroc:.3f}", interval, *figures, found.n_in, found.n_out))
    return output.table(columns, cells)
