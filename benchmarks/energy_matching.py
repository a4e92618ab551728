"""Energy Matching beside vpfb and flow matching: the same network, the same time, the same measurements.

    VPFB_DATA=data python benchmarks/energy_matching.py --minutes 15 --set widths=[32,64] patch=4 --threads 1

Trains one model per method, one after the other, in the folder --runs, and measures the runs that are finished there.
The samples are compared with test images by features of a classifier that is trained on the labels (`vpfb eval
--fit-features`), and the detection of outliers is measured as in ood.py. For Energy Matching the samples are measured
at several sampling times, as are those of a model that was kept at the end of the first phase, if --first-phase names
it. The energies of chains from noise are compared with those of chains from test images by a two-sample test, at some
numbers of steps. Test images with the noise of the density are points of this density if the energy is right, so that
the mean of x·∇ log ρ over them is minus the number of dimensions (Stein's identity).

    python benchmarks/energy_matching.py --methods energy-matching --chains 32 --chain-steps 50 150 500 1500

measures Energy Matching alone, with longer chains.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from record import folder, parsed, record, show, training
from scipy.stats import ks_2samp
from torch import Tensor

import vpfb_core as vpfb
from vpfb_core import methods, names
from vpfb_core.api import Model
from vpfb_core.config import parse_setting
from vpfb_core.data import catalogue
from vpfb_core.data.image_statistics import to_bytes
from vpfb_core.dynamics.langevin import langevin
from vpfb_core.model.runs import Run
from vpfb_core.uses import evaluation, pictures
from vpfb_core.uses.evaluation import classifier, distances
from vpfb_core.uses.evaluation.neighbours import compare as nearest
from vpfb_core.uses.ood import compare, score
from vpfb_core.uses.ood.altered import CONTROLS
from vpfb_core.uses.ood.scores import is_ready
from vpfb_core.uses.plotting.histogram import histogram

METHODS = ("vpfb", "flow-matching", "energy-matching")
TIMES = (1.0, 1.5, 2.0, 3.0, 5.0)
SCORES = ("multiscale", "energy", "gradient")
CHAINS = 64
CHAIN_STEPS = (50, 100, 150)
STEIN_IMAGES = 200


def trained(method: str, arguments: argparse.Namespace) -> Model:
    """The model of a method, trained now unless its run is finished."""
    run = arguments.runs / method
    if Run(run).finished:
        return vpfb.load(run, device=arguments.device)
    settings = dict(parse_setting(text) for text in arguments.set)
    config = vpfb.TrainConfig(
        data=arguments.data, method=method, time_budget=60 * arguments.minutes, device=arguments.device,
        threads=torch.get_num_threads(), out=str(run), resume="auto", **settings,
    )  # fmt: skip
    return vpfb.train(config).model


def quality(model: Model, arguments: argparse.Namespace) -> dict[str, Any]:
    """The figures of samples at the default of the method."""
    plan = evaluation.prepare(
        model, arguments.data, ("frechet", "1nn"), n=arguments.n, extractor="classifier", download=False
    )
    report = evaluation.evaluate(model, plan)
    return {name: figure.document() for name, figure in report.metrics.items()} | {"nfe": report.nfe}


def by_time(model: Model, arguments: argparse.Namespace, phases: str) -> list[dict[str, float]]:
    """The figures of samples at several sampling times, by features of the classifier and by pixels.

    Args:
        phases: the name of the phases that the model has been through, for the names of pictures.
    """
    plan = evaluation.prepare(
        model, arguments.data, ("frechet", "1nn"), n=arguments.n_by_time, extractor="classifier", download=False
    )
    real, extractor = plan.real.images, plan.extractor
    assert extractor is not None
    field: Any = model.field
    of_real = extractor.features(real, model.device, batch_size=256)
    drawn = model.sample(len(real), tau=TIMES[0])
    x, nfe, rows = drawn.solution.x.to(model.device), float(drawn.nfe.double().mean()), []
    journey = model.method.settings.journey
    for number, (tau, images) in enumerate(zip(TIMES, chained(model, x, journey), strict=True)):
        as_bytes = to_bytes(images)
        features = extractor.features(as_bytes, model.device, batch_size=256)
        steps = round((tau - 1) / journey.step)
        rows.append(
            {
                "tau": tau,
                "nfe": nfe + (steps + 2 if number else 0),
                "energy": float(field.energy(model.standardise(as_bytes), 0.0).mean()),
                "frechet": distances.frechet(features, of_real),
                "1nn": nearest(features, of_real).accuracy,
                "1nn_pixels": nearest(as_bytes.flatten(1).float() / 255, real.flatten(1).float() / 255).accuracy,
            }
        )
        print(phases, rows[-1], flush=True)
        path = folder(model.device) / f"energy-matching-{phases}-tau-{tau:g}.png"
        path.write_bytes(pictures.png(pictures.tile(images[:64])))
    return rows


def chained(model: Model, x: Tensor, journey: Any) -> Iterator[Tensor]:
    """The images at each of the sampling times, from chains that go on from time to time, without their noise."""
    field: Any = model.field
    yield model.statistics.restore(x.cpu())
    for before, tau in pairwise(TIMES):
        walk = langevin(
            field.energy_and_score, x, field.chain_variance(0.0), steps=round((tau - before) / journey.step), seed=0,
            stream=f"until {tau}", method=journey.chains, scale=journey.step * x[0].numel() ** (1 / 3),
        )  # fmt: skip
        x = walk.x
        yield restored(model, x)


def restored(model: Model, x: Tensor) -> Tensor:
    """The images of points of the density of the energy, without its noise."""
    clean, _ = model.field.denoised(x, lambda x: model.field.energy_and_score(x, 0.0))
    return model.statistics.restore(clean.cpu())


def two_starts(model: Model, real: Tensor, chains: int, marks: list[int]) -> dict[str, Any]:
    """The energies of chains from samples and from test images, and a two-sample test of both.

    The chains and their steps are those of the negatives of the training.

    Args:
        chains: the number of chains from each start.
        marks: the numbers of steps at which the energies are compared.
    """
    field: Any = model.field
    journey = model.method.settings.journey
    data = model.standardise(real[:chains])
    starts = {
        "noise": model.sample(chains, tau=1.0).solution.x.to(model.device),
        "data": data + field.blur * torch.randn(data.shape, generator=torch.Generator().manual_seed(0)).to(data),
    }
    found: dict[str, list[list[float]]] = {}
    for name, x in starts.items():
        energies = [field.energy(x, 0.0).tolist()]
        for part, (before, steps) in enumerate(pairwise([0, *marks])):
            walk = langevin(
                field.energy_and_score, x, field.chain_variance(0.0), steps=steps - before, seed=part,
                stream=f"chains from {name}", method=journey.chains, scale=journey.step * x[0].numel() ** (1 / 3),
            )  # fmt: skip
            x = walk.x
            energies.append(walk.energy.tolist())
        found[name] = energies
        path = folder(model.device) / f"energy-matching-chains-from-{name}.png"
        path.write_bytes(pictures.png(pictures.tile(restored(model, x)[:64])))
    tests = [ks_2samp(of_noise, of_data) for of_noise, of_data in zip(found["noise"], found["data"], strict=True)]
    path = folder(model.device) / "energy-matching-energies.png"
    path.write_bytes(
        histogram(
            torch.tensor(found["data"][-1]), torch.tensor(found["noise"][-1]), names=("from data", "from noise"),
            axis="energy in nats", title=f"Energies after {marks[-1]} steps of chains",
        )
    )  # fmt: skip
    return {
        "steps": [0, *marks],
        "mean_energy": {name: [sum(part) / len(part) for part in parts] for name, parts in found.items()},
        "kolmogorov_smirnov": [{"statistic": float(test.statistic), "p": float(test.pvalue)} for test in tests],
    }


def stein(model: Model, real: Tensor) -> float:
    """The mean of x·∇ log ρ over test images with noise, per dimension, which is −1 for the density of such images."""
    data = model.standardise(real[:STEIN_IMAGES])
    x = data + model.field.blur * torch.randn(data.shape, generator=torch.Generator().manual_seed(0)).to(data)
    _, score = model.field.energy_and_score(x, 0.0)
    return float((x * score).flatten(1).mean())


def detections(model: Model, inside: Tensor, outside: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    """The AUROC of each score for each set of outliers. A short run may have no reference for `multiscale`."""
    of_inside = {name: score(model, inside, name) for name in SCORES if is_ready(model, name)}
    return {
        out: {name: compare(known, score(model, images, name)).auroc for name, known in of_inside.items()}
        for out, images in outside.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--runs", type=Path, default=Path("runs/energy-matching"))
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of all runs")
    parser.add_argument("--out", nargs="*", default=["fashion-mnist", "noise", "constant", "shuffled:mnist"])
    parser.add_argument("-n", type=int, default=500, help="samples and test images")
    parser.add_argument("--n-by-time", type=int, default=250, help="samples per sampling time")
    parser.add_argument("--first-phase", type=Path, help="the model of Energy Matching at the end of its first phase")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--chains", type=int, default=CHAINS, help="chains from each start")
    parser.add_argument("--chain-steps", type=int, nargs="*", default=list(CHAIN_STEPS), help="where they are compared")
    parser.add_argument("--limit", type=int, default=250, help="images per set in the detection of outliers")
    arguments = parsed(parser)
    models = {method: trained(method, arguments) for method in arguments.methods}
    first = next(iter(models.values()))
    if classifier.find(catalogue.identity(arguments.data), tuple(first.shape)) is None:
        classifier.fit_source(arguments.data, shape=first.shape, device=first.device)

    found: dict[str, dict[str, Any]] = {}
    loaded = {name: vpfb.data.load(name, split="test", limit=arguments.limit, size=first.shape[-1], channels=1).images
              for name in [arguments.data, *arguments.out]}  # fmt: skip
    inside = loaded.pop(arguments.data)
    outside = loaded | {name: change(inside) for name, change in CONTROLS.items()}
    for method, model in models.items():
        found[method] = {"training": training(model), "parameters": model.parameter_count}
        found[method] |= {"quality": quality(model, arguments)}
        print(method, found[method], flush=True)
        path = folder(model.device) / f"energy-matching-beside-{method}.png"
        path.write_bytes(pictures.png(pictures.tile(model.sample(64).images)))
        if methods.gives(method, "energy"):
            found[method]["auroc"] = detections(model, inside, outside)
            print(found[method]["auroc"], flush=True)
        if "tau" in names.METHODS[method].sampling:
            found[method] |= {
                "by_time": by_time(model, arguments, "both-phases"), "stein": stein(model, inside),
                "chains": two_starts(model, inside, arguments.chains, arguments.chain_steps),
            }  # fmt: skip
            if arguments.first_phase:
                before = vpfb.load(arguments.first_phase, device=arguments.device)
                found[method]["by_time_after_first_phase"] = by_time(before, arguments, "first-phase")
                found[method]["stein_after_first_phase"] = stein(before, inside)
    show(
        ["method", "steps", "Fréchet, classifier", "1-NN", "gradients per image"],
        [
            [
                method,
                each["training"]["step"],
                *(f"{each['quality'][name]['value']:.3f}" for name in ("frechet", "1nn")),
                f"{each['quality']['nfe']:.0f}",
            ]
            for method, each in found.items()
        ],
    )  # fmt: skip
    for method, each in found.items():
        if "auroc" in each:
            show(
                [f"AUROC, {method}", *next(iter(each["auroc"].values()))],
                [[out, *(f"{a:.4f}" for a in row.values())] for out, row in each["auroc"].items()],
            )
        if "chains" in each:
            print("Stein's identity:", each["stein"], "in place of -1", each["chains"])
    figures = {"data": arguments.data, "minutes": arguments.minutes, "settings": arguments.set, "methods": found}
    alone = "" if arguments.methods == list(METHODS) else f"-{'-'.join(arguments.methods)}-alone"
    record(f"energy-matching-{arguments.data}{alone}", figures, first.device)


if __name__ == "__main__":
    main()
