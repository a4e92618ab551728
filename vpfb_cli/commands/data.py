"""`vpfb data`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vpfb_cli import output, signals
from vpfb_cli.options import (
    PANEL_DATA,
    PANEL_OUTPUT,
    DataRootOption,
    DownloadOption,
    JsonOption,
    QuietOption,
    at_least_one,
)
from vpfb_core.errors import ConfigError, DataError

if TYPE_CHECKING:
    from vpfb_core.data import LoadOptions, Source


def data(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="A name, NAME:test, a folder, or a file.", show_default=False),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            "--size", metavar="PIXELS", show_default="its own", help="Side of the images.", rich_help_panel=PANEL_DATA
        ),
    ] = None,
    channels: Annotated[
        int | None,
        typer.Option(
            "--channels", metavar="1|3", show_default="its own", help="Grey or colour.", rich_help_panel=PANEL_DATA
        ),
    ] = None,
    data_root: DataRootOption = None,
    download: DownloadOption = True,
    grid: Annotated[
        Path | None,
        typer.Option(
            "--grid", metavar="OUT.png", show_default=False, help="Show some images.", rich_help_panel=PANEL_OUTPUT
        ),
    ] = None,
    n: Annotated[
        int,
        typer.Option(
            "-n", callback=at_least_one, metavar="N", help="Images in the grid.", rich_help_panel=PANEL_OUTPUT
        ),
    ] = 64,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """List the data sets that have a name, or show one: any data that train takes.

    Example:
      vpfb data
      vpfb data mnist:test --grid mnist.png
    """
    say = output.start(json_mode=json, quiet=quiet)
    if name is None and grid is not None:
        raise ConfigError("--grid shows one data set, and none is named", hint=f"vpfb data mnist --grid {grid}")
    if grid is not None and grid.suffix.lower() != ".png":
        raise ConfigError(f"cannot write '{grid}': the grid is a .png file")
    with signals.importing():
        from vpfb_core.data import LoadOptions

    root = Path(data_root) if data_root else None
    if name is None:
        _list(say, root)
    else:
        options = LoadOptions(size, None, channels, root=root, download=download, stream=True)
        _show(say, name, options, grid, n)


def _list(say: output.Output, root: Path | None) -> None:
    from vpfb_core.data import SETS
    from vpfb_core.data.download import data_root

    folder = data_root(root)
    entries, rows = [], []
    for name, known in SETS.items():
        here, path, where = True, None, "in the package"
        if known.files is not None:
            here, path = known.files.present(folder, "train"), known.files.folder(folder)
            where = str(path.relative_to(folder)) if here else f"not here ({known.files.size})"
        entries.append(_entry(name, here, path, known.images, known.shape, known.classes))
        count, shape = f"{known.images:,}" if known.images else "", _times(known.shape)
        rows.append((name, count, shape, _count(known.classes), where, known.summary))
    say.note("also NAME:train, NAME:test, shuffled:NAME (its pixels in random order), folders, images, .npz and .npy")
    say.note(f"data root: {folder}; what is not here is downloaded to it when first used")
    say.result({"sets": entries}, output.table(["name", "images", "shape", "classes", "where", "what"], rows))


def _show(say: output.Output, name: str, options: LoadOptions, grid: Path | None, n: int) -> None:
    from vpfb_core.data import SETS, canonical
    from vpfb_core.data.catalogue import SHUFFLED, split_off
    from vpfb_core.data.download import data_root

    images = _with_classes(name, options)
    classes = [label for group in images.groups for label in group.classes]
    known = SETS.get(canonical(name))
    path = None if known or name.startswith(SHUFFLED) else Path(split_off(name)[0])
    if known and known.files:
        path = known.files.folder(data_root(options.root))
    document: dict[str, Any] = {"sets": [_entry(name, True, path, len(images), images.shape, classes)]}
    if grid is not None:
        _write_grid(grid, images, n)
    skipped = [{"file": file, "reason": reason} for file, reason in images.skipped]
    document |= {"grid": grid, "notes": images.notes, "skipped": skipped}
    for note in images.notes:
        say.note(f"data: {note}")
    rows = [
        ("name", name),
        ("path", path or "none"),
        ("images", f"{len(images):,}"),
        ("shape", _times(images.shape)),
        ("classes", ", ".join(classes) or "none"),
    ]
    rows += [("skipped", f"{file}: {reason}") for file, reason in images.skipped]
    say.result(document, output.table(["", ""], rows) if grid is None else str(grid))


def _with_classes(name: str, options: LoadOptions) -> Source:
    """The set with its classes or attributes, if it has any."""
    from dataclasses import replace

    from vpfb_core.data import SETS, canonical, find

    known = SETS.get(canonical(name))
    if known is not None:
        return find(name, replace(options, conditional=known.classes != ()))
    try:
        return find(name, replace(options, conditional=True))
    except DataError as error:  # no classes, or something that the next line says
        images = find(name, options)
        return replace(images, notes=(*images.notes, f"no classes: {error.message}"))


def _write_grid(grid: Path, images: Source, n: int) -> None:
    """The first n images of a fixed random order: many sets are sorted by class."""
    import torch

    from vpfb_core.machine import noise
    from vpfb_core.machine.files import write_bytes
    from vpfb_core.uses import pictures

    order = torch.randperm(len(images), generator=noise.generator("grid", len(images)))
    shown = images.subset(order[:n]).images
    write_bytes(grid, pictures.png(pictures.tile(shown / 255)))


def _entry(name: str, available: bool, path: Path | None, images: Any, shape: Any, classes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "available": available,
        "path": path,
        "images": images,
        "shape": shape,
        "classes": classes,
    }  # fmt: skip


def _times(shape: tuple[int, ...] | None) -> str:
    return "any" if shape is None else "×".join(map(str, shape))


def _count(classes: tuple[str, ...] | None) -> str:
    return "" if classes is None else str(len(classes))
