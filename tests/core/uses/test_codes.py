"""The codes of all data of a source and their clusters."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from models import vpfb_model
from PIL import Image
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from vpfb_core import data, networks
from vpfb_core.api import Model
from vpfb_core.data import ImageSet, InMemory, LoadOptions
from vpfb_core.errors import CheckpointError, ConfigError, DataError
from vpfb_core.methods.path.homotopy import OT
from vpfb_core.methods.vpfb.potential import Potential
from vpfb_core.uses import codes
from vpfb_core.uses.evaluation.features import Extractor
from vpfb_core.uses.ood.ranking import rank_without_model


def make() -> Model:
    """A small model with random weights."""
    network = networks.build({"name": "unet", "channels": 1, "size": 4, "widths": [4], "classes": []})
    draws = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=draws)
    return vpfb_model(Potential(network, OT(sigma_min=0.01)), shape=(1, 4, 4))


MODEL = make()


def blobs(sizes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Points around centres that are far apart, and the number of the centre of each."""
    truth = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    draws = torch.Generator().manual_seed(0)
    return 20 * truth[:, None] + torch.randn(len(truth), 3, generator=draws), truth


def test_separate_groups_are_found_and_numbered_by_their_sizes() -> None:
    points, truth = blobs((5, 40, 15, 2))
    order = torch.randperm(len(points), generator=torch.Generator().manual_seed(1))
    found = codes.cluster(points[order], 4)
    assert adjusted_rand_score(truth[order], found.labels) == 1
    assert found.labels.bincount().tolist() == [40, 15, 5, 2]
    assert found.count == 4


def test_the_distance_of_a_point_is_that_from_the_mean_of_its_cluster() -> None:
    points = torch.tensor([[0.0, 0.0], [4.0, 0.0], [2.0, 3.0], [100.0, 0.0]])
    found = codes.cluster(points, 2)
    assert found.labels.tolist() == [0, 0, 0, 1]
    assert found.distance.tolist() == pytest.approx([5**0.5, 5**0.5, 2.0, 0.0])


def test_clusters_depend_on_the_seed_alone_and_every_code_may_be_its_own_cluster() -> None:
    points = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(codes.cluster(points, 7, seed=3).labels, codes.cluster(points, 7, seed=3).labels)
    assert codes.cluster(points[:3], 3).labels.sort().values.tolist() == [0, 1, 2]
    assert codes.cluster(points[[0, 0, 1]], 2).labels.tolist() == [0, 0, 1]


def test_more_clusters_than_different_codes_are_refused() -> None:
    with pytest.raises(ConfigError, match="1 different code cannot be divided into 2 clusters"):
        codes.cluster(torch.ones(5, 2), 2)


def test_the_codes_of_a_large_set_come_in_parts_and_do_not_depend_on_them(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randint(0, 256, (7, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    source = ImageSet("few", images)
    monkeypatch.setattr(codes, "AT_ONCE", 3)
    parts = list(codes.encoded(partial(MODEL.encode, method="heun", nfe=4), source, batch_size=2))
    assert [len(part.names) for part in parts] == [3, 3, 1]
    joined = codes.Codes.join(parts)
    assert joined.names == tuple(f"few#{row}" for row in range(7))
    assert joined.rows.tolist() == list(range(7))
    assert torch.allclose(joined.values, MODEL.encode(images, method="heun", nfe=4).flatten(1), atol=1e-6)


def test_codes_of_a_flow_lead_back_to_the_image_within_a_grey_level(digits: tuple[Model, InMemory]) -> None:
    model, held_out = digits
    images = held_out.images[:4]
    (part,) = codes.encoded(codes.by_model(model), ImageSet("few", images))
    exact = model.encode(images, rtol=1e-3).flatten(1)
    assert (part.values - exact).square().mean().sqrt() < 0.05
    apart = model.decode(part.values.reshape(4, 1, 8, 8), method="arc3", nfe=32) - images.float() / 255
    assert apart.square().mean().sqrt() < 0.5 / 255
    assert not torch.equal(part.values, exact), "that is the fast solver"


def test_files_of_a_streamed_folder_that_cannot_be_read_have_no_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(30):
        Image.new("L", (4, 4), 8 * i).save(tmp_path / f"{i:02d}.png")
    (tmp_path / "07.png").write_bytes(b"no picture")
    monkeypatch.setattr("vpfb_core.data.streaming.STREAMED_FILES", 10)
    source = data.find(str(tmp_path), LoadOptions(size=4, channels=1, stream=True, split="all"))
    assert type(source) is not ImageSet
    monkeypatch.setattr(codes, "AT_ONCE", 12)
    found = codes.Codes.join(list(codes.encoded(partial(MODEL.encode, method="heun", nfe=4), source)))
    assert "07.png" not in found.names
    assert len(found.names) == len(found.values) == 29
    assert [(source.files or ())[row] for row in found.rows.tolist()] == list(found.names)


def test_a_streamed_folder_without_a_readable_file_has_no_codes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(12):
        Image.new("L", (4, 4), 8 * i).save(tmp_path / f"{i:02d}.png")
    monkeypatch.setattr("vpfb_core.data.streaming.STREAMED_FILES", 10)
    monkeypatch.setattr("vpfb_core.data.unreadable.TOLERATED", 1.0)
    source = data.find(str(tmp_path), LoadOptions(size=4, channels=1, stream=True, split="all"))
    for path in tmp_path.iterdir():
        path.write_bytes(b"no picture any more")
    with pytest.raises(DataError, match=r"not one of 12 images of .* could be read"):
        list(codes.encoded(partial(MODEL.encode, method="heun", nfe=4), source))


def test_features_that_are_not_finite_are_refused_with_the_first_file(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = torch.zeros(6, 1, 4, 4, dtype=torch.uint8)
    pixels[4:] = 9
    nan_above_eight = Extractor("net.pt2", None, "", lambda images: torch.where(images > 8, torch.nan, 1.0).flatten(1))
    compute = partial(nan_above_eight.features, device=torch.device("cpu"), batch_size=2)
    source = ImageSet("six", pixels, files=tuple(f"{i}.png" for i in range(6)))
    monkeypatch.setattr(codes, "AT_ONCE", 5)
    with pytest.raises(CheckpointError, match=r"the features of 'net.pt2' are not finite for 4.png"):
        list(codes.encoded(compute, source, batch_size=3))
    with pytest.raises(CheckpointError, match=r"4\.png"):
        rank_without_model(ImageSet("six", pixels, files=source.files), own=compute)


def test_a_montage_has_a_row_for_each_cluster_with_the_nearest_image_first() -> None:
    shades = torch.tensor([10, 30, 20, 200], dtype=torch.uint8)  # 20 is the mean of the first cluster
    source = ImageSet("shades", shades[:, None, None, None].expand(4, 1, 64, 64))
    values = shades.float()[:, None]
    found = codes.Codes(("a", "b", "c", "d"), torch.arange(4), values)
    picture = codes.montage(source, found, codes.cluster(values, 2))
    rows = picture[0, [34, 100]][:, [34, 100, 166]] * 255
    assert rows[0].round().tolist() == [20, 10, 30]
    assert rows[1].round().tolist() == [200, 255, 255]
