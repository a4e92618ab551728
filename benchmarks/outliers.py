"""The outliers of a folder: vpfb against what people would do without it.

    VPFB_DATA=data python benchmarks/outliers.py
    VPFB_DATA=data python benchmarks/outliers.py --write-others others   # other faces, for a model
    vpfb train --data others --size 32 --time-budget 20m --out runs/faces
    VPFB_DATA=data python benchmarks/outliers.py -m runs/faces --seeds 0 --name outliers-model

A folder has 285 faces at 32×32 pixels and 15 outliers: four faces upside down, four blurred, four of another crop, and
three textures. There are five folders per seed, and no face is in two of them. The faces are every fifth file of
`faces64` in the order of their names; the model is trained on the others. `faces64` and `textures64` are folders of
images of 64×64 pixels in the folder of data sets. In a folder, each picture is left out of its own neighbours. AUROC
and the number of outliers among the first 15 are means over all folders, with the standard error over folders. The
digits that the built-in model held out are compared with those that it was trained on.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import torch
from record import parsed, record, show, training
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.functional import gaussian_blur

import vpfb_core as vpfb
from vpfb_core.data import ImageSet
from vpfb_core.uses.ood import compare, fit_reference, fixed
from vpfb_core.uses.ood.ranking import Ranking, rank, rank_without_model
from vpfb_core.uses.ood.scores import assess

SIZE, MEMBERS, FOLDERS = 32, 285, 5
KINDS = {"upside down": 4, "blurred": 4, "other crop": 4, "texture": 3}
OUTLIERS = sum(KINDS.values())
EVERY = 5  # of the faces is for the folders
Folder = tuple[Tensor, np.ndarray]  # images, uint8 (N, 3, 32, 32), and the kind of each: 0 is a member
Method = Callable[[Tensor], np.ndarray]  # images to scores, higher for outliers


def reduced(images: Tensor) -> Tensor:
    """Images at 32×32 pixels, uint8."""
    small = F.interpolate(images.float(), (SIZE, SIZE), mode="bicubic", antialias=True)
    return small.round().clamp(0, 255).to(torch.uint8)


def cropped(images: Tensor, draws: np.random.Generator) -> Tensor:
    """A part of 36×36 pixels of each image, at a random place."""
    corners = draws.integers(0, images.shape[2] - 36 + 1, (len(images), 2))
    return torch.stack([
        image[:, top : top + 36, left : left + 36] for image, (top, left) in zip(images, corners, strict=True)
    ])  # fmt: skip


def folders(faces: Tensor, textures: Tensor, seed: int) -> list[Folder]:
    """Five folders. Each has faces and textures of its own."""
    draws = np.random.default_rng(seed)
    order = torch.from_numpy(draws.permutation(len(faces)))
    others = torch.from_numpy(draws.permutation(len(textures)))
    found = []
    for number in range(FOLDERS):
        rows = order[number * 297 :][:297]
        members, down, blurred, crops = faces[rows].split([MEMBERS, *list(KINDS.values())[:3]])
        outliers = [
            reduced(down.flip(2)),
            gaussian_blur(reduced(blurred), 9, 1.5),
            reduced(cropped(crops, draws)),
            reduced(textures[others[number * 3 :][:3]]),
        ]
        kinds = np.repeat(np.arange(5), [MEMBERS, *KINDS.values()])
        found.append((torch.cat([reduced(members), *outliers]), kinds))
    return found


def hidden(faces: Tensor, textures: Tensor, seed: int) -> dict[str, float]:
    """The AUROC of 30 outliers among 270 faces that may hide each other, without a model, by their kind.

    The copies differ from each other by noise of three grey levels.
    """
    draws = torch.Generator().manual_seed(seed)
    rows, others = (torch.randperm(len(each), generator=draws) for each in (faces, textures))
    members, down = reduced(faces[rows[:270]]), reduced(faces[rows[270:300]]).flip(2)
    patterns = reduced(textures[others[:30]])

    def copies(image: Tensor) -> Tensor:
        noisy = image + 3 * torch.randn(30, *image.shape, generator=draws)
        return noisy.round().clamp(0, 255).to(torch.uint8)

    kinds = {
        "30 copies of a face upside down": copies(down[0]),
        "30 copies of a texture": copies(patterns[0]),
        "30 faces upside down": down,
        "30 textures": patterns,
    }
    answers = np.repeat([0, 1], [270, 30])
    return {
        kind: float(
            roc_auc_score(answers, scores_of(rank_without_model(ImageSet("folder", torch.cat([members, outliers])))))
        )
        for kind, outliers in kinds.items()
    }


def neighbours(features: Callable[[Tensor], np.ndarray], reference: Tensor | None = None) -> Method:
    """The mean distance from the five nearest of the other pictures of the folder, or of other pictures."""
    known = None if reference is None else NearestNeighbors(n_neighbors=5).fit(features(reference))

    def score(images: Tensor) -> np.ndarray:
        if known is not None:
            return known.kneighbors(features(images))[0].mean(1)
        return NearestNeighbors(n_neighbors=5).fit(features(images)).kneighbors()[0].mean(1)

    return score


def pixels(images: Tensor) -> np.ndarray:
    return images.flatten(1).double().numpy() / 255


def gradients(images: Tensor) -> np.ndarray:
    return fixed.describe_fixed(images)["shape"].numpy()


def pca(images: Tensor) -> np.ndarray:
    """The squared distance from the space of 50 principal components."""
    values = pixels(images)
    space = PCA(50, random_state=0).fit(values)
    return ((values - space.inverse_transform(space.transform(values))) ** 2).sum(1)


def isolation_forest(images: Tensor) -> np.ndarray:
    values = PCA(50, random_state=0).fit_transform(pixels(images))
    return -IsolationForest(n_estimators=300, random_state=0).fit(values).score_samples(values)


def lof(images: Tensor) -> np.ndarray:
    return -LocalOutlierFactor(20).fit(pixels(images)).negative_outlier_factor_


def scores_of(ranking: Ranking) -> np.ndarray:
    scores = np.empty(len(ranking.ranked))
    for one in ranking.ranked:
        scores[one.index] = one.score
    return scores


def measured(method: Method, found: list[Folder]) -> dict[str, Any]:
    """The figures of a method over the folders."""
    areas, hits, by_kind, seconds = [], [], [], time.perf_counter()
    for images, kinds in found:
        scores = method(images)
        areas.append(roc_auc_score(kinds > 0, scores))
        hits.append(int((kinds[np.argsort(-scores, kind="stable")[:OUTLIERS]] > 0).sum()))
        by_kind.append([
            roc_auc_score(kinds[(kinds == 0) | (kinds == kind)], scores[(kinds == 0) | (kinds == kind)])
            for kind in range(1, 5)
        ])  # fmt: skip
    error = len(found) ** 0.5
    return {
        "auroc": float(np.mean(areas)),
        "auroc_error": float(np.std(areas, ddof=1) / error),
        "hits": float(np.mean(hits)),
        "hits_error": float(np.std(hits, ddof=1) / error),
        "auroc_by_kind": dict(zip(KINDS, np.mean(by_kind, 0).tolist(), strict=True)),
        "seconds_per_folder": (time.perf_counter() - seconds) / len(found),
    }


def held_out_alike() -> dict[str, Any]:
    """How the built-in model judges the digits that its training held out, compared with those that it saw."""
    model, digits = vpfb.load("digits", device="cpu"), vpfb.data.load("digits", conditional=True)
    parts = model.split_of(digits)
    assert parts is not None
    verdict = assess(model, digits.images)
    assert verdict.p_value is not None
    seen, held_out = (verdict.score[rows] for rows in parts)
    found = compare(seen, held_out)
    alarms = {str(rate): float((verdict.p_value[parts[1]] <= rate).double().mean()) for rate in (0.5, 0.1, 0.05, 0.01)}
    return {"auroc": found.auroc, "auroc_ci": found.auroc_ci, "held_out_at_most": alarms}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-m", "--model", help="a model of other faces")
    parser.add_argument("--data-root", type=Path, default=os.environ.get("VPFB_DATA", "."))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--members", type=int, help="fit the reference of the model again, to this number of faces")
    parser.add_argument("--write-others", type=Path, help="only make this folder of links to the other faces")
    parser.add_argument("--name", default="outliers")
    arguments = parsed(parser)
    source = Path(arguments.data_root) / "faces64"
    everything = vpfb.data.load(str(source), size=64, channels=3)
    files = everything.files or ()
    if arguments.write_others is not None:
        arguments.write_others.mkdir(parents=True)
        for file in (file for number, file in enumerate(files) if number % EVERY):
            (arguments.write_others / file).symlink_to((source / file).resolve())
        return
    textures = vpfb.data.load(str(Path(arguments.data_root) / "textures64"), size=64, channels=3).images
    found = [folder for seed in arguments.seeds for folder in folders(everything.images[::EVERY], textures, seed)]
    others = reduced(torch.cat([everything.images[first::EVERY] for first in range(1, EVERY)])[:: EVERY - 1])
    methods: dict[str, Method] = {
        "vpfb, the folder alone": lambda images: scores_of(rank_without_model(ImageSet("folder", images))),
        "HOG neighbours in the folder": neighbours(gradients),
        "HOG neighbours among other faces": neighbours(gradients, others),
        "pixel neighbours in the folder": neighbours(pixels),
        "pixel neighbours among other faces": neighbours(pixels, others),
        "PCA": pca,
        "isolation forest": isolation_forest,
        "LOF": lof,
    }
    figures: dict[str, Any] = {"seeds": arguments.seeds, "folders": len(found), "digits": held_out_alike()}
    if arguments.model is not None:
        model = vpfb.load(arguments.model, device=arguments.device)
        if arguments.members is not None:
            model.reference = fit_reference(model, others, count=arguments.members)
        methods = {
            "vpfb, model of other faces": lambda images: scores_of(rank(model, ImageSet("folder", images)))
        } | methods
        figures["model"] = training(model)
    figures["methods"] = {name: measured(method, found) for name, method in methods.items()}
    show(
        ["method", "AUROC", "among the first 15", *KINDS],
        [
            [
                name,
                f"{each['auroc']:.3f} ± {each['auroc_error']:.3f}",
                f"{each['hits']:.1f} ± {each['hits_error']:.1f}",
                *(f"{area:.3f}" for area in each["auroc_by_kind"].values()),
            ]
            for name, each in figures["methods"].items()
        ],
    )
    each = [hidden(everything.images[::EVERY], textures, 5 * seed + i) for seed in arguments.seeds for i in range(5)]
    figures["many_outliers"] = {kind: float(np.mean([one[kind] for one in each])) for kind in each[0]}
    show(["30 outliers among 300, AUROC without a model", ""], [*figures["many_outliers"].items()])
    figures["versions"] = {"scikit-learn": sklearn.__version__}
    record(arguments.name, figures)


if __name__ == "__main__":
    main()
