"""`vpfb data`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from vpfb_cli import output, signals
from vpfb_cli.models import use_threads
from vpfb_cli.options import DATA, OUTPUT, DataAccess, Machine, at_least_one, file_option, option, path_argument
from vpfb_cli.output import Output
from vpfb_cli.outputs import require_file
from vpfb_core.errors import ConfigError, DataError
from vpfb_core.machine.file_names import typed
from vpfb_core.machine.origin import Origin

if TYPE_CHECKING:
    from vpfb_core.data import LoadOptions, Source

IN_GRID = 64  # images, unless -n is given


def data(
    name: Annotated[
        str | None, path_argument("NAME", "A name, NAME:test, a folder, a table, or a file.", show_default=False)
    ] = None,
    *,
    size: Annotated[
        int | None,
        option(
            "--size PIXELS",
            DATA,
            "Side of the images.",
            show_default="that of the data, at most 32 on a CPU and 64 on a GPU, as for vpfb train",
        ),
    ] = None,
    channels: Annotated[
        int | None, option("--channels 1|3", DATA, "1 for grey, 3 for colour.", show_default="found from the data")
    ] = None,
    access: DataAccess,
    grid: Annotated[Path | None, file_option("--grid OUT.png", OUTPUT, "Write a grid of some of the images.")] = None,
    n: Annotated[
        int | None,
        option("-n N", OUTPUT, "Number of images in the grid.", callback=at_least_one, show_default=str(IN_GRID)),
    ] = None,
    machine: Machine,
    say: Output,
) -> None:
    """List the named data sets, or describe one data set.

    NAME can be anything that vpfb train takes as --data.

    Example:
      vpfb data
      vpfb data mnist:test --grid mnist.png
    """
    if name is None and grid is not None:
        raise ConfigError("--grid shows one data set, and none is named", hint=f"vpfb data mnist --grid {typed(grid)}")
    of_one_set = {"--size": size, "--channels": channels}
    if name is None and (idle := [option for option, value in of_one_set.items() if value is not None]):
        raise ConfigError(f"no data set is named, so {' and '.join(idle)} would have no effect", hint="vpfb data NAME")
    if n is not None and grid is None:
        raise ConfigError(f"-n {n} is the number of images in a grid, and none is written", hint="add --grid OUT.png")
    if grid is not None:
        require_file("--grid", grid, [".png"], {"data": Path(name or "")})
    with signals.importing():
        from vpfb_core.data import LoadOptions
        from vpfb_core.machine.devices import resolve_device
        from vpfb_core.training import presets

    if name is None:
        _list(say, access.data_root)
    else:
        use_threads(machine)
        max_size = presets.MAX_SIZE[resolve_device(machine.device).type]
        options = LoadOptions(size=size, max_size=max_size, channels=channels, stream=True, **access.settings)
        _show(say, name, options, grid, n or IN_GRID, machine.seed)


def _list(say: Output, root: Path | None) -> None:
    from vpfb_core.data import SETS
    from vpfb_core.data.download import data_root

    folder = data_root(root)
    entries, rows = [], []
    for name, known in SETS.items():
        here, path, where = True, None, "built in"
        if known.files is not None:
            here, path = known.files.present(folder, "train"), known.files.folder(folder)
            where = str(path.relative_to(folder)) if here else f"absent ({known.files.size})"
        entries.append(_entry(name, here, path, known.images, known.shape, known.classes))
        images = "" if known.images is None else f"{known.images:,}"
        classes = "" if known.classes is None else len(known.classes)
        rows.append((name, images, _times(known.shape), classes, where, known.summary))
    say.note(
        "also: NAME:train, NAME:test, shuffled:NAME (pixels in random order), folders,\n"
        "images, .npz and .npy files, and tables (.csv, .tsv, .parquet, .npy)"
    )
    say.note(f"data root: {folder}; absent data sets are downloaded when they are first used")
    say.result({"sets": entries}, output.table(["name", "data", "shape", "classes", "where", "summary"], rows))


def _show(say: Output, name: str, options: LoadOptions, grid: Path | None, n: int, seed: int) -> None:
    images = _with_classes(name, options)
    for note in images.notes:
        say.note(f"data: {note}")
    if grid is not None:
        _write_grid(grid, images, n, seed)
    path, classes = _folder(name, options), [label for group in images.groups for label in group.classes]
    document: dict[str, Any] = {
        "sets": [_entry(name, True, path, len(images), images.shape, classes)],
        "grid": grid,
        "notes": [output.in_options(note) for note in images.notes],
        "skipped": [{"file": file, "reason": reason} for file, reason in images.skipped],
    }
    if grid is not None:
        document["seed"] = seed
    rows = [
        ("name", name),
        ("path", path or "none"),
        (images.noun, f"{len(images):,}"),
        ("shape", _times(images.shape)),
        ("classes", ", ".join(classes) or "none"),
        *(("skipped", f"{file}: {reason}") for file, reason in images.skipped),
    ]
    say.result(document, output.table(["", ""], rows) if grid is None else str(grid))


def _folder(name: str, options: LoadOptions) -> Path | None:
    """Where a data set is; None if it is in the package."""
    from vpfb_core.data import SETS, canonical
    from vpfb_core.data.catalogue import SHUFFLED, split_off
    from vpfb_core.data.download import data_root

    known = SETS.get(canonical(name))
    if known is not None:
        return None if known.files is None else known.files.folder(data_root(options.root))
    return None if name.startswith(SHUFFLED) else Path(split_off(name)[0])


def _with_classes(name: str, options: LoadOptions) -> Source:
    """The set with its classes or attributes, if it has any."""
    from dataclasses import replace

    from vpfb_core.data import SETS, canonical, find

    known = SETS.get(canonical(name))
    if known is not None:
        return find(name, replace(options, conditional=known.classes != ()))
    try:
        return find(name, replace(options, conditional=True))
    except DataError as error:  # it has no classes, or it cannot be read, which the next line then says
        images = find(name, options)
        return replace(images, notes=(*images.notes, f"no classes: {error.message}"))


def _write_grid(grid: Path, images: Source, n: int, seed: int) -> None:
    """The first n images of a random order that the seed fixes, because many sets are sorted by class."""
    import torch

    from vpfb_core.machine import noise
    from vpfb_core.machine.files import write_bytes
    from vpfb_core.uses import pictures

    if images.noun != "images":
        raise ConfigError(f"--grid is for images, and '{images.name}' holds {images.noun} of a table")
    pictures.require_grid(min(n, len(images)), images.shape)
    order = torch.randperm(len(images), generator=noise.generator(seed, "grid", len(images)))
    shown = images.subset(order[:n]).images
    write_bytes(grid, pictures.png(pictures.tile(shown / 255), Origin.of(seed)))


def _entry(name: str, available: bool, path: Path | None, images: Any, shape: Any, classes: Any) -> dict[str, Any]:
    return {
        "name": name, "available": available, "path": path, "images": images, "shape": shape, "classes": classes,
    }  # fmt: skip


def _times(shape: tuple[int, ...] | None) -> str:
    return "any" if shape is None else "x".join(map(str, shape))
