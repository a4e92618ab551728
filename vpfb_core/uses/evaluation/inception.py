"""FID and KID: the 2015 Inception network through torch-fidelity (the extra `fid`); imported only where they are meant.

torch-fidelity's own extractor unpickles its weights without `weights_only`, and so does its cache of features. Ours has
the same layers and takes its weights from `weights.read`; only the library's arithmetic on features is used besides.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch_fidelity import (
    KEY_METRIC_FID,
    KEY_METRIC_KID_MEAN,
    KEY_METRIC_KID_STD,
    FeatureExtractorBase,
    FeatureExtractorInceptionV3,
    register_feature_extractor,
)
from torch_fidelity import feature_extractor_inceptionv3 as layers
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric

from vpfb_core.machine import noise
from vpfb_core.uses.evaluation import weights

NAME = "inception-v3-weights-only"  # as torch-fidelity knows it: calculate_metrics(feature_extractor=NAME, …)
LAYER = "2048"  # the pooled features that FID and KID are defined on
KID_SUBSETS, KID_SUBSET_SIZE = 100, 1000


class Inception(FeatureExtractorInceptionV3):
    """torch-fidelity's FID Inception, uint8 (N, 3, H, W) → a tuple with (N, 2048); its weights are not unpickled."""

    def __init__(
        self,
        name: str,
        features_list: list[str],
        feature_extractor_weights_path: str | Path | None = None,
        **_settings: Any,
    ) -> None:
        # Not the parent's: it would load the weights. What follows are its layers, by the names that the weights have.
        FeatureExtractorBase.__init__(self, name, features_list)
        self.feature_extractor_internal_dtype = torch.float32
        self.Conv2d_1a_3x3 = layers.BasicConv2d(3, 32, kernel_size=3, stride=2)
        self.Conv2d_2a_3x3 = layers.BasicConv2d(32, 32, kernel_size=3)
        self.Conv2d_2b_3x3 = layers.BasicConv2d(32, 64, kernel_size=3, padding=1)
        self.MaxPool_1 = nn.MaxPool2d(kernel_size=3, stride=2)
        self.Conv2d_3b_1x1 = layers.BasicConv2d(64, 80, kernel_size=1)
        self.Conv2d_4a_3x3 = layers.BasicConv2d(80, 192, kernel_size=3)
        self.MaxPool_2 = nn.MaxPool2d(kernel_size=3, stride=2)
        self.Mixed_5b = layers.InceptionA(192, pool_features=32)
        self.Mixed_5c = layers.InceptionA(256, pool_features=64)
        self.Mixed_5d = layers.InceptionA(288, pool_features=64)
        self.Mixed_6a = layers.InceptionB(288)
        self.Mixed_6b = layers.InceptionC(768, channels_7x7=128)
        self.Mixed_6c = layers.InceptionC(768, channels_7x7=160)
        self.Mixed_6d = layers.InceptionC(768, channels_7x7=160)
        self.Mixed_6e = layers.InceptionC(768, channels_7x7=192)
        self.Mixed_7a = layers.InceptionD(768)
        self.Mixed_7b = layers.InceptionE_1(1280)
        self.Mixed_7c = layers.InceptionE_2(2048)
        self.AvgPool = nn.AdaptiveAvgPool2d(output_size=(1, 1))
        self.fc = nn.Linear(2048, 1008)
        path = None if feature_extractor_weights_path is None else Path(feature_extractor_weights_path)
        self.weights = weights.read_inception(weights.find_inception(path, download=True))
        self.weights.load_into(self, "the Inception network of FID")
        self.requires_grad_(False).eval()


register_feature_extractor(NAME, Inception)


def fid(samples: Tensor, real: Tensor) -> float:
    """The Fréchet Inception distance of features (N, 2048): Heusel et al. 2017 (arXiv 1706.08500)."""
    statistics = [fid_features_to_statistics(features.cpu()) for features in (samples, real)]
    return float(fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID])


def kid(samples: Tensor, real: Tensor, seed: int) -> tuple[float, float]:
    """The kernel Inception distance of features (N, 2048), mean and deviation over random subsets.

    Bińkowski et al. 2018 (arXiv 1801.01401). 100 subsets of 1,000, or of as many as there are.
    """
    found = kid_features_to_metric(
        samples.cpu(),
        real.cpu(),
        kid_subsets=KID_SUBSETS,
        kid_subset_size=min(KID_SUBSET_SIZE, len(samples), len(real)),
        rng_seed=noise.derive_seed(seed, "kid") % 2**32,  # all that NumPy's old generator takes
        verbose=False,
    )
    return float(found[KEY_METRIC_KID_MEAN]), float(found[KEY_METRIC_KID_STD])
