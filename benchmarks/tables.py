"""Densities and outliers of tables: vpfb beside common density estimators and outlier detectors, in one run.

    python benchmarks/tables.py [--splits 3]

Tables: wine (178 x 13), breast cancer (569 x 30) and digits (1,797 x 64, whole numbers) of scikit-learn. Each
split holds out a fifth of the rows for the test. Every estimator sees standardised columns (digits are first spread
over their cells, by the same draws for all) and is fitted to the other rows with its own settings chosen on them:

- Gaussian mixture: full covariances, 1 to 6 components and two floors of the variance, chosen by BIC;
- kernel density: bandwidth by five-fold cross-validation;
- neural spline flow of zuko: three transformations of two hidden layers of 64, Adam, early stopping on a tenth;
- vpfb: `vpfb.train(TrainConfig(data=rows))` with its defaults, log-density by the flow.

Outliers: rows of the test part beside as many rows in which each column is drawn from the training rows independently
of the others, so that no column is unusual; and, for breast cancer, benign against malignant tumours. Isolation
forest, LOF and PCA (squared error of reconstruction with 95 % of the variance) have their defaults.

Needs scikit-learn and zuko. Prints tables and writes benchmarks/results/cpu/tables.json.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import zuko
from record import record, show
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KernelDensity, LocalOutlierFactor

import vpfb_core as vpfb

LOADERS: dict[str, Callable[[], Any]] = {"wine": load_wine, "breast cancer": load_breast_cancer, "digits": load_digits}
Scorer = Callable[[np.ndarray], np.ndarray]


def mixture(train: np.ndarray, seed: int) -> Scorer:
    """A Gaussian mixture chosen by BIC."""
    fitted = [
        GaussianMixture(count, reg_covar=floor, random_state=seed).fit(train)
        for count in range(1, 7)
        for floor in (1e-3, 1e-2)
    ]
    return min(fitted, key=lambda each: each.bic(train)).score_samples


def kernel_density(train: np.ndarray, seed: int) -> Scorer:
    """A Gaussian kernel density whose bandwidth is chosen by cross-validation."""
    del seed
    search = GridSearchCV(KernelDensity(), {"bandwidth": np.geomspace(0.05, 2, 25)}, cv=5)
    return search.fit(train).best_estimator_.score_samples


def spline_flow(train: np.ndarray, seed: int) -> Scorer:
    """A neural spline flow of zuko with early stopping."""
    torch.manual_seed(seed)
    rows = torch.from_numpy(train).float()
    order = torch.randperm(len(rows))
    held, used = rows[order[: len(rows) // 10]], rows[order[len(rows) // 10 :]]
    flow = zuko.flows.NSF(train.shape[1], transforms=3, hidden_features=(64, 64))
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-3, weight_decay=1e-4)
    best, state, waited = float("inf"), flow.state_dict(), 0
    for _ in range(200):
        for batch in used[torch.randperm(len(used))].split(128):
            optimizer.zero_grad()
            (-flow().log_prob(batch).mean()).backward()
            torch.nn.utils.clip_grad_norm_(flow.parameters(), 5)
            optimizer.step()
        with torch.no_grad():
            loss = float(-flow().log_prob(held).mean())
        waited += 1
        if loss < best:
            best, waited = loss, 0
            state = {name: tensor.clone() for name, tensor in flow.state_dict().items()}
        if waited >= 15:
            break
    flow.load_state_dict(state)

    def score(rows: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return flow().log_prob(torch.from_numpy(rows).float()).numpy()

    return score


def train_vpfb(rows: np.ndarray | str, seed: int, **settings: Any) -> vpfb.Model:
    """A model with default settings."""
    with tempfile.TemporaryDirectory() as folder:
        config = vpfb.TrainConfig(data=rows, out=f"{folder}/run", seed=seed, **settings)
        return vpfb.load(vpfb.train(config).run.path, device="cpu")


ESTIMATORS = {"Gaussian mixture": mixture, "kernel density": kernel_density, "spline flow": spline_flow}


def detectors(train: np.ndarray, seed: int) -> dict[str, Scorer]:
    """The usual detectors, whose scores are higher for outliers."""
    forest = IsolationForest(random_state=seed).fit(train)
    factor = LocalOutlierFactor(novelty=True).fit(train)
    axes = PCA(0.95).fit(train)
    return {
        "isolation forest": lambda rows: -forest.score_samples(rows),
        "LOF": lambda rows: -factor.score_samples(rows),
        "PCA": lambda rows: ((rows - axes.inverse_transform(axes.transform(rows))) ** 2).sum(1),
    }


def negative(score: Scorer) -> Scorer:
    """The score with the other sign."""
    return lambda rows: -score(rows)


def auroc(score: Scorer, inside: np.ndarray, outside: np.ndarray) -> float:
    """The AUROC of a score that is higher for outliers."""
    labels = np.repeat([0, 1], [len(inside), len(outside)])
    return float(roc_auc_score(labels, score(np.concatenate([inside, outside]))))


def of_vpfb(model: vpfb.Model) -> tuple[Scorer, dict[str, Scorer]]:
    """The log-density by the flow, and the outlier scores."""

    def density(rows: np.ndarray) -> np.ndarray:
        return model.log_density(torch.from_numpy(rows), method="ode").numpy()

    scores: dict[str, Scorer] = {"vpfb, likelihood": lambda rows: -density(rows)}
    if model.reference is not None:
        scores["vpfb, multiscale"] = lambda rows: model.score(torch.from_numpy(rows)).numpy()
    return density, scores


def measure(name: str, split: int) -> dict[str, Any]:
    """The figures of one split of a table."""
    draws = np.random.default_rng(split)
    rows = LOADERS[name]().data.astype(np.float64)
    if name == "digits":
        rows = rows + draws.uniform(-0.5, 0.5, rows.shape)
    order = draws.permutation(len(rows))
    test, train = rows[order[: len(rows) // 5]], rows[order[len(rows) // 5 :]]
    mean, std = train.mean(0), train.std(0)
    test, train = (test - mean) / std, (train - mean) / std
    mixed = np.stack([draws.choice(column, len(test)) for column in train.T], 1)
    found: dict[str, Any] = {"table": name, "split": split, "log_likelihood": {}, "auroc": {}, "seconds": {}}
    likelihood, aurocs, seconds = found["log_likelihood"], found["auroc"], found["seconds"]
    for label, estimator in ESTIMATORS.items():
        began = time.perf_counter()
        score = estimator(train, split)
        seconds[label] = time.perf_counter() - began
        likelihood[label] = float(score(test).mean())
        aurocs[label] = auroc(negative(score), test, mixed)
    began = time.perf_counter()
    model = train_vpfb(train, split)
    seconds["vpfb"] = time.perf_counter() - began
    density, scores = of_vpfb(model)
    likelihood["vpfb"] = float(density(test).mean())
    for label, score in (detectors(train, split) | scores).items():
        aurocs[label] = auroc(score, test, mixed)
    return found


def tumours(split: int) -> dict[str, Any]:
    """Benign tumours, four fifths of them for training, against malignant ones."""
    cancer = load_breast_cancer()
    benign, malignant = (cancer.data[cancer.target == label].astype(np.float64) for label in (1, 0))
    order = np.random.default_rng(split).permutation(len(benign))
    test, train = benign[order[: len(benign) // 5]], benign[order[len(benign) // 5 :]]
    mean, std = train.mean(0), train.std(0)
    train, test, malignant = ((each - mean) / std for each in (train, test, malignant))
    _, scores = of_vpfb(train_vpfb(train, split))
    scores |= detectors(train, split)
    fitted = {name: ESTIMATORS[name](train, split) for name in ("Gaussian mixture", "kernel density")}
    scores |= {name: negative(score) for name, score in fitted.items()}
    found = {name: auroc(score, test, malignant) for name, score in scores.items()}
    return {"table": "benign against malignant", "split": split, "auroc": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    runs = []
    for split in range(arguments.splits):
        for name in LOADERS:
            with contextlib.redirect_stderr(io.StringIO()):
                runs.append(measure(name, split))
            print(runs[-1], flush=True)
        runs.append(tumours(split))
        print(runs[-1], flush=True)
    for figure in ("log_likelihood", "auroc"):
        print(figure)
        for table in dict.fromkeys(run["table"] for run in runs if figure in run):
            of_table = [run[figure] for run in runs if run["table"] == table]
            rows = [
                [table, name, f"{np.mean(values):.3f}", f"{np.std(values):.3f}"]
                for name in of_table[0]
                if (values := [run[name] for run in of_table])
            ]
            show(["table", "method", "mean of splits", "std"], rows)
    record("tables", {"zuko": zuko.__version__, "runs": runs})


if __name__ == "__main__":
    main()
