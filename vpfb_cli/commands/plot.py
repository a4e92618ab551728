"""`vpfb plot`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from vpfb_cli import signals
from vpfb_cli.models import open_model
from vpfb_cli.options import DATA, MODEL_HELP, OUTPUT, DataAccess, Machine, path_argument, path_option
from vpfb_cli.output import Output
from vpfb_cli.outputs import require_file
from vpfb_core.errors import CheckpointError, ConfigError
from vpfb_core.machine.origin import Origin, short_name
from vpfb_core.model import run_log
from vpfb_core.model.runs import Run


def plot(
    model: Annotated[str | None, path_argument("MODEL", MODEL_HELP, show_default="the newest run under ./runs")] = None,
    *,
    data: Annotated[
        str | None, path_option("--data DATA", DATA, "The data to draw.", show_default="the training data")
    ] = None,
    access: DataAccess,
    machine: Machine,
    out: Annotated[
        str,
        path_option("-o --out OUT", OUTPUT, ".png: a figure; .gif: the log-density of two columns from noise to data."),
    ] = "plot.png",
    say: Output,
) -> None:
    """Draw a model of points or of a table, or the training curves of a run on images.

    A model of two columns is drawn with its data, samples, learned log-density
    and flow, a model of more columns with all pairs of its first six columns.

    Example:
      vpfb plot runs/001-moons -o moons.png
      vpfb plot runs/001-moons -o moons.gif
    """
    require_file("-o", out, [".png", ".gif"], {})
    loaded, name = open_model(say, model, machine)
    with signals.importing():
        from vpfb_core.machine.files import write_bytes
        from vpfb_core.uses.plotting import curves, model_plot
        from vpfb_core.uses.training_set import training_images
    origin = Origin.of(machine.seed, name)
    animated = Path(out).suffix.lower() == ".gif"
    if animated or model_plot.columns_of(loaded):
        model_plot.require_columns(loaded)
        found = training_images(loaded, data, **access.settings).in_memory()
        for note in found.notes:
            say.note(f"data: {note}")
        rows = found.data
        picture = (
            model_plot.animate(loaded, rows, machine.seed, origin)
            if animated
            else model_plot.plot(loaded, rows, short_name(name), machine.seed, origin)
        )
    elif data is not None:
        raise ConfigError(f"--data {data} is for a model of a table; of a model of images, the training is drawn")
    else:
        picture = curves.curves({short_name(name): _log(name)}, origin)
    write_bytes(Path(out), picture)
    say.result({"model": name, "output": out, "seed": machine.seed}, out)


def _log(name: str) -> dict[str, list[float]]:
    """The log of the run of a model. Raises CheckpointError if there is none."""
    run = Run.of(Path(name))
    log = run_log.read(run.log) if run else {}
    if not log.get("step"):
        raise CheckpointError(
            f"{name} is a model of images without a log of its training, and there is nothing to plot",
            hint=f"draw from it: vpfb sample -m {name} -n 64 -o grid.png",
        )
    return log
