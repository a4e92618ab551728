"""Files of format version 1 are read: their documents and tensors, by the names of today."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vpfb_core import methods, networks
from vpfb_core.machine import container
from vpfb_core.methods.step import DataShape
from vpfb_core.methods.vpfb import version_1
from vpfb_core.model.model_file import REFERENCE

FIXTURE = Path(__file__).parents[3] / "fixtures" / "run-v1"


@pytest.mark.parametrize(
    ("stored", "current"),
    [
        ("embedding.angle.1.weight", "potential.network.embedding.level.1.weight"),
        ("embedding.groups.0.weight", "potential.network.embedding.groups.0.weight"),
        ("first.weight", "potential.network.first.weight"),
    ],
)
def test_tensors_of_the_network_are_found_under_their_current_names(stored: str, current: str) -> None:
    tensor = torch.zeros(1)
    assert version_1.model_tensors({stored: tensor}) == {current: tensor}
    for prefix in ("network/", "ema/", "adam/exp_avg/", "adam/exp_avg_sq/"):
        assert version_1.state_tensors({prefix + stored: tensor}) == {prefix + current: tensor}


def test_a_model_of_version_1_fits_the_field_that_it_describes() -> None:
    stored = container.read(FIXTURE / "model.safetensors", "model")
    assert stored.document["format"] == 1
    described = version_1.upgraded(stored.document)
    method = methods.build(described["method"]["name"], described["method"]["settings"])
    classes = tuple(len(group["classes"]) for group in described["groups"])
    field = method.field(networks.build(described["network"]), DataShape(tuple(described["shape"]), classes))
    tensors = {key: tensor for key, tensor in stored.tensors.items() if not key.startswith(REFERENCE)}
    field.load_state_dict(version_1.model_tensors(tensors))
