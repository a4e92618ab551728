"""FID's network with weights drawn at random, against torch-fidelity's own with the same weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torch_fidelity import KEY_METRIC_KID_MEAN, FeatureExtractorInceptionV3, calculate_metrics

from vpfb_core.errors import CheckpointError, ConfigError, MissingError
from vpfb_core.uses.evaluation import distances, features, inception, weights

pytestmark = pytest.mark.filterwarnings("ignore:.*not the file that FID is defined with")
SHAPE = (3, 9, 9)


class Images(Dataset[Tensor]):
    """As torch-fidelity takes them."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


def images(n: int, channels: int = 3, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (n, channels, 9, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Random weights under which activations keep their size through all layers, written as the real ones are."""
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        patch.setattr(weights, "read_inception", lambda _path: NoWeights(Path(), {}, ""))
        network = inception.Inception(inception.NAME, ["2048"], feature_extractor_weights_path=path)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("conv.weight"):
                parameter *= 6**0.5  # from torch's default to that of He et al. 2015, for ReLU
    torch.save(network.state_dict(), path)
    yield path
    path.unlink()  # 91 MB


class NoWeights(weights.Weights):
    def load_into(self, network: torch.nn.Module, name: str) -> None:
        pass


def extractor(path: Path | None, download: bool = False) -> features.Extractor:
    return features.find("inception", path, "digits", SHAPE, torch.device("cpu"), download=download)


@pytest.fixture(scope="module")
def found(path: Path) -> features.Extractor:
    """The extractor with these weights."""
    return extractor(path)


def test_features_are_torch_fidelitys_own(path: Path, found: features.Extractor) -> None:
    theirs = FeatureExtractorInceptionV3("theirs", ["2048"], feature_extractor_weights_path=path)
    colour, grey = images(2), images(1, channels=1)
    with torch.no_grad():
        expected = theirs(torch.cat([colour, grey.repeat(1, 3, 1, 1)]))[0]
    assert expected.std() > 1e-3, "weights that tell images apart"
    assert torch.allclose(found.features(colour, torch.device("cpu"), batch_size=1), expected[:2], atol=1e-5)
    assert torch.allclose(found.compute(grey), expected[2:], atol=1e-5), "grey is three equal channels"


@pytest.mark.slow
def test_a_figure_is_torch_fidelitys_over_the_registered_extractor(path: Path, found: features.Extractor) -> None:
    sets = [images(2), images(2, seed=1) // 2]
    theirs = calculate_metrics(
        input1=Images(sets[0]), input2=Images(sets[1]), kid=True, kid_subsets=1, kid_subset_size=2, cuda=False,
        feature_extractor=inception.NAME, feature_extractor_weights_path=path, verbose=False, save_cpu_ram=True,
        feature_layer_kid=inception.LAYER, cache=False,
    )[KEY_METRIC_KID_MEAN]  # fmt: skip
    one, other = (found.features(each, torch.device("cpu"), batch_size=2) for each in sets)
    assert inception.kid(one, other, seed=0)[0] == pytest.approx(theirs, rel=1e-4)
    assert distances.kernel(one, other) == pytest.approx(theirs, rel=1e-4), "kernel is the same over other features"


def test_fid_and_kid_grow_with_the_distance() -> None:
    real, samples = (torch.randn(40, 6, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    for measure in (inception.fid, lambda one, other: inception.kid(one, other, seed=0)[0]):
        near, far = measure(samples, real), measure(samples + 2, real)
        assert far > near + 1
    assert inception.fid(real, real) == pytest.approx(0, abs=1e-4)
    assert inception.fid(samples, real) == pytest.approx(distances.frechet(samples, real), rel=1e-4)


def test_the_subsets_of_kid_depend_on_the_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inception, "KID_SUBSET_SIZE", 10)
    real, samples = (torch.randn(40, 6, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert inception.kid(samples, real, 2**63 - 1) == inception.kid(samples, real, 2**63 - 1)
    assert inception.kid(samples, real, 1) != inception.kid(samples, real, 2)


def test_the_hash_of_the_weights_stands_beside(path: Path, found: features.Extractor) -> None:
    assert found.weights == weights.read(path).digest
    assert "299" in found.resize


def test_the_global_generator_is_left_alone(path: Path) -> None:
    before = torch.random.get_rng_state()
    extractor(path)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_another_networks_weights_are_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="does not fit the Inception network of FID"):
        extractor(tmp_path / "w.pth")


def test_without_weights_or_the_extra_nothing_takes_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingError, match="weights of FID are not here"):
        extractor(None)
    monkeypatch.setattr(features, "has_torch_fidelity", lambda: False)
    with pytest.raises(MissingError, match="torch-fidelity") as raised:
        extractor(None)
    assert raised.value.hint == 'pip install "vpfb[fid]"'


def test_pixels_take_no_weights(path: Path) -> None:
    with pytest.raises(ConfigError, match="takes no `weights_path`"):
        features.find("pixels", path, "digits", SHAPE, torch.device("cpu"), download=False)
