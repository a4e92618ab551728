"""`vpfb ood`."""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vpfb_cli import output, signals
from vpfb_cli.models import open_model
from vpfb_cli.options import (
    PANEL_DATA,
    PANEL_OUTPUT,
    BatchSizeOption,
    DataRootOption,
    DeviceOption,
    DownloadOption,
    JsonOption,
    ModelOption,
    QuietOption,
    SeedOption,
    ThreadsOption,
    at_least_one,
)
from vpfb_cli.progress import progress
from vpfb_core.errors import DataError

if TYPE_CHECKING:
    from vpfb_core.data.images import ImageSet
    from vpfb_core.model.trained import Model
    from vpfb_core.uses.ood.report import Row, Scores, Sets

DEFAULT_LIMIT = 1_000


def ood(
    members: Annotated[
        str,
        typer.Option("--in", metavar="IN", help="What the model knows: NAME, DIR or FILE.", rich_help_panel=PANEL_DATA),
    ],
    strangers: Annotated[
        list[str],
        typer.Option(
            "--out", metavar="OUT", help="What it should call strange; repeatable.", rich_help_panel=PANEL_DATA
        ),
    ],
    score: Annotated[
        list[str] | None,
        typer.Option(
            "--score",
            metavar="NAME",
            show_default="multiscale",
            help="multiscale, energy, gradient, typicality, density, likelihood (slow); "
            "all: all but the slow one. Repeatable.",
            rich_help_panel="Scores",
        ),
    ] = None,
    limit: Annotated[
        int,
        typer.Option(
            "--limit", callback=at_least_one, metavar="N", help="Images a set, at most.", rich_help_panel=PANEL_DATA
        ),
    ] = DEFAULT_LIMIT,
    folder: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="DIR",
            show_default=False,
            help="Write scores.csv, report.json and a histogram of each pair there.",
            rich_help_panel=PANEL_OUTPUT,
        ),
    ] = None,
    model: ModelOption = None,
    data_root: DataRootOption = None,
    download: DownloadOption = True,
    batch_size: BatchSizeOption = 64,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    seed: SeedOption = 0,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Tell strangers from the images that a model knows, and say how well it works.

    In every score, higher means more out-of-distribution.

    FPR95: the share of OUT that passes where 95 % of IN pass.

    Images are cropped and resized (Lanczos) to the model's shape; where a set
    has a test split, that is taken. Without -m: the newest run trained on IN.

    Example:
      vpfb ood --in cifar --out svhn
      vpfb ood --in digits --out noise --out shuffled:digits --score all -o report/
    """
    say = output.start(json_mode=json, quiet=quiet)
    with signals.importing():
        from vpfb_core.machine import distributed
        from vpfb_core.uses.ood import choice, report
        from vpfb_core.uses.ood.scores import ALL, find_scores, is_ready, require_ready
    names = find_scores(score or [])
    if folder is not None and folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file, not a folder", hint="name a folder with -o")
    for name in strangers:
        choice.check_different(members, name)
    loaded, model_name = _open(say, model, members, device, threads)
    if ALL in (score or []):
        for name in [name for name in names if not is_ready(loaded, name)]:
            names.remove(name)
            say.warn(f"left out: {name}, which needs a calibrated model (vpfb info --calibrate MODEL)")
    for name in names:
        require_ready(loaded, name)  # before anything is loaded or downloaded
    settings: dict[str, Any] = {"root": Path(data_root) if data_root else None, "download": download}

    def load_sets() -> dict[tuple[str, str], ImageSet]:
        sets = {(members, "in"): choice.load_members(loaded, members, limit, **settings)}
        return sets | {(name, "out"): choice.load_strangers(loaded, name, limit, **settings) for name in strangers}

    group = distributed.group()
    sets = group.leaders_first(load_sets)
    for (name, _), images in sets.items():
        for note in images.notes:
            say.note(f"{name}: {note}")
    with progress(say, "scoring") as bar:
        scores = report.score_sets(loaded, sets, names, seed=seed, batch_size=batch_size, on_progress=bar.update)
    if not group.first:
        return
    rows = report.compare_all(scores)
    document = {"in": members, "model": model_name, "results": [row.document() for row in rows]}
    if folder is not None:
        _write(
            folder, members, sets, scores, rows, document | {"seed": seed, "limit": limit, "scores": _summaries(names)}
        )
        say.note(f"written: {folder}")
    say.note("higher scores mean more out-of-distribution; the interval of the AUROC is at 95 %")
    say.result(document, _table(rows))


def _open(say: output.Output, model: str | None, members: str, device: str, threads: int | None) -> tuple[Model, str]:
    """The model that is meant; a warning where it was trained on something else."""
    from vpfb_core.uses.ood import choice

    if model is None:
        chosen = choice.choose_model(members)
        opened = open_model(say, str(chosen.path), device, threads)
        say.note(f"model: {opened[1]}")
    else:
        opened = open_model(say, model, device, threads)
    trained_on = str(opened[0].about.get("data", {}).get("name"))
    if not choice.same_set(trained_on, members):
        say.warn(f"{opened[1]} was trained on {trained_on!r}, not on {members!r}: its scores know nothing of that")
    return opened


def _summaries(names: list[str]) -> dict[str, str]:
    from vpfb_core.uses.ood import SCORES

    return {name: f"{SCORES[name].summary}; higher means more out-of-distribution" for name in names}


def _write(folder: Path, members: str, sets: Sets, scores: Scores, rows: list[Row], document: dict[str, Any]) -> None:
    from vpfb_core.machine.files import write_bytes
    from vpfb_core.uses import plots
    from vpfb_core.uses.ood import report

    write_bytes(folder / "scores.csv", report.scores_table(sets, scores))
    text = json_format.dumps(output.jsonable(document), indent=1, allow_nan=False)
    write_bytes(folder / "report.json", f"{text}\n".encode())
    numbers = {name: number for number, name in enumerate(dict.fromkeys(row.out for row in rows), start=1)}
    taken = [_file_name(name) for name in numbers]
    for row in rows:
        inside, outside = scores[members, "in"][row.score], scores[row.out, "out"][row.score]
        labels = _label(members), _label(row.out)
        title = f"{labels[0]} against {labels[1]}: AUROC {row.detection.auroc:.4f}"
        picture = plots.histogram(inside, outside, names=labels, axis=row.score, title=title)
        name = _file_name(row.out)
        if taken.count(name) > 1:  # a/b and a-b
            name = f"{name}-{numbers[row.out]}"
        write_bytes(folder / f"{name}-{row.score}.png", picture)


def _label(source: str) -> str:
    """A source as a plot names it: of a path only the end."""
    kind, colon, path = source.rpartition(":") if source.startswith("shuffled:") else ("", "", source)
    return f"{kind}{colon}{Path(path).name or path}"


def _file_name(source: str) -> str:
    """A source as part of a file's name: shuffled:mnist → shuffled-mnist."""
    return "".join(sign if sign.isalnum() or sign in "._" else "-" for sign in source).strip("-.") or "out"


def _table(rows: list[Row]) -> Any:
    columns = ["out", "score", "AUROC", "95 % interval", "AUPR in", "AUPR out", "FPR95", "n in", "n out"]
    cells = []
    for row in rows:
        found = row.detection
        low, high = found.auroc_ci
        cells.append(
            (row.out, row.score, f"{found.auroc:.4f}", f"{low:.4f}–{high:.4f}", f"{found.aupr_in:.4f}",
             f"{found.aupr_out:.4f}", f"{found.fpr95:.4f}", found.n_in, found.n_out)
        )  # fmt: skip
    return output.table(columns, cells)
