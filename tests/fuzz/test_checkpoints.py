"""Model and state files that nobody would write: a model that works, or a CheckpointError; nothing is executed."""

from __future__ import annotations

import copy
import functools
import json
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from exploring import VALUES, bounded, budget, damaged, explore
from hypothesis import strategies as st
from models import vpfb_model

import vpfb_core as vpfb
from vpfb_cli.app import build
from vpfb_cli.command_line import run as run_command
from vpfb_core import networks
from vpfb_core.api import Model
from vpfb_core.data.image_statistics import ImageStatistics
from vpfb_core.data.source import ConditionGroup
from vpfb_core.errors import CheckpointError, SolverError
from vpfb_core.machine import container as checkpoint
from vpfb_core.methods.path.homotopy import OT
from vpfb_core.methods.vpfb.normaliser import Anchor, Constants, Normaliser
from vpfb_core.methods.vpfb.potential import Potential
from vpfb_core.model import description
from vpfb_core.model.neighbourhood import Neighbourhood
from vpfb_core.model.reference import Reference
from vpfb_core.model.runs import Run
from vpfb_core.model.tilt import Tilt, TiltedStatistic
from vpfb_core.training.state import Counters, read_state, save_state
from vpfb_core.uses.evaluation import weights

ABOUT = {
    "data": {"name": "digits", "images": 9, "fingerprint": "f"}, "step": 1, "seconds": 1.5, "device": "cpu", "seed": 0,
    "figures": {"val_residual": None}, "config": {"val_fraction": 0.1}, "versions": {"vpfb": "0"},
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with all that a model can have."""
    path = tmp_path_factory.mktemp("whole") / "model.safetensors"
    network = {"name": "unet", "channels": 1, "size": 8, "widths": [4], "classes": [3]}
    figures = Constants((-1.0, -2.0), (0.1, 0.1), 9)
    draws = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    model = vpfb_model(
        Potential(networks.build(network), OT(sigma_min=0.04)), network=network,
        statistics=ImageStatistics((0.3,), 0.3),
        groups=(ConditionGroup("class", ("a", "b", "c")),), about=ABOUT,
        normaliser=Normaliser(64, (1.0, 0.5), {(-1,): figures, (1,): figures}, (Anchor(1.0, 0.1, 0.2),), 0),
        reference=Reference({"recording": Neighbourhood.of(draws)}, torch.arange(7), torch.arange(7), (1.0, 0.5), 3.0),
    )  # fmt: skip
    statistics = (TiltedStatistic("brightness", 0.4, 1.0, True), TiltedStatistic("edges", 0.1, -1.0, False))
    tilt = Tilt(statistics, torch.full((1, 8, 8), 0.1), {(-1,): 0.1, (1,): 0.2}, 2, 0.5, 0.1)
    model.with_tilt(tilt).save(path)
    return path


@pytest.fixture(scope="module")
def version_1() -> Path:
    """A model that an earlier version wrote, calibrated and with a reference."""
    return Path(__file__).parent.parent / "fixtures" / "run-v1" / "model.safetensors"


def use(path: Path) -> None:
    """Whatever a model is used for; a file that is none is refused, and by one name."""
    refusals = []
    for read in (description.read, functools.partial(vpfb.load, device="cpu")):
        try:
            model = read(path)
        except CheckpointError as error:
            assert str(path) in error.message
            refusals.append(read)
    if refusals:
        assert refusals[-1] is not description.read, "what is described wrongly is not built"
        return
    assert isinstance(model, Model)
    try:
        images = model.sample(1, nfe=1, method="euler").images
        assert images.shape == (1, *model.shape)
        model.bits_per_dim(images)
    except (SolverError, CheckpointError):  # numbers may be too large to compute with
        return


def places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something can be changed in a document."""
    inner = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    return [path, *(place for name, value in inner for place in places(value, (*path, name)))]


def changed(document: dict[str, Any], place: tuple[Any, ...], value: Any) -> Any:
    """A copy with something else at a place; `...` for nothing."""
    if not place:
        return value
    document = copy.deepcopy(document)
    *way, last = place
    holder: Any = document
    for name in way:
        holder = holder[name]
    if value is ...:
        del holder[last]
    else:
        holder[last] = value
    return document


@budget(150, 3_000)
def test_damaged_files(examples: int, whole: Path, tmp_path: Path) -> None:
    path, content = tmp_path / "model.safetensors", whole.read_bytes()
    for found in damaged(content, examples, beginning=3000):
        path.write_bytes(found)
        if found != content:
            for read in (vpfb.load, description.read):
                with pytest.raises(CheckpointError):
                    read(path)


@budget(30, 3_000)
@pytest.mark.parametrize("written", ["whole", "version_1"])
def test_descriptions_that_say_anything_under_a_right_checksum(
    examples: int, written: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    stored = checkpoint.read(request.getfixturevalue(written), "model")
    path = tmp_path / "model.safetensors"

    def check(drawn: tuple[tuple[Any, ...], Any]) -> None:
        document = changed(stored.document, *drawn)
        if not isinstance(document, dict):
            return
        try:
            kept = {name: stored.document[name] for name in ("kind", "format")}
            checkpoint.write(path, "model", stored.tensors, {**document, **kept})
        except (ValueError, TypeError):  # not JSON
            return
        use(path)

    where = st.sampled_from([place for place in places(stored.document) if place not in ((), ("kind",), ("format",))])
    with bounded(mebibytes=600, seconds=60 + examples):
        explore(st.tuples(where, VALUES | st.just(...)), check, examples)


@budget(30, 2_000)
def test_tensors_that_are_anything_under_a_right_checksum(examples: int, whole: Path, tmp_path: Path) -> None:
    stored = checkpoint.read(whole, "model")
    path, names = tmp_path / "model.safetensors", sorted(stored.tensors)
    others = [
        torch.zeros(0), torch.tensor(1.0), torch.full((7, 4), float("nan")), torch.ones(2, 2, dtype=torch.int64),
        torch.ones(3, dtype=torch.bool), torch.zeros(1, 1, 1, 1, 1), torch.full((2,), float("inf")).double(),
    ]  # fmt: skip
    for seed in range(examples):
        draw = random.Random(seed)
        name, tensors = draw.choice(names), dict(stored.tensors)
        match draw.randrange(4):
            case 0:
                del tensors[name]
            case 1:
                tensors[name] = draw.choice(others)
            case 2:
                tensors[name] = tensors[name].to(draw.choice((torch.float64, torch.float16, torch.int8)))
            case 3:
                tensors[draw.choice(("reference/x", "reference/features/mean", "", "..", "network.9"))] = tensors[
                    name
                ].clone()
        checkpoint.write(path, "model", tensors, stored.document)
        use(path)


@pytest.mark.parametrize(
    "network",
    [
        {"widths": [2**20, 2**20]}, {"widths": [4] * 100_000}, {"widths": [2**62]}, {"blocks": 10**9}, {"size": 2**30},
        {"classes": [2**40]}, {"classes": [3] * 10**6}, {"channels": 2**31}, {"dropout": 10**400},
        {"name": "mlp", "dim": 2**20, "width": 2**20}, {"name": "paper-unet", "widths": [2**15] * 3, "blocks": 100},
        {"attention": [8] * 10**6},
    ],
)  # fmt: skip
def test_a_network_that_claims_to_be_enormous_is_refused_before_it_is_built(
    network: dict[str, Any], whole: Path, tmp_path: Path
) -> None:
    stored = checkpoint.read(whole, "model")
    path = tmp_path / "model.safetensors"
    described = {**stored.document["network"], **network}
    checkpoint.write(path, "model", stored.tensors, {**stored.document, "network": described})
    with bounded(mebibytes=256, seconds=10), pytest.raises(CheckpointError):
        vpfb.load(path, device="cpu")


def test_a_header_of_a_hundred_megabytes_or_a_thousand_levels_is_refused_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for header in (
        b'{"a":' * 100_000,
        b'{"a":' + b"[" * 1_000_000,
        b'{"a":' + b"9" * 1_000_000,
        b'{"__metadata__":{}}',
    ):
        path.write_bytes(len(header).to_bytes(8, "little") + header)
        with bounded(mebibytes=256, seconds=5), pytest.raises(CheckpointError):
            checkpoint.read(path, "model")
    path.write_bytes((99_000_000).to_bytes(8, "little") + b"{}")
    with bounded(mebibytes=64, seconds=5), pytest.raises(CheckpointError, match="damaged"):
        checkpoint.read(path, "model")


def test_a_large_file_of_another_kind_is_refused_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "film.mkv"
    with path.open("wb") as file:
        file.truncate(2**36)  # 64 GiB of nothing
    with bounded(mebibytes=16, seconds=1), pytest.raises(CheckpointError, match="not a model file"):
        vpfb.load(path, device="cpu")


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/full"])
def test_a_device_is_no_model(device: str) -> None:
    with bounded(mebibytes=64, seconds=1), pytest.raises(CheckpointError, match="not a file"):
        vpfb.load(device, device="cpu")


@budget(60, 5_000)
def test_damaged_weights_of_another_network(examples: int, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a file"):
        weights.read(Path("/dev/zero"))
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.ones(3, 4), "b": torch.zeros(2)}, path)
    with bounded(mebibytes=256, seconds=20 + examples):
        for content in damaged(path.read_bytes(), examples):
            path.write_bytes(content)
            try:
                assert weights.read(path).tensors
            except CheckpointError as error:
                assert str(path) in error.message


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return tmp_path.joinpath("sprung").touch, ()

    torch.save({"weights": Trap()}, tmp_path / "model.pt")
    (tmp_path / "model.safetensors").write_bytes(pickle.dumps(Trap()))
    for name in ("model.pt", "model.safetensors"):
        with pytest.raises(CheckpointError):
            vpfb.load(tmp_path / name, device="cpu")
    with pytest.raises(CheckpointError):
        weights.read(tmp_path / "model.pt")
    assert not (tmp_path / "sprung").exists()


# --- what beside a model is in a run folder ---------------------------------------------------------------------------


@budget(100, 2_000)
def test_states_that_say_anything(examples: int, tmp_path: Path) -> None:
    run = Run(tmp_path)
    save_state(run, {"network/x": torch.zeros(3)}, Counters(3, 1.0, 0), {"data": "f"}, keep=0)
    stored = checkpoint.read(run.state, "state")

    def check(drawn: tuple[tuple[Any, ...], Any]) -> None:
        document = changed(stored.document, *drawn)
        try:
            checkpoint.write(run.state, "state", stored.tensors, {**document, "kind": "state", "format": 2})
        except (ValueError, TypeError):
            return
        try:
            state = read_state(run)
        except CheckpointError:
            return
        assert state is not None
        assert state.counters.step >= 0

    where = st.sampled_from([place for place in places(stored.document) if place not in ((), ("kind",), ("format",))])
    explore(st.tuples(where, VALUES | st.just(...)), check, examples)


@budget(12, 3_000)
def test_runs_whose_sidecars_say_anything_are_listed(
    examples: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run = Run(tmp_path / "runs" / "001-x")
    run.path.mkdir(parents=True)
    run.config.write_text("")

    def check(content: bytes) -> None:
        run.progress.write_bytes(content)
        for more in ([], ["--json"]):
            assert run_command(build(), ["info", *more]) == 0
        out = capsys.readouterr().out
        assert "001-x" in out
        assert "\x1b" not in out

    documents = st.dictionaries(st.sampled_from(["status", "step", "requested"]), VALUES).map(
        lambda document: json.dumps(document, ensure_ascii=False).encode("utf-8", "replace")
    )
    explore(st.binary() | documents | st.sampled_from([b"[" * 100_000, b"9" * 5000, b'"\\u001b[31m"']), check, examples)


def test_names_in_a_model_cannot_steer_the_terminal(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = checkpoint.read(whole, "model")
    groups = [{"name": "class", "classes": ["\x1b]0;owned\x07", "b\nc", "\x9b31m"]}]
    checkpoint.write(tmp_path / "m.safetensors", "model", stored.tensors, {**stored.document, "groups": groups})
    assert run_command(build(), ["info", str(tmp_path / "m.safetensors")]) == 0
    out = capsys.readouterr().out
    assert not {"\x1b", "\x07", "\x9b"} & set(out)


def test_a_log_that_is_nonsense_is_cut_to_what_makes_sense(tmp_path: Path) -> None:
    from vpfb_core.model import run_log

    path = tmp_path / "log.csv"
    names = run_log.columns(["val_residual"])
    line = ",".join(["1"] * len(names))
    nonsense = [b"9" * 5000 + b",1" * 7, b"\xff\xfe", b"\0", b'"' * 200_000, b"-1" + b",1" * 7, b""]
    for content in nonsense:
        path.write_bytes(b"\n".join([",".join(names).encode(), line.encode(), content, content]))
        run_log.cut(path, names, 5)
        assert path.read_text().splitlines()[0] == ",".join(names)
