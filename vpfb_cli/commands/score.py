"""`vpfb score`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from vpfb_cli import signals
from vpfb_cli.models import open_model
from vpfb_cli.options import (
    OUTPUT,
    BatchSizeOption,
    DataAccess,
    Machine,
    ModelOption,
    file_option,
    option,
    path_argument,
    path_option,
)
from vpfb_cli.output import Output
from vpfb_cli.outputs import require_file
from vpfb_cli.progress import progress
from vpfb_cli.wording import one_of
from vpfb_core.machine.file_names import printable
from vpfb_core.names import SCORES

IN_MONTAGE, IN_JSON, IN_NOTE = 64, 20, 5  # how many of the greatest outliers are shown


def score(
    source: Annotated[str, path_argument("DIR|FILE", "The images: a folder, a file, or the name of a data set.")],
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
    name: Annotated[str, option("--score NAME", "Score", f"{one_of(SCORES)}.")] = SCORES[0],
    model: ModelOption = None,
    access: DataAccess,
    batch_size: BatchSizeOption = 64,
    machine: Machine,
    say: Output,
) -> None:
    """Score every image of a folder and find the outliers.

    Writes a table, the greatest outlier first: file, score (higher means more
    out-of-distribution), energy (nats, up to a constant), bits per dimension.

    Images are cropped and resized (Lanczos) to the shape of the model.

    Example:
      vpfb score ./imgs -o scores.csv --montage outliers.png
      vpfb score ./imgs -m runs/001-imgs -o - | head
    """
    if out == "-":
        say.require_free_stdout("-o -")
    else:
        require_file("-o", out, [".csv", ".txt", ""], {"score": Path(source)})
    if montage is not None:
        require_file("--montage", montage, [".png"], {"score": Path(source)})
    with signals.importing():
        from vpfb_core import data, methods
        from vpfb_core.machine.files import write_bytes
        from vpfb_core.uses import pictures
        from vpfb_core.uses.ood.ranking import rank, ranking_table
        from vpfb_core.uses.ood.scores import find_score, require_ready
    find_score(name)
    loaded, model_name = open_model(say, model, machine)
    require_ready(loaded, name)
    channels, size, _ = loaded.shape
    images = data.load(source, size=size, channels=channels, split="all", **access.settings)
    for note in images.notes:
        say.note(note)
    with progress(say, "scoring") as bar:
        ranking = rank(
            loaded, images, name, seed=machine.seed, batch_size=batch_size,
            on_batch=lambda n: bar.update(n / len(images)),
        )  # fmt: skip
    if not methods.gives(loaded.method.name, "density"):
        say.note(f"bits_per_dim is empty, since a model trained with --method {loaded.method.name} has no density")
    elif loaded.calibration is None:
        say.warn("the model's density is not calibrated, so bits_per_dim is empty: vpfb info --calibrate MODEL")
    else:
        say.note(f"bits_per_dim describes images blurred by {loaded.blur():.2g} grey levels")

    table = ranking_table(ranking)
    if out != "-":
        write_bytes(Path(out), table)
    if montage is not None:
        shown = images.images[[one.index for one in ranking[:IN_MONTAGE]]]
        write_bytes(montage, pictures.png(pictures.tile(shown.float() / 255)))
    greatest = ", ".join(printable(one.file) for one in ranking[:IN_NOTE])
    say.note(f"{len(ranking):,} images; greatest outliers: {greatest}")
    listed = [asdict(one) for one in ranking[:IN_JSON]]
    for entry in listed:
        del entry["index"]
    document = {"model": model_name, "output": out, "n": len(ranking), "worst": listed}
    say.result(document, table.decode("utf-8", "surrogateescape").rstrip("\n") if out == "-" else out)
