"""`vpfb interpolate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from vpfb_cli import signals
from vpfb_cli.flow_options import Condition, Flow
from vpfb_cli.models import open_model, require_images
from vpfb_cli.options import (
    OUTPUT,
    BatchSizeOption,
    Machine,
    ModelOption,
    at_least_one,
    at_least_two,
    file_option,
    option,
    path_option,
)
from vpfb_cli.output import Output
from vpfb_cli.outputs import require_file
from vpfb_cli.progress import progress
from vpfb_core.errors import ConfigError
from vpfb_core.machine.origin import Origin

ENDS = "Ends"
ROWS = 4


def interpolate(
    *,
    n: Annotated[
        int, option("-n N", OUTPUT, "Number of frames per row, both ends included.", callback=at_least_two)
    ] = 8,
    out: Annotated[
        str,
        path_option(
            "-o --out OUT", OUTPUT, ".png: a grid with one row per interpolation; .gif: one frame after the other."
        ),
    ] = "interpolation.png",
    rows: Annotated[
        int | None,
        option(
            "--rows R",
            ENDS,
            "Number of rows between prior points. Row r goes from sample 2r of the seed to 2r + 1.",
            callback=at_least_one,
            show_default=str(ROWS),
        ),
    ] = None,
    from_: Annotated[
        Path | None, file_option("--from A.png", ENDS, "Start at this image, encoded by the reverse flow.")
    ] = None,
    to: Annotated[Path | None, file_option("--to B.png", ENDS, "End at this image.")] = None,
    model: ModelOption = None,
    condition: Condition,
    flow: Flow,
    batch_size: BatchSizeOption = 256,
    machine: Machine,
    say: Output,
) -> None:
    """Interpolate between images through the noise that they come from.

    The ends are prior points of the seed, or two images of your own. Images are
    cropped and resized to the shape of the model and encoded by the reverse
    flow (dopri5, unless you name a solver), and the reconstruction error is
    stated. The interpolation follows the sphere on which the noise lies.

    Example:
      vpfb interpolate --rows 6 -n 10 -o grid.png
      vpfb interpolate -m digits --class 3 --class 8 --rows 2 -o rows.png
      vpfb interpolate --from a.png --to b.png -n 24 -o interpolation.gif
    """
    with signals.importing():
        import torch

        from vpfb_core.data.single import read_image
        from vpfb_core.dynamics.per_sample import rms_distance
        from vpfb_core.machine.files import write_bytes
        from vpfb_core.model.conditions import condition_tensor
        from vpfb_core.uses import pictures
        from vpfb_core.uses.draw import prior_codes
    require_file("-o", out, [".png", ".gif"], {"--from": from_, "--to": to})
    _check_combination(rows, from_, to)
    kind = Path(out).suffix.lower()
    count = 1 if from_ is not None else rows or ROWS
    condition.require_within(count, "rows")
    if flow.given:
        flow.choose()  # refuses a wrong solver before the model is loaded
    loaded, name = open_model(say, model, machine)
    require_images(loaded, "interpolate")
    guidance = condition.guidance_for(say, loaded)
    layout = {"columns": n} if kind == ".png" else {"frames": n}
    pictures.require_grid(
        count * n if kind == ".png" else count, loaded.shape, **layout, instead="ask for fewer frames"
    )

    settings = {"guidance": guidance, "batch_size": batch_size, **flow.arguments}
    pair = None
    if from_ is not None and to is not None:
        pair = torch.stack([read_image(path, loaded.shape) for path in (from_, to)])
    with progress(say, "interpolating") as bar:
        if pair is None:
            codes = prior_codes(loaded, machine.seed, range(2 * count))
        else:
            codes = loaded.encode(pair, condition=condition.class_, **settings)
        bar.update(1 / (1 + n))
        classes = condition_tensor(condition.class_, loaded.groups, count)
        images = loaded.interpolate(codes[::2], codes[1::2], n, condition=classes, **settings)
        bar.update(1.0)
    origin = Origin.of(machine.seed, name)
    if kind == ".gif":
        content = pictures.gif(torch.stack([pictures.tile(frame) for frame in images.transpose(0, 1)]), origin=origin)
    else:
        content = pictures.png(pictures.tile(images.flatten(0, 1), columns=n), origin)
    write_bytes(Path(out), content)

    error = None if pair is None else float(rms_distance(images[0, [0, -1]], pair.float() / 255).max())
    if error is not None:
        say.note(
            f"RMS reconstruction error of the two images: {error:.4f} (pixels are in [0, 1]; the larger of the two)"
        )
    document = {"model": name, "output": out, "frames": n, "reconstruction_rms": error, "seed": machine.seed}
    say.result(document, out)


def _check_combination(rows: int | None, from_: Path | None, to: Path | None) -> None:
    """Refuse options that do not go together, before any work is done."""
    if (from_ is None) != (to is None):
        given, missing = ("--from", "--to") if to is None else ("--to", "--from")
        raise ConfigError(f"{given} needs {missing}", hint="without both, the ends are prior points")
    if from_ is not None and rows is not None:
        raise ConfigError("--rows and --from exclude each other", hint="two images are the ends of one row")
