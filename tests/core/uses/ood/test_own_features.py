"""Features of a network of one's own, as a further kind of evidence."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import ResNet18_Weights, resnet18

from vpfb_core import data
from vpfb_core.api import Model
from vpfb_core.data import ImageSet, split
from vpfb_core.errors import CheckpointError, ConfigError, MissingError
from vpfb_core.model.reference import OWN
from vpfb_core.uses.evaluation import weights
from vpfb_core.uses.ood import own_features
from vpfb_core.uses.ood.fit import fit_reference
from vpfb_core.uses.ood.ranking import rank, rank_without_model
from vpfb_core.uses.training_set import TrainingSet

CPU = torch.device("cpu")
HELD_OUT = split(data.load("digits"), 0.1, 0)[1]  # the rows of the images of the fixture


class Corner(nn.Module):
    """The pixel at the top left, and nothing else."""

    def forward(self, images: Tensor) -> Tensor:
        return images[:, :, 0, 0]


@pytest.fixture(scope="session")
def corner(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("own") / "corner.pt2"
    sizes = ({0: torch.export.Dim("n")},)
    torch.export.save(torch.export.export(Corner(), (torch.rand(2, 1, 8, 8),), dynamic_shapes=sizes), path)
    return str(path)


def dotted(images: Tensor, row: int) -> Tensor:
    """The images, one of which has a bright pixel at the top left."""
    images = images.clone()
    images[row, :, 0, 0] = 255
    return images


def test_a_ranking_without_a_model_sees_what_only_the_network_sees(digits: tuple[Model, ImageSet], corner: str) -> None:
    _, held_out = digits
    images = ImageSet("folder", dotted(held_out.images[:60], 7))
    compute = own_features.find(corner, None, CPU)
    assert torch.equal(compute(images.data), images.data[:, :, 0, 0].float() / 255)
    found = rank_without_model(images, own=compute)
    assert set(found.ranked[0].evidence) == {"detail", "shape", "shading", "part", OWN}
    row = next(one for one in found.ranked if one.index == 7)
    assert row.evidence[OWN] == min(one.evidence[OWN] for one in found.ranked)
    assert row.evidence[OWN] < 1e-3 < row.evidence["shape"]


def test_a_model_also_scores_by_the_features_of_its_reference_images(
    digits: tuple[Model, ImageSet], corner: str, tmp_path: Path
) -> None:
    model, held_out = digits
    extended = Model.of(model)
    extended.reference = fit_reference(model, held_out.images, count=60, rows=HELD_OUT)
    kinds = set(extended.reference.parts)
    own_features.add(extended, own_features.find(corner, None, CPU), TrainingSet(extended))
    images = ImageSet("folder", dotted(held_out.images[:20], 7))
    ranked = rank(extended, images).ranked
    assert set(ranked[0].evidence) == {*kinds, OWN}
    row = next(one for one in ranked if one.index == 7)
    assert row.evidence[OWN] == min(one.evidence[OWN] for one in ranked) < 1e-3
    assert extended.reference is not None
    assert not [name for name in extended.reference.tensors() if name.startswith(OWN)], "a model file does not get them"


def test_the_members_must_be_at_hand(digits: tuple[Model, ImageSet], corner: str) -> None:
    model = Model.of(digits[0])
    model.reference = fit_reference(model, digits[1].images, count=10, rows=HELD_OUT)
    model.about = {**model.about, "data": {**model.about["data"], "fingerprint": "another"}}
    with pytest.raises(CheckpointError, match="is not as it was"):
        own_features.add(model, own_features.find(corner, None, CPU), TrainingSet(model))


def test_weights_of_torchvision_come_from_its_cache_and_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    name = ResNet18_Weights.DEFAULT.url.rpartition("/")[2]
    with pytest.raises(MissingError, match="needs its weights") as raised:
        own_features.find("torchvision:resnet18", None, CPU)
    assert f"put {name} into {tmp_path}" in str(raised.value.hint)

    with torch.random.fork_rng(devices=[]):
        torch.save(resnet18(num_classes=3).state_dict(), tmp_path / "weights.pth")
    digest = hashlib.sha256((tmp_path / "weights.pth").read_bytes()).hexdigest()
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "weights.pth").rename(tmp_path / "hub" / "checkpoints" / name)
    with pytest.raises(CheckpointError, match=f"is damaged: its SHA-256 begins with {digest[:8]}"):
        own_features.find("torchvision:resnet18", None, CPU)
    right = tmp_path / "hub" / "checkpoints" / f"resnet18-{digest[:8]}.pth"
    (tmp_path / "hub" / "checkpoints" / name).rename(right)
    monkeypatch.setattr(weights, "_torchvision_files", lambda architecture: [name, right.name])
    with pytest.raises(CheckpointError, match="does not fit resnet34"):
        own_features.find("torchvision:resnet34", right, CPU)
    assert own_features.find("torchvision:resnet18", None, CPU)(torch.zeros(2, 1, 8, 8)).shape == (2, 512)


@pytest.mark.parametrize("name", ["pixels", "resnet18", "network.pt", "torchvision:"])
def test_other_features_are_refused_with_those_that_exist(name: str) -> None:
    with pytest.raises(ConfigError) as raised:
        own_features.find(name, None, CPU)
    assert "torchvision:ARCH` or PATH.pt2" in str(raised.value.hint)
