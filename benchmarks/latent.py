"""Codes of images, and the density of points on a ring, by the method latent.

    VPFB_DATA=data python benchmarks/latent.py digits mnist --seconds 60 300 --threads 1
    python benchmarks/latent.py ring --set steps=1500 batch_size=512 --threads 1

For images, a model is trained, and unseen images are encoded (those of the test split, or half of a set that has none).
Measured are the accuracy of 5 nearest neighbours among the codes of training images, the agreement of k-means clusters
with the labels (normalised mutual information), both beside principal components of the same number and pixels, the
1-nearest-neighbour accuracy of states of the pool and of fresh chains against noised unseen images, and the detection
of outliers. For the ring, the learned density is compared with the exact one.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import torch
from record import folder, parsed, record, show, training
from sklearn.decomposition import PCA
from sklearn.metrics import normalized_mutual_info_score
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

import vpfb_core as vpfb
from vpfb_core.api import Model
from vpfb_core.config import parse_setting
from vpfb_core.data import InMemory
from vpfb_core.data.catalogue import has_splits
from vpfb_core.data.sets import plane
from vpfb_core.dynamics.langevin import langevin
from vpfb_core.machine import noise
from vpfb_core.methods.latent.particles import OF_POOL
from vpfb_core.uses import codes, pictures
from vpfb_core.uses.evaluation.neighbours import compare as nearest
from vpfb_core.uses.ood import compare, score
from vpfb_core.uses.ood.altered import CONTROLS
from vpfb_core.uses.ood.scores import is_ready
from vpfb_core.uses.plotting.figure import figure, png

CLUSTERS, NEIGHBOURS = 10, 5
MOST_TRAINING, MOST_UNSEEN, MOST_STATES, OUTLIERS = 2_000, 500, 800, 150
CHAIN_STEPS = (0, 200, 800)
SCORES = ("multiscale", "energy", "gradient")
RING, GRID, HALF = "eight-gaussians", 96, 2.2


def trained(name: str, seconds: float, arguments: argparse.Namespace, **settings: Any) -> Model:
    """The model of a set, trained now unless its run is finished."""
    given = dict(parse_setting(text) for text in arguments.set)
    length = {} if "steps" in given else {"time_budget": seconds}
    config = vpfb.TrainConfig(
        data=name, method="latent", device=arguments.device, threads=torch.get_num_threads(),
        out=str(arguments.runs / f"latent-{name}"), resume="auto", **length, **settings, **given,
    )  # fmt: skip
    return vpfb.load(vpfb.train(config).run.path, device=arguments.device)


def parts(model: Model, name: str) -> tuple[InMemory, InMemory]:
    """Training images and unseen images with their labels."""
    everything = vpfb.data.load(name, conditional=True, **model.reading)
    rows, held_out = vpfb.data.split(everything, 0.5 if not has_splits(name) else 0.1, 0)
    unseen = everything.subset(held_out)
    if has_splits(name):
        unseen = vpfb.data.load(f"{name}:test", conditional=True, **model.reading, limit=MOST_UNSEEN)
    return everything.subset(rows[:MOST_TRAINING]), unseen


def judged(known: Tensor, labels: Tensor, codes_: Tensor, truth: Tensor) -> dict[str, float]:
    """The accuracy of nearest neighbours for some codes, and the agreement of their clusters with the labels."""
    classifier = KNeighborsClassifier(NEIGHBOURS).fit(known, labels)
    clusters = codes.cluster(codes_, CLUSTERS).labels
    return {
        "neighbours": float(classifier.score(codes_, truth)),
        "information": float(normalized_mutual_info_score(truth, clusters)),
    }


def of_codes(model: Model, seen: InMemory, unseen: InMemory) -> dict[str, dict[str, float]]:
    """What codes, as many principal components, and pixels say about the labels of unseen images."""
    assert seen.labels is not None
    assert unseen.labels is not None
    y, truth = seen.labels[:, 0], unseen.labels[:, 0]
    x, of_unseen = (model.standardise(each.data).flatten(1).cpu() for each in (seen, unseen))
    began = time.monotonic()
    known, found = model.encode(seen.data), model.encode(unseen.data)
    milliseconds = 1e3 * (time.monotonic() - began) / (len(seen) + len(unseen))
    components = PCA(known.shape[1], random_state=0).fit(x)
    of_pca = (torch.from_numpy(components.transform(each)) for each in (x, of_unseen))
    known_pca, found_pca = of_pca
    return {
        "codes": judged(known, y, found, truth) | {"numbers": known.shape[1], "milliseconds": milliseconds},
        "principal components": judged(known_pca, y, found_pca, truth) | {"numbers": known.shape[1]},
        "pixels": judged(x, y, of_unseen, truth) | {"numbers": x.shape[1]},
    }


def two_samples(model: Model, seen: InMemory, unseen: InMemory) -> dict[str, float]:
    """The accuracy of 1 nearest neighbour that tells states of the model from noised unseen images; 0.5 is perfect."""
    field: Any = model.field
    count = min(MOST_STATES, len(unseen), len(seen), len(field.pool))
    d = field.dimension

    def noised(images: InMemory, stream: str) -> Tensor:
        z = model.standardise(images.data[:count]).flatten(1)
        return field.signal * z + field.noise * noise.normal((d,), 0, range(count), stream).to(z)

    real = noised(unseen, "unseen").cpu()
    found = {"training images": noised(seen, "seen"), "pool": field.pool[:count, :d]}
    draws = noise.normal((d + field.codes,), 1, range(count), "fresh").to(field.pool)
    start = field.generate(draws[:, d:], draws[:, :d])
    for steps in CHAIN_STEPS:
        state = start
        if steps:
            scale = float(field.step_sizes[OF_POOL]) * start.shape[1] ** (1 / 3)
            state = langevin(field.joint(), start, scale, steps=steps, seed=0, stream="fresh").x
        found["decoder alone" if not steps else f"fresh, {steps} steps"] = state[:, :d]
    return {name: nearest(states.cpu(), real).accuracy for name, states in found.items()}


def detections(model: Model, inside: Tensor, outside: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    """The AUROC of each score for each set of outliers."""
    of_inside = {name: score(model, inside, name, batch_size=256) for name in SCORES if is_ready(model, name)}
    return {
        out: {
            name: compare(known, score(model, images, name, batch_size=256)).auroc for name, known in of_inside.items()
        }
        for out, images in outside.items()
    }


def show_images(model: Model, name: str, unseen: InMemory) -> None:
    """Pictures of samples, of the clusters of unseen images, and of the way between codes."""
    place = folder(model.device)
    for start in ("pool", "fresh"):
        tiled = pictures.tile(model.sample(64, start=start).images)
        (place / f"latent-{name}-{start}.png").write_bytes(pictures.png(tiled))
    found = codes.Codes.join(list(codes.encoded(model.encode, unseen)))
    groups = codes.montage(unseen, found, codes.cluster(found.values, CLUSTERS))
    (place / f"latent-{name}-groups.png").write_bytes(pictures.png(groups))
    between = model.interpolate(found.values[:5], found.values[5:10], 10)
    (place / f"latent-{name}-between.png").write_bytes(pictures.png(pictures.tile(between.flatten(0, 1), columns=10)))


def images(name: str, seconds: float, arguments: argparse.Namespace) -> dict[str, Any]:
    """All figures of a set of images."""
    model = trained(name, seconds, arguments, **({} if has_splits(name) else {"val_fraction": 0.5}))
    seen, unseen = parts(model, name)
    inside = unseen.data[:OUTLIERS]
    outside = {out: change(inside) for out, change in CONTROLS.items()}
    outside |= {out: vpfb.data.load(out, split="test", limit=OUTLIERS, **model.reading).data for out in arguments.out}
    found: dict[str, Any] = {
        "training": training(model), "parameters": model.parameter_count, "unseen": len(unseen),
        "codes": of_codes(model, seen, unseen), "two_samples": two_samples(model, seen, unseen),
        "auroc": detections(model, inside, outside),
    }  # fmt: skip
    show_images(model, name, unseen)
    show(
        [f"{name}, {len(unseen)} unseen", "numbers", f"{NEIGHBOURS} neighbours", "information of clusters"],
        [
            [what, row["numbers"], f"{row['neighbours']:.3f}", f"{row['information']:.3f}"]
            for what, row in found["codes"].items()
        ],
    )
    show(["states", "1-NN accuracy"], [[what, f"{value:.3f}"] for what, value in found["two_samples"].items()])
    show(
        ["AUROC", *next(iter(found["auroc"].values()))],
        [[out, *(f"{value:.3f}" for value in row.values())] for out, row in found["auroc"].items()],
    )
    return found


def noised_ring(model: Model, points: Tensor) -> Tensor:
    """The exact density of the noised ring of eight Gaussians at points (N, 2), float64 (N,)."""
    field: Any = model.field
    turn = 2 * math.pi * torch.arange(plane.GAUSSIANS, dtype=torch.float64) / plane.GAUSSIANS
    centres = plane.GAUSSIANS_RADIUS * torch.stack([turn.cos(), turn.sin()], 1)
    means = field.signal * model.standardise(centres).double()
    std = torch.tensor(model.statistics.to_dict()["std"], dtype=torch.float64)
    spread = ((field.signal * plane.GAUSSIANS_STD / std).square() + field.noise**2).sqrt()
    squares = ((points.double()[:, None] - means) / spread).square().sum(2)
    return (-0.5 * squares).exp().mean(1) / (2 * math.pi * spread.prod())


def ring(seconds: float, arguments: argparse.Namespace) -> dict[str, Any]:
    """The learned density of the noised ring of eight, beside the exact one, and the total variation between them."""
    model = trained(RING, seconds, arguments)
    field: Any = model.field
    axis = torch.linspace(-HALF, HALF, GRID)
    points = torch.cartesian_prod(axis, axis).to(field.pool)
    cell = float(axis[1] - axis[0]) ** 2
    energy = torch.cat([field.energy(part, field.level) for part in points.split(2048)])
    learned = (-energy.double()).exp()
    constant = math.log(float(learned.sum()) * cell)  # log Z, on the grid
    learned /= learned.sum() * cell
    exact = noised_ring(model, points)
    drawing = figure(8, 4)
    for place, (title, values) in enumerate((("exact", exact), ("learned", learned)), start=1):
        axes = drawing.add_subplot(1, 2, place)
        axes.imshow(
            values.reshape(GRID, GRID).T.cpu(), origin="lower", extent=(-HALF, HALF, -HALF, HALF),
            vmin=0.0, vmax=float(exact.max()),
        )  # fmt: skip
        axes.set_title(title)
    (folder(model.device) / "latent-ring.png").write_bytes(png(drawing))
    calibration: Any = model.calibration
    return {
        "training": training(model), "level": field.level,
        "total_variation": float((learned - exact).abs().sum()) * cell / 2,
        "log_partition": {
            "on the grid": constant,
            "annealed": None if calibration is None else [calibration.log_partition, calibration.error],
        },
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="+", help="sets of images, or ring")
    parser.add_argument("--seconds", type=float, nargs="+", default=[60.0], help="time budget of each, in order")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of all runs")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--out", nargs="*", default=["noise", "constant"], help="sets of outliers")
    arguments = parsed(parser)
    for index, name in enumerate(arguments.data):
        seconds = arguments.seconds[min(index, len(arguments.seconds) - 1)]
        found = ring(seconds, arguments) if name == "ring" else images(name, seconds, arguments)
        if name == "ring":
            print(found)
        record(f"latent-{name}", {"seconds": seconds, **found}, arguments.device.replace("auto", "cpu"))


if __name__ == "__main__":
    main()
