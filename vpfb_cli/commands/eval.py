"""`vpfb eval`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from vpfb_cli import output, signals
from vpfb_cli.flow_options import Flow
from vpfb_cli.models import open_model, use_threads
from vpfb_cli.options import (
    DATA,
    BatchSizeOption,
    DataAccess,
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
from vpfb_core.errors import ConfigError, counted

if TYPE_CHECKING:
    from rich.console import RenderableType

    from vpfb_core.data import InMemory
    from vpfb_core.uses.evaluation import Gaps, Report

METRICS, FEATURES = "Metrics", "Features"


def eval_(
    *,
    source: Annotated[
        str,
        path_option("--data NAME", DATA, "Real data to compare with: a name, NAME:train, NAME:test, DIR or FILE."),
    ],
    access: DataAccess,
    metrics: Annotated[
        list[str] | None,
        option(
            "--metrics LIST",
            METRICS,
            "Names joined by commas: fid, kid, frechet, kernel, precision, recall, density, coverage, 1nn, residual, "
            "bpd, bpd_flow (slow), statistics (a table of brightness, edges and others); for tables sliced and nll.",
            show_default="all that need no download, except bpd_flow and statistics",
        ),
    ] = None,
    n: Annotated[
        int | None,
        option(
            "-n N",
            METRICS,
            "Number of samples, and of real images to compare them with.",
            callback=at_least_one,
            show_default="10,000 on a GPU, 100 to 1,000 on a CPU",
        ),
    ] = None,
    features: Annotated[
        str | None,
        option(
            "--features NAME",
            FEATURES,
            "Features that images are compared by: inception, classifier, pixels, or torchvision:ARCH.",
            show_default="inception if its weights are present, else classifier if fitted, else pixels",
        ),
    ] = None,
    weights_path: Annotated[
        Path | None,
        file_option(
            "--weights-path FILE",
            FEATURES,
            "Weights of inception or of torchvision:ARCH, .pth or .safetensors.",
            show_default="the cache of torch hub, or a download for inception",
        ),
    ] = None,
    fit_features: Annotated[
        bool,
        option("--fit-features", FEATURES, "Train the features classifier on the labels of the data, then exit."),
    ] = False,
    model: ModelOption = None,
    flow: Flow,
    batch_size: BatchSizeOption = 256,
    machine: Machine,
    say: Output,
) -> None:
    """Measure the quality of a model by its samples and by its density.

    fid and kid are distances between features of FID's Inception network. The
    same distances between other features are called frechet and kernel.
    Lower is better for fid, kid, frechet, kernel, residual and bpd, higher for
    precision, recall, density and coverage, and 0.5 is best for 1nn.

    For tables, features are standardised columns, sliced is the sliced
    Wasserstein distance, and nll the negative log-likelihood of held-out rows by
    the flow, in nats.

    Samples are drawn without a class. If a model was trained only with classes
    (condition_dropout=0), they have the classes of the real images.

    Compare only figures of the same N, split, features and solver; --json states
    them beside each figure.

    Example:
      vpfb eval --data mnist -m runs/001-mnist
      vpfb eval --data cifar:train --metrics fid,kid -n 50000
      vpfb eval --data table.csv -m runs/002-table
      vpfb eval --data digits --metrics statistics
      vpfb eval --data mnist --fit-features
      vpfb eval --data mnist --features classifier
    """
    if fit_features:
        named = {"--metrics": metrics, "-n": n, "--features": features, "--weights-path": weights_path, **flow.given}
        if given := [name for name, value in named.items() if value is not None]:
            raise ConfigError(f"--fit-features evaluates nothing, so it takes no {', '.join(given)}")
        _fit_features(say, source, model, access, machine)
        return

    with signals.importing():
        from vpfb_core.machine import distributed
        from vpfb_core.uses import evaluation
        from vpfb_core.uses.evaluation.features import check_name
        from vpfb_core.uses.evaluation.metrics import draws_samples, find
    wanted = None if metrics is None else find(metrics)
    if wanted is not None and flow.given and not draws_samples(wanted):
        raise ConfigError(f"{', '.join(wanted)} draws no samples", hint=f"leave {', '.join(flow.given)} out")
    if features is not None:
        check_name(features)
    flow.choose()  # refuses a wrong solver before the model is loaded
    loaded, model_name = open_model(say, model, machine)
    group = distributed.group()
    plan = group.leaders_first(
        lambda: evaluation.prepare(
            loaded, source, wanted, n=n, extractor=features, weights_path=weights_path, **access.settings
        )
    )
    for note in plan.notes:
        say.note(note)
    for warning in plan.warnings:
        say.warn(warning)
    with progress(say, "evaluating") as bar:
        report = evaluation.evaluate(
            loaded, plan, seed=machine.seed, batch_size=batch_size, on_progress=bar.update, **flow.arguments
        )
    if not group.first:
        return
    document = {
        "model": model_name,
        "data": source,
        "metrics": report.document(),
        "nfe": report.nfe,
        "seconds": report.seconds,
    }
    _explain(say, report)
    say.result(document, _table(report))


def _explain(say: Output, report: Report) -> None:
    """What a person must know beside the table."""
    if report.reused:
        say.note("the features of the real images were kept from an earlier call")
    if (bpd := report.metrics.get("bpd")) is not None:
        say.note(f"bpd describes images blurred by {bpd.details['blur_grey_levels']:.2g} grey levels")
    samples = ""
    if report.nfe is not None:
        samples = f"samples: {counted(round(report.nfe), 'gradient evaluations')} per image by {report.solver}; "
    say.note(f"{samples}{duration(report.seconds)}")


def _table(report: Report) -> RenderableType:
    """The table of the figures, and below it that of the statistics."""
    from rich.console import Group

    if report.statistics is None:
        return _figures(report)
    of_statistics = _statistics(report.statistics)
    return Group(_figures(report), "", of_statistics) if report.metrics else of_statistics


def _statistics(found: Gaps) -> RenderableType:
    columns = ["statistic", "real", "samples", "gap (deviations)", "gap (standard errors)"]
    rows = (
        (gap.name, f"{gap.real:.4g}", f"{gap.samples:.4g}", f"{gap.gap_sd:+.2f}", f"{gap.gap_se:+.1f}")
        for gap in found.rows
    )
    return output.table(columns, rows)


def _figures(report: Report) -> RenderableType:
    columns = ["metric", "value", "better", "n", "split", "features"]
    rows = (
        (name, f"{figure.value:.4g}", figure.better, f"{figure.n:,}", figure.split, figure.extractor or "-")
        for name, figure in report.metrics.items()
    )
    return output.table(columns, rows)


def _fit_features(say: Output, source: str, model: str | None, access: DataAccess, machine: Machine) -> None:
    began = time.monotonic()
    use_threads(machine)
    with signals.importing():
        from vpfb_core.data.catalogue import split_off
        from vpfb_core.machine import distributed
        from vpfb_core.machine.devices import resolve_device
        from vpfb_core.uses.evaluation import classifier
    shape = open_model(say, model, machine)[0].shape if model else None
    device = resolve_device(machine.device)

    def show_notes(images: InMemory) -> None:
        for note in images.notes:
            say.note(note)

    def fit() -> classifier.Fitted:
        with progress(say, "fitting features") as bar:
            return classifier.fit_source(
                source, shape=shape, device=device, seed=machine.seed, on_images=show_notes, on_progress=bar.update,
                **access.settings,
            )  # fmt: skip

    fitted = distributed.group().from_first(fit)
    seconds = time.monotonic() - began
    document = {
        "data": split_off(source)[0], "features": "classifier", "output": fitted.path, "weights": fitted.weights,
        "accuracy": fitted.accuracy, "n": fitted.images, "held_out": fitted.held_out, "shape": fitted.shape,
        "seconds": seconds, "seed": machine.seed,
    }  # fmt: skip
    say.note(f"accuracy {fitted.accuracy:.1%} on {counted(fitted.held_out, 'validation images')}; {duration(seconds)}")
    say.result(document, str(fitted.path))
