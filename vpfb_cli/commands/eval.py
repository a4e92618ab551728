"""`vpfb eval`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vpfb_cli import output, signals
from vpfb_cli.flow_options import AtolOption, NfeOption, RtolOption, SolverOption
from vpfb_cli.models import open_model
from vpfb_cli.options import (
    PANEL_DATA,
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
from vpfb_cli.output import Output
from vpfb_cli.progress import progress
from vpfb_core.errors import ConfigError

if TYPE_CHECKING:
    from vpfb_core.uses.evaluation import Report

PANEL_FEATURES = "Features"


def eval_(
    source: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="NAME",
            help="Real images to compare with: a name, DIR or FILE; NAME:train or NAME:test chooses the split.",
            rich_help_panel=PANEL_DATA,
        ),
    ],
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            "--metrics",
            metavar="LIST",
            show_default="all that needs no download, but bpd_flow",
            help="With commas: fid, kid, frechet, kernel, precision, recall, density, coverage, 1nn, residual, bpd, "
            "bpd_flow (slow).",
            rich_help_panel="Metrics",
        ),
    ] = None,
    n: Annotated[
        int | None,
        typer.Option(
            "-n",
            callback=at_least_one,
            metavar="N",
            show_default="10,000 on a GPU, 100 to 1,000 on a CPU",
            help="Compare N samples with N real images.",
            rich_help_panel="Metrics",
        ),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            "--features",
            metavar="NAME",
            show_default="inception if its weights are here, else classifier if fitted, else pixels",
            help="What images are compared by: inception, classifier, pixels, or torchvision:ARCH.",
            rich_help_panel=PANEL_FEATURES,
        ),
    ] = None,
    weights_path: Annotated[
        Path | None,
        typer.Option(
            "--weights-path",
            metavar="FILE",
            show_default=False,
            help="Weights of inception or of torchvision:ARCH, .pth or .safetensors.",
            rich_help_panel=PANEL_FEATURES,
        ),
    ] = None,
    fit_features: Annotated[
        bool,
        typer.Option(
            "--fit-features",
            metavar="",
            help="Do not evaluate: train a small classifier on the labels of the data, in about a minute, and keep it "
            "as --features classifier.",
            rich_help_panel=PANEL_FEATURES,
        ),
    ] = False,
    model: ModelOption = None,
    solver: SolverOption = None,
    nfe: NfeOption = None,
    rtol: RtolOption = None,
    atol: AtolOption = None,
    data_root: DataRootOption = None,
    download: DownloadOption = True,
    batch_size: BatchSizeOption = 256,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    seed: SeedOption = 0,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Say how good a model is: its samples against real images, and real images under it.

    fid and kid are over the features of FID's Inception network and nothing
    else; over other features the same distances are called frechet and kernel.
    Better is lower for fid, kid, frechet, kernel, residual and bpd, higher for
    precision, recall, density and coverage, and 0.5 for 1nn.

    Samples are drawn without a class. Compare figures of the same N, split,
    features and solver only; --json states them beside each.

    Example:
      vpfb eval --data mnist -m runs/001-mnist
      vpfb eval --data cifar:train --metrics fid,kid -n 50000
      vpfb eval --data mnist --fit-features && vpfb eval --data mnist --features classifier
    """
    say = output.start(json_mode=json, quiet=quiet)
    root = Path(data_root) if data_root else None
    with signals.importing():
        from vpfb_core.machine import distributed
        from vpfb_core.methods.transport import Solver
        from vpfb_core.uses import evaluation
        from vpfb_core.uses.evaluation.features import check_name
        from vpfb_core.uses.evaluation.metrics import find
    if fit_features:
        named: dict[str, object] = {
            "--metrics": metrics, "-n": n, "--features": features, "--weights-path": weights_path,
            "--solver": solver, "--nfe": nfe, "--rtol": rtol, "--atol": atol,
        }  # fmt: skip
        if given := [option for option, value in named.items() if value is not None]:
            raise ConfigError(f"--fit-features does not evaluate, so it takes no {', '.join(given)}")
        _fit(say, source, model, root, download, device, threads, seed)
        return
    wanted = None if metrics is None else find(metrics)
    if features is not None:
        check_name(features)
    chosen = Solver.choose(solver, nfe, rtol, atol)
    loaded, name = open_model(say, model, device, threads)
    group = distributed.group()
    plan = group.leaders_first(
        lambda: evaluation.prepare(
            loaded, source, wanted, n=n, extractor=features, weights_path=weights_path, root=root, download=download
        )
    )
    for note in plan.notes:
        say.note(note)
    for warning in plan.warnings:
        say.warn(warning)
    with progress(say, "evaluating") as bar:
        report = evaluation.evaluate(
            loaded, plan, seed=seed, batch_size=batch_size, on_progress=bar.update, **chosen.wishes
        )
    if not group.first:
        return
    if report.reused:
        say.note("the features of the real images were kept from an earlier call")
    document = {
        "model": name,
        "data": source,
        "metrics": {name: figure.document() for name, figure in report.metrics.items()},
        "nfe": report.nfe,
        "seconds": report.seconds,
    }
    say.note(_conditions(report))
    say.result(document, _table(report))


def _fit(
    say: Output,
    source: str,
    model: str | None,
    root: Path | None,
    download: bool,
    device: str,
    threads: int | None,
    seed: int,
) -> None:
    """Train the classifier, at the shape of the model that is named or else of the data."""
    began = time.monotonic()
    with signals.importing():
        import torch

        from vpfb_core import data
        from vpfb_core.data.catalogue import split_off
        from vpfb_core.machine import distributed
        from vpfb_core.machine.devices import resolve_device
        from vpfb_core.uses.evaluation import classifier
        from vpfb_core.uses.ood import choice
    channels, size = open_model(say, model, device, threads)[0].shape[:2] if model else (None, None)
    if threads is not None:
        torch.set_num_threads(threads)
    name = split_off(source)[0]
    chosen = resolve_device(device)

    def fit() -> tuple[classifier.Fitted, tuple[int, int, int]]:
        images = data.load(
            name, size=size, channels=channels, conditional=True, split="train", root=root, download=download
        )
        for note in images.notes:
            say.note(note)
        with progress(say, "fitting features") as bar:
            fitted = classifier.fit(images, choice.identity(name), chosen, seed=seed, on_progress=bar.update)
        return fitted, images.shape

    fitted, shape = distributed.group().from_first(fit)
    document: dict[str, Any] = {
        "data": name,
        "features": "classifier",
        "output": fitted.path,
        "weights": fitted.weights,
        "accuracy": fitted.accuracy,
        "n": fitted.images,
        "held_out": fitted.held_out,
        "shape": shape,
        "seconds": time.monotonic() - began,
        "seed": seed,
    }
    say.note(f"right on {fitted.accuracy:.1%} of {fitted.held_out:,} held-out images, {document['seconds']:.0f} s")
    say.result(document, str(fitted.path))


def _conditions(report: Report) -> str:
    """What a person must know beside the table."""
    said = [f"{report.seconds:.0f} s"]
    if report.nfe is not None:
        solver = next(figure.solver for figure in report.metrics.values() if figure.solver)
        said.insert(0, f"samples: {report.nfe:.0f} evaluations each by {solver}")
    if (blurred := report.metrics.get("bpd")) is not None:
        said.insert(0, f"bpd speaks of images blurred by {blurred.details['blur_grey_levels']:.2g} grey levels")
    return "; ".join(said)


def _table(report: Report) -> Any:
    columns = ["metric", "value", "better", "n", "split", "features"]
    rows = (
        (name, f"{figure.value:.4g}", figure.better, f"{figure.n:,}", figure.split, figure.extractor or "–")
        for name, figure in report.metrics.items()
    )
    return output.table(columns, rows)
