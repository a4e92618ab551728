"""FID and KID with the 2015 Inception network of torch-fidelity (the extra `fid`). Imported only if it is needed.

torch-fidelity unpickles the weights of its extractor and its cache of features without `weights_only`, which could
execute code. The extractor here has the same layers and reads its weights with `weights.read`. Otherwise only the
library's computations on features are used.
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

NAME = "inception-v3-weights-only"  # the name in torch-fidelity: calculate_metrics(feature_extractor=NAME, …)
LAYER = "2048"  # the pooled features of the definitions of FID and KID
KID_SUBSETS, KID_SUBSET_SIZE = 100, 1000


class Inception(FeatureExtractorInceptionV3):
    """torch-fidelity's FID Inception with weights that are not unpickled.

    It maps images, uint8 (N, 3, H, W), to a tuple with features (N, 2048).
    """

    def __init__(
        self,
        name: str,
        features_list: list[str],
        feature_extractor_weights_path: str | Path | None = None,
        **_settings: Any,
    ) -> None:
        # The constructor of the parent class is not called, since it would unpickle the weights. These are its layers.
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
    """The Fréchet Inception distance of features (N, 2048) (Heusel et al. 2017, arXiv 1706.08500)."""
    statistics = [fid_features_to_statistics(features.cpu()) for features in (samples, real)]
    return float(fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID])


def kid(samples: Tensor, real: Tensor, seed: int) -> tuple[float, float]:
    """The kernel Inception distance of features (N, 2048), as mean and standard deviation over random subsets.

    Bińkowski et al. 2018 (arXiv 1801.01401), with 100 subsets of 1,000 images or of all images if there are fewer.
    """
    found = kid_features_to_metric(
        samples.cpu(),
        real.cpu(),
        kid_subsets=KID_SUBSETS,
        kid_subset_size=min(KID_SUBSET_SIZE, len(samples), len(real)),
        rng_seed=noise.derive_seed(seed, "kid") % 2**32,  # the seeds of NumPy's legacy generator have 32 bits
        verbose=False,
    )
    return float(found[KEY_METRIC_KID_MEAN]), float(found[KEY_METRIC_KID_STD])
