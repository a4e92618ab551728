"""`vpfb encode`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from vpfb_cli import signals
from vpfb_cli.flow_options import Flow
from vpfb_cli.models import open_model, require_images, use_threads
from vpfb_cli.options import (
    OUTPUT,
    BatchSizeOption,
    DataAccess,
    Machine,
    ModelOption,
    at_least_one,
    file_option,
    option,
    path_argument,
    path_option,
)
from vpfb_cli.output import Output
from vpfb_cli.outputs import require_file
from vpfb_cli.own_features import OwnFeatures
from vpfb_cli.progress import progress
from vpfb_core.errors import ConfigError, counted
from vpfb_core.machine.origin import Origin

if TYPE_CHECKING:
    from torch import Tensor

GROUPS = "Clusters"


def encode(
    source: Annotated[str, path_argument("DIR|FILE", "The data: a folder, a table, a file, or the name of a set.")],
    *,
    out: Annotated[
        str, path_option("-o --out OUT.csv", OUTPUT, "The table of codes; - writes to stdout.")
    ] = "codes.csv",
    clusters: Annotated[
        int | None,
        option("--clusters K", GROUPS, "Divide the codes into K clusters by k-means.", callback=at_least_one),
    ] = None,
    montage: Annotated[
        Path | None,
        file_option(
            "--montage OUT.png",
            GROUPS,
            "A picture with one row of images per cluster, the nearest to its centre first.",
        ),
    ] = None,
    own: OwnFeatures,
    model: ModelOption = None,
    flow: Flow,
    access: DataAccess,
    batch_size: BatchSizeOption = 256,
    machine: Machine,
    say: Output,
) -> None:
    """Write the code of every image of a folder, or of every row of a table.

    Writes a table in the order of the data: file (for tables row), code_0,
    code_1, ..., and cluster with --clusters. Cluster 0 is the largest. With
    the method latent, a code is a few numbers, which describe an image and group
    similar ones. The code of a flow is the noise from which the image comes, and
    has as many numbers as the image. By default it takes 32 evaluations (arc3);
    it is more accurate with --rtol 1e-5.

    With --features, the codes of images are the features of a frozen network, and
    no model is used. vpfb train --data codes.csv learns their density.

    Images are cropped and resized (Lanczos) to the shape of the model.

    Example:
      vpfb encode ./imgs -m runs/001-imgs -o codes.csv
      vpfb encode ./imgs -m runs/001-imgs --clusters 10 --montage groups.png
      vpfb encode ./imgs --features network.pt2 -o codes.csv
    """
    if out == "-":
        say.require_free_stdout("-o -")
    else:
        require_file("-o", out, [".csv", ".txt", ""], {"encode": Path(source)})
    if montage is not None:
        if clusters is None:
            raise ConfigError("--montage needs --clusters K: it shows one row of images per cluster")
        require_file("--montage", montage, [".png"], {"encode": Path(source)})
    own.require_usable()
    if own.features is not None and (model is not None or flow.given):
        given = "--model" if model is not None else next(iter(flow.given))
        raise ConfigError(f"--features and {given} exclude each other: the features need no model")
    with signals.importing():
        from vpfb_core import data
        from vpfb_core.data.image_statistics import ImageStatistics
        from vpfb_core.machine.devices import resolve_device
        from vpfb_core.machine.files import replacing, write_bytes
        from vpfb_core.model import choice
        from vpfb_core.uses import codes, pictures
    flow.choose()  # refuses a wrong solver before the model is loaded
    compute: Callable[[Tensor], Tensor]
    reading: dict[str, Any]
    if (features := own.find(resolve_device(machine.device))) is not None:
        use_threads(machine)
        model_name, kind, reading, compute = None, ImageStatistics.kind, {"max_size": choice.PREVIEW}, features
    else:
        loaded, model_name = open_model(say, model, machine)
        kind, reading = loaded.statistics.kind, loaded.reading
        compute = codes.by_model(loaded, batch_size=batch_size, **flow.arguments)
        if montage is not None:
            require_images(loaded, "--montage")
    found = data.find(source, data.LoadOptions(**reading, split="all", stream=True, **access.settings))
    if own.features is not None and len(found.shape) != 3:
        raise ConfigError(f"--features is for images, and '{found.name}' is a table")
    if montage is not None:
        codes.require_montage(clusters or 1, found.shape)
    for note in found.notes:
        say.note(note)
    if clusters is not None and clusters > len(found):
        raise ConfigError(f"--clusters {clusters} is too many for {counted(len(found), found.noun)}")

    text: list[bytes] = []
    count, dimension = 0, 0
    with progress(say, "encoding") as bar:
        parts = codes.encoded(compute, found, batch_size=batch_size, on_batch=lambda n: bar.update(n / len(found)))
        groups = None
        if clusters is not None:
            everything = codes.Codes.join(list(parts))
            groups, parts = codes.cluster(everything.values, clusters, machine.seed), iter([everything])
        with contextlib.nullcontext() if out == "-" else replacing(Path(out)) as file:
            write = text.append if file is None else file.write
            for part in parts:
                if not count:
                    dimension = part.values.shape[1]
                    write(codes.header(kind, dimension, clustered=groups is not None))
                write(codes.table_rows(part, groups))
                count += len(part.names)
    if montage is not None and groups is not None:
        origin = Origin.of(machine.seed, model_name)
        write_bytes(montage, pictures.png(codes.montage(found, everything, groups), origin))
    if groups is not None:
        sizes = ", ".join(f"{size:,}" for size in groups.labels.bincount().tolist())
        say.note(f"sizes of the clusters: {sizes}")
    say.note(f"{counted(count, found.noun)}, {counted(dimension, 'numbers')} per code, seed {machine.seed}")
    document = {
        "model": model_name, "output": out, "n": count, "dimension": dimension, "clusters": clusters,
        "seed": machine.seed,
    }  # fmt: skip
    say.result(document, b"".join(text) if out == "-" else out)
