"""What images are compared by, without FID's network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.models import ResNet, resnet18
from torchvision.transforms.v2 import functional as transforms

from vpfb_core.errors import CheckpointError, ConfigError, MissingError
from vpfb_core.uses.evaluation import features, weights

CPU = torch.device("cpu")


def images(n: int, channels: int = 3, size: int = 9) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, channels, size, size), dtype=torch.uint8, generator=generator)


def find(name: str, path: Path | None = None) -> features.Extractor:
    return features.find(name, path, "digits", (3, 9, 9), CPU, download=False)


def resnet(path: Path, classes: int = 1000) -> ResNet:
    """A network that is drawn at random, and its file."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = resnet18(num_classes=classes).eval()
    torch.save(network.state_dict(), path)
    return network


def test_pixels_are_the_image() -> None:
    pixels = find("pixels")
    assert (pixels.weights, pixels.resize) == (None, "none")
    heard: list[int] = []
    found = pixels.features(images(5), CPU, batch_size=2, on_batch=heard.append)
    assert torch.equal((found * 255).round().to(torch.uint8).view(5, 3, 9, 9), images(5))
    assert heard == [2, 2, 1]


@pytest.mark.parametrize("classes", [7, pytest.param(1000, marks=pytest.mark.slow)])
def test_torchvisions_features_are_what_its_last_layer_sees(tmp_path: Path, classes: int) -> None:
    network = resnet(tmp_path / "w.pth", classes)
    seen: list[Tensor] = []
    network.fc.register_forward_pre_hook(lambda _layer, inputs: seen.append(inputs[0]))
    found = find("torchvision:resnet18", tmp_path / "w.pth")
    assert found.weights == weights.read(tmp_path / "w.pth").digest
    enlarged = transforms.resize(images(2), [224, 224], antialias=True)  # rounds to grey levels
    with torch.no_grad():
        network(transforms.normalize(enlarged.float() / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    computed = found.features(images(2), CPU, batch_size=2)
    assert computed.shape == (2, 512)
    assert (computed - seen[0]).abs().max() < 0.02 * seen[0].abs().max()


def test_torchvisions_weights_must_be_there_and_fit(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="torchvision:resnet18` needs its weights"):
        find("torchvision:resnet18")
    resnet(tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="does not fit resnet34"):
        find("torchvision:resnet34", tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("name", "hint"),
    [("pixel", "did you mean 'pixels'"), ("vgg", "features: pixels"), ("torchvision:", "torchvision:ARCH")],
)
def test_an_unknown_extractor_is_an_error_with_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(ConfigError) as raised:
        find(name)
    assert hint in str(raised.value.hint)


def test_an_unknown_architecture_is_an_error_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="resnet19") as raised:
        find("torchvision:resnet19")
    assert "torchvision:resnet1" in str(raised.value.hint)
    with pytest.raises(ConfigError, match="no linear layer whose input"):
        find("torchvision:squeezenet1_0", Path("w.pth"))


def test_without_a_name_the_best_that_is_here_is_chosen(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def choose(path: Path | None = None, fid_meant: bool = False) -> str:
        return features.choose(path, "digits", (1, 8, 8), fid_meant=fid_meant)

    assert choose() == "pixels"
    assert choose(fid_meant=True) == choose(path=tmp_path / "w.pth") == "inception"
    fitted = tmp_path / "classifier"
    monkeypatch.setattr(features.classifier, "find", lambda _identity, _shape: fitted)
    assert choose() == "classifier"
    weights_file = cache / "torch" / "hub" / "checkpoints" / weights.INCEPTION_FILES[0]
    weights_file.parent.mkdir(parents=True)
    weights_file.touch()
    assert choose() == "inception"
    monkeypatch.setattr(features, "has_torch_fidelity", lambda: False)
    assert choose() == "classifier"


def test_features_that_are_not_finite_are_an_error() -> None:
    broken = features.Extractor("broken", None, "none", lambda images: images.flatten(1) / 0)
    with pytest.raises(CheckpointError, match="not finite"):
        broken.features(images(2), CPU, batch_size=2)
