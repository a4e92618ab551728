"""Networks of torch.export: they are read as they were saved, and nothing in a file is executed."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from vpfb_core.errors import CheckpointError, MissingError
from vpfb_core.uses.evaluation import exported, features

CPU = torch.device("cpu")


class Network(nn.Module):
    """A convolution with a normalisation of its own; (N, 3, H, W) → (N, 4)."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.first, self.second = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.register_buffer("mean", torch.full((3, 1, 1), 0.4))

    def forward(self, images: Tensor) -> Tensor:
        return self.second(self.first(images - self.mean)).relu().mean((2, 3))


def save(path: Path, network: nn.Module, sizes: Any = None) -> Path:
    program = torch.export.export(network.eval(), (torch.rand(2, 3, 16, 16),), dynamic_shapes=sizes)
    torch.export.save(program, path)
    return path


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a network that takes any number of images of 16 x 16."""
    return save(tmp_path_factory.mktemp("exported") / "network.pt2", Network(), ({0: Dim("n")},))


def changed(
    saved: Path, target: Path, change: Callable[[str, bytes], bytes], more: dict[str, bytes] | None = None
) -> Path:
    """The file with other content in its parts."""
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(target, "w") as new:
        root = old.namelist()[0].partition("/")[0]
        for name in old.namelist():
            new.writestr(name, change(name.partition("/")[2], old.read(name)))
        for name, content in (more or {}).items():
            new.writestr(f"{root}/{name}", content)
    return target


def in_model(path: tuple[Any, ...], value: Any) -> Callable[[str, bytes], bytes]:
    """A change of one value in the description of the network."""

    def change(name: str, content: bytes) -> bytes:
        if not name.startswith("models/"):
            return content
        document = json.loads(content)
        place = document
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        return json.dumps(document).encode()

    return change


GRAPH = ("graph_module", "graph")


class Executed:
    """Its pickle creates a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_a_network_gives_what_it_gave_before_it_was_saved(tmp_path: Path, saved: Path) -> None:
    network, images = Network().eval(), torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = exported.read(saved)
    assert (found.shape, found.count) == ((3, 16, 16), None)
    assert torch.equal(found.network(images), network(images))
    fixed = exported.read(save(tmp_path / "fixed.pt2", network))
    assert (fixed.shape, fixed.count) == ((3, 16, 16), 2)
    any_size = exported.read(save(tmp_path / "any.pt2", network, ({0: Dim("n"), 2: Dim("h", min=4)},)))
    assert (any_size.shape, any_size.count) == ((3, None, 16), None)


def test_features_come_from_images_of_any_size_number_and_colour(tmp_path: Path, saved: Path) -> None:
    network = Network().eval()
    grey = torch.randint(0, 256, (5, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = network(grey.expand(-1, 3, -1, -1).float() / 255)
    for path in (saved, save(tmp_path / "fixed.pt2", network)):
        extractor = features.find(str(path), None, "", (), CPU, download=False)
        found = extractor.features(grey, CPU, batch_size=3)
        torch.testing.assert_close(found, expected)
        assert extractor.features(grey[:, :, :9, :9], CPU, batch_size=5).shape == (5, 4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (in_model((*GRAPH, "nodes", 0, "target"), "os.system"), "'os.system', which is no operation"),
        (in_model((*GRAPH, "nodes", 0, "target"), "torch.ops.aten.from_file.default"), "from_file"),
        (in_model((*GRAPH, "nodes", 0, "name"), "x); import os; os.abort("), "contains the text"),
        (in_model((*GRAPH, "inputs", 0, "as_tensor", "name"), "x=print()"), "contains the text"),
        (
            in_model((*GRAPH, "tensor_values", "images", "sizes"), [{"as_expr": {"expr_str": "exit()", "hint": None}}]),
            "'exit\\(\\)'",
        ),
        (
            in_model(
                ("graph_module", "module_call_graph", 0, "signature", "in_spec"),
                '[1, {"type": "os.system", "context": ""}]',
            ),
            "type 'os.system'",
        ),
    ],
)
def test_a_description_that_could_be_code_is_refused(
    tmp_path: Path, saved: Path, change: Callable[[str, bytes], bytes], words: str
) -> None:
    path = changed(saved, tmp_path / "bad.pt2", change)
    assert path.read_bytes() != saved.read_bytes()
    with pytest.raises(CheckpointError, match=words):
        exported.read(path)


def test_nothing_in_a_file_is_unpickled(tmp_path: Path, saved: Path) -> None:
    proof = tmp_path / "executed"
    code = pickle.dumps(Executed(proof))
    archive = io.BytesIO()
    torch.save(Executed(proof), archive)

    def samples(name: str, content: bytes) -> bytes:
        return archive.getvalue() if name.startswith("data/sample_inputs/") else content

    def weights(name: str, content: bytes) -> bytes:
        if name.endswith("weights_config.json"):
            config = json.loads(content)
            for payload in config["config"].values():
                payload["use_pickle"] = True
            return json.dumps(config).encode()
        return archive.getvalue() if name.startswith("data/weights/weight_") else content

    def constants(name: str, content: bytes) -> bytes:
        if not name.endswith("constants_config.json"):
            return content
        payload = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
        return json.dumps({"config": {"x": payload}}).encode()

    for number, (change, more) in enumerate(
        [
            (samples, {}), (weights, {}), (constants, {}), (constants, {"data/constants/opaque_obj_0": code}),
            (lambda _, content: content, {"data/aotinductor/model/wrapper.so": b"\x7fELF"}),
            (lambda _, content: content, {"data/weights/model.pt": archive.getvalue()}),
        ]
    ):  # fmt: skip
        with pytest.raises(CheckpointError, match="is not read, since"):
            exported.read(changed(saved, tmp_path / f"{number}.pt2", change, more))
        assert not proof.exists()


def test_code_that_checks_the_sizes_is_left_out(tmp_path: Path, saved: Path) -> None:
    found = exported.read(changed(saved, tmp_path / "guards.pt2", in_model(("guards_code",), ["print('executed')"])))
    assert found.network(torch.rand(1, 3, 16, 16)).shape == (1, 4)


@pytest.mark.parametrize("content", [b"", b"PK", b"no archive at all"])
def test_another_file_is_an_error_that_says_how_one_is_written(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pt2").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"x\.pt2 is damaged") as raised:
        exported.read(tmp_path / "x.pt2")
    assert "torch.export.save" in str(raised.value.hint)
    with pytest.raises(MissingError, match=r"no file .*y\.pt2"):
        exported.read(tmp_path / "y.pt2")


def test_a_network_of_something_else_than_images_is_refused(tmp_path: Path) -> None:
    program = torch.export.export(nn.Linear(3, 2), (torch.rand(2, 3),))
    torch.export.save(program, tmp_path / "rows.pt2")
    with pytest.raises(CheckpointError, match="not one batch of images"):
        exported.read(tmp_path / "rows.pt2")
