"""How well a learned density of features finds outliers among digits of MNIST, beside what needs no training.

    VPFB_DATA=data python benchmarks/feature_density.py

Features are histograms of gradients (HOG), and those of the classifier of vpfb eval --fit-features, each reduced to 32
principal components of the training images. A potential is trained on the table of the features with the defaults of
vpfb train, and judges the sets of outliers of outlier_sets.py by its default score and by the likelihood of its flow.
Beside it are the mean distance from the five nearest training images in the same components, and the Mahalanobis
distance.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from outlier_sets import loaded
from outliers import gradients, neighbours
from record import parsed, record, show
from sklearn.covariance import EmpiricalCovariance
from sklearn.decomposition import PCA
from torch import Tensor

import vpfb_core as vpfb
from vpfb_core.uses.evaluation import classifier
from vpfb_core.uses.ood import compare, score

COMPONENTS = 32
SOURCE = "mnist"


def of_the_classifier(root: Path, shape: tuple[int, ...]) -> Callable[[Tensor], np.ndarray]:
    """The features of the classifier of MNIST, which is trained if it is not in the cache."""
    device = torch.device("cpu")
    path = classifier.find(SOURCE, shape)
    if path is None:
        images = vpfb.data.load(SOURCE, conditional=True, split="train", root=root, download=False)
        path = classifier.fit(images, SOURCE, device).path
    network = classifier.load(path, device).network

    def features(images: Tensor) -> np.ndarray:
        with torch.no_grad():
            return torch.cat([network.features(some) for some in images.split(500)]).double().numpy()

    return features


def methods(train: np.ndarray) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """The scores of rows, higher for outliers."""
    gaussian = EmpiricalCovariance().fit(train)
    nearest = neighbours(lambda rows: rows, train)
    with tempfile.TemporaryDirectory() as folder:
        model = vpfb.load(vpfb.train(vpfb.TrainConfig(data=train, out=f"{folder}/run")).run.path, device="cpu")
    return {
        "vpfb, multiscale": lambda rows: score(model, torch.from_numpy(rows)).numpy(),
        "vpfb, likelihood": lambda rows: score(model, torch.from_numpy(rows), "likelihood").numpy(),
        "neighbours": nearest,
        "Mahalanobis": gaussian.mahalanobis,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=os.environ.get("VPFB_DATA", "."))
    parser.add_argument("--limit", type=int, default=200, help="pictures per set")
    parser.add_argument("--members", type=int, default=10_000, help="training images")
    arguments = parsed(parser)
    trained_on, inside, outside = loaded(SOURCE, arguments.data_root, arguments.limit, arguments.members)
    kinds = {"HOG": gradients, "classifier": of_the_classifier(arguments.data_root, tuple(inside.shape[1:]))}
    found: dict[str, dict[str, dict[str, float]]] = {}
    for kind, features in kinds.items():
        space = PCA(COMPONENTS, random_state=0).fit(features(trained_on))
        rows = {name: space.transform(features(images)) for name, images in ({"": inside} | outside).items()}
        found[kind] = {}
        for name, method in methods(space.transform(features(trained_on))).items():
            scores = {out: torch.from_numpy(np.asarray(method(each), dtype=np.float32)) for out, each in rows.items()}
            found[kind][name] = {out: compare(scores[""], scores[out]).auroc for out in outside}
    table = [
        [kind, name, *(f"{summary(list(areas.values())):.3f}" for summary in (np.mean, min))]
        for kind, each in found.items()
        for name, areas in each.items()
    ]
    show(["features", "score", "mean AUROC", "worst"], table)
    record("feature-density", {"pictures": arguments.limit, "members": arguments.members, "auroc": found})


if __name__ == "__main__":
    main()
