"""`vpfb sample`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from vpfb_cli import signals
from vpfb_cli.flow_options import FLOW, Condition, Flow
from vpfb_cli.matching import Reached, matched
from vpfb_cli.models import open_model
from vpfb_cli.options import (
    MODEL,
    OUTPUT,
    BatchSizeOption,
    CountOption,
    Machine,
    ModelOption,
    at_least_one,
    file_option,
    option,
    path_option,
)
from vpfb_cli.output import Output
from vpfb_cli.progress import progress
from vpfb_cli.wording import duration
from vpfb_cli.writers import Writer, kind_of, open_writer
from vpfb_core.errors import ConfigError, counted
from vpfb_core.machine.origin import Origin

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from vpfb_core.api import Model
    from vpfb_core.uses.chains import Chains

CHAINS = "Langevin chains"


def sample(
    *,
    n: CountOption = 64,
    out: Annotated[
        str | None,
        path_option(
            "-o --out OUT",
            OUTPUT,
            ".png: a grid; .npz: an array; .gif: the path from noise; folder: one PNG per image, "
            "in place of older samples there; -: a grid on stdout. Rows of a table: .csv, .tsv or .npy.",
            show_default="samples.png, or samples.csv for a table",
        ),
    ] = None,
    model: ModelOption = None,
    condition: Condition,
    match: Annotated[
        list[str] | None,
        option(
            "--match STAT=VALUE",
            MODEL,
            "Draw samples whose mean brightness, contrast, edges, red, ... is VALUE. brightness:FILE counts the white "
            "pixels of a mask. Can be repeated.",
        ),
    ] = None,
    weights: Annotated[
        str, option("--weights ema|raw", MODEL, "Averaged weights, or those of the last training step.")
    ] = "ema",
    flow: Flow,
    tau: Annotated[
        float | None,
        option(
            "--tau TIME",
            FLOW,
            "Time at which sampling ends, for methods whose chain follows the flow at time 1.",
            show_default="set by the method",
        ),
    ] = None,
    start: Annotated[
        str | None,
        option(
            "--start pool|fresh",
            FLOW,
            "Where the chains of a model with codes begin: in its pool of states, or fresh from its decoder.",
            show_default="pool",
        ),
    ] = None,
    langevin: Annotated[
        int | None,
        option("--langevin N", CHAINS, "Continue each sample by N steps of a MALA chain.", callback=at_least_one),
    ] = None,
    known: Annotated[
        Path | None, file_option("--known IMAGE", CHAINS, "Keep the known pixels of this image and draw the others.")
    ] = None,
    mask: Annotated[
        Path | None,
        file_option(
            "--mask MASK", CHAINS, "Picture of the size of IMAGE: white pixels are kept, black pixels are drawn."
        ),
    ] = None,
    batch_size: BatchSizeOption = 256,
    machine: Machine,
    say: Output,
) -> None:
    """Draw images from a model, or rows of a table.

    Sample i depends on the seed and i alone: with a larger -n or another batch
    size, the first samples are the same.

    Example:
      vpfb sample -n 64 -o grid.png
      vpfb sample -m runs/001-imgs -n 1000 -o pictures/ --seed 7
      vpfb sample -m digits --class 3 --guidance 2 -o threes.png
      vpfb sample -m digits --match brightness=0.35 -o bold.png
      vpfb sample -m digits -n 16 --langevin 1000 -o walked.png
      vpfb sample -m runs/002-moons -n 1000 -o rows.csv
      vpfb sample -m digits -n 8 --known three.png --mask upper-half.png
    """
    with signals.importing():
        from vpfb_core import methods
        from vpfb_core.machine import distributed
        from vpfb_core.uses.matching.kept import read_targets
    targets = read_targets(match or [])
    inputs = {"--known": known, "--mask": mask}
    writer, out = open_writer(kind_of(model), out, "samples", say, inputs, animated=True)
    given: dict[str, Any] = {"tau": tau, "start": start}
    own = {name: value for name, value in given.items() if value is not None}
    _check_combination(writer, langevin, known, mask, flow, own, match)
    condition.require_within(n, "samples")
    flow.choose()  # refuses a wrong solver before the model is loaded
    loaded, name = open_model(say, model, machine, weights)
    how = flow.arguments | own
    solver, _ = methods.choose_sampling(loaded.method, how)
    if langevin is not None or known is not None:
        loaded.require("energy", "a Langevin chain")
    guidance = condition.guidance_for(say, loaded)

    began = time.monotonic()
    settings = {"condition": condition.class_, "guidance": guidance, "batch_size": batch_size}
    if targets:
        loaded = matched(say, loaded, targets, machine.seed, settings, how, in_chains=langevin is not None)
    job = _Job(say, loaded, n, machine.seed, settings, how, writer, Reached.of(loaded, targets))
    in_chains = langevin is not None or known is not None
    labels = _labels(loaded, condition.class_, n)
    origin = Origin.of(machine.seed, name)
    with writer.writing(n, loaded, origin, frames=1 + (solver.nfe or 1), at_once=in_chains, labels=labels):
        if known is not None and mask is not None:
            drawn = _inpaint(job, known, mask)
        elif langevin is not None:
            drawn = _run_chains(job, langevin)
        else:
            drawn = _follow_flow(job, job.take)
    if not distributed.group().first:
        return

    nfe, seconds = drawn.evaluations / n, time.monotonic() - began
    method = solver.method if drawn.chains is None else drawn.chains.solver
    document = {
        "model": name, "output": out, "n": n, "nfe": nfe, "solver": method, "seconds": seconds, "seed": machine.seed,
    }  # fmt: skip
    if (chains := drawn.chains) is not None:
        moved = float(chains.moved.mean())
        document |= {"acceptance": chains.acceptance, "energy_trace": chains.energy_trace(), "moved": moved}
    if job.reached is not None:
        document["match"] = job.reached.document()
        say.note(job.reached.in_words())
    by = method if chains is None else f"{method} and MALA"
    effort = counted(round(nfe), "gradient evaluations")
    say.note(f"{counted(n, loaded.statistics.noun)}, {effort} each by {by}, seed {machine.seed}, {duration(seconds)}")
    say.result(document, writer.table or out)


def _labels(model: Model, classes: list[str] | None, n: int) -> dict[str, np.ndarray] | None:
    """The classes of n samples as an archive keeps them; None without classes, or with several attributes per image."""
    import numpy as np

    from vpfb_core.model.conditions import condition_tensor

    if not classes or len(model.groups) != 1:
        return None
    chosen = condition_tensor(classes, model.groups, n)
    assert chosen is not None
    return {"labels": chosen[:, 0].numpy(), "classes": np.array(model.groups[0].classes)}


def _check_combination(
    writer: Writer,
    langevin: int | None,
    known: Path | None,
    mask: Path | None,
    flow: Flow,
    own: Mapping[str, float],
    match: list[str] | None,
) -> None:
    """Refuse options that do not go together, before any work is done."""
    if (known is None) != (mask is None):
        given, missing = ("--known", "--mask") if mask is None else ("--mask", "--known")
        raise ConfigError(f"{given} needs {missing}", hint="--known IMAGE --mask MASK: white is kept, black is drawn")
    if known is not None and langevin is not None:
        raise ConfigError("--known and --langevin exclude each other", hint="--known runs Langevin chains of its own")
    if known is not None and match:
        raise ConfigError(
            f"--match {match[0]} is fitted to samples of the flow, and --known draws by chains",
            hint="keep the statistics in a model instead: vpfb info --match STAT=VALUE MODEL",
        )
    if known is not None and (idle := [*flow.given, *(f"--{each}" for each in own)]):
        raise ConfigError(f"--known chooses its own solver steps, so it takes no {', '.join(idle)}")
    if writer.wants_path and (known is not None or langevin is not None):
        given = "--langevin" if known is None else "--known"
        raise ConfigError(
            f"a .gif shows the path of the flow, and {given} has none", hint="write .png, .npz or a folder"
        )


@dataclass(frozen=True)
class _Job:
    """What is drawn: n images with the settings of `Model.sample`; `how` are those of the solver and of the method."""

    say: Output
    model: Model
    n: int
    seed: int
    settings: dict[str, Any]
    how: dict[str, Any]
    writer: Writer
    reached: Reached | None

    def take(self, images: Tensor, path: Tensor | None = None) -> None:
        """Write the next samples, and note their statistics."""
        self.writer.add(images, path)
        if self.reached is not None:
            self.reached.add(images)


@dataclass(frozen=True)
class _Drawn:
    """The gradient evaluations of all images together, and the chains if there were any."""

    evaluations: int
    chains: Chains | None = None


def _follow_flow(job: _Job, take: Callable[[Tensor, Tensor | None], None]) -> _Drawn:
    """Draw images by the flow and hand them on batch by batch, with their paths if the writer wants them.

    The processes of a job share each batch; the first one takes all the images, in order.
    """
    from vpfb_core.machine import distributed

    group, model = distributed.group(), job.model
    evaluations, done = 0, 0

    def draw(rows: range) -> tuple[Tensor, Tensor | None, int]:
        drawn = model.sample(
            len(rows), job.seed, first=done + rows.start, keep_path=job.writer.wants_path, **job.settings, **job.how
        ).require_success()
        return drawn.images, drawn.path, int(drawn.nfe.sum())

    with progress(job.say, "sampling") as bar:
        while done < job.n:
            count = min(job.settings["batch_size"] * group.count, job.n - done)
            for images, path, nfe in group.sharded(count, draw) or []:
                take(images, path)
                evaluations += nfe
            done += count
            bar.update(done / job.n)
    return _Drawn(evaluations)


def _run_chains(job: _Job, steps: int) -> _Drawn:
    """Draw images by the flow, and continue each by a Markov chain over the data."""
    import torch

    from vpfb_core.machine import distributed
    from vpfb_core.model.conditions import condition_tensor

    starts: list[Tensor] = []
    drawn = _follow_flow(job, lambda images, _path: starts.append(images))
    if not distributed.group().first:
        return drawn
    settings = {**job.settings, "condition": condition_tensor(job.settings["condition"], job.model.groups, job.n)}
    with progress(job.say, "running chains") as bar:
        chains = job.model.long_run(torch.cat(starts), steps, job.seed, on_progress=bar.update, **settings, **job.how)
    job.take(chains.images)
    job.say.note(
        f"{chains.acceptance:.0%} of proposals accepted; RMS distance {chains.moved.mean():.3f} from the start, "
        f"{chains.apart:.3f} between samples"
    )
    return _Drawn(drawn.evaluations + int(chains.nfe.sum()), chains)


def _inpaint(job: _Job, known: Path, mask: Path) -> _Drawn:
    """Draw the unknown pixels of an image, once per sample."""
    from vpfb_core.data.single import read_known
    from vpfb_core.machine import distributed

    if not distributed.group().first:
        return _Drawn(0)
    image, kept = read_known(known, mask, job.model.shape)
    with progress(job.say, "inpainting") as bar:
        chains = job.model.inpaint(image, kept, job.n, job.seed, on_progress=bar.update, **job.settings)
    job.writer.add(chains.images)
    job.say.note(
        f"{int(kept.sum())} of {kept.numel()} pixels kept; {chains.acceptance:.0%} of proposals accepted\n"
        f"RMS distance of drawn pixels: {chains.moved.mean():.3f} from the image, {chains.apart:.3f} between samples"
    )
    return _Drawn(int(chains.nfe.sum()), chains)
