"""What networks state about themselves: defaults, checks, descriptions and feature layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vpfb_core import names, networks
from vpfb_core.errors import ConfigError
from vpfb_core.networks.network import level_sizes

PRESET = {"widths": (8, 16), "attention": 4, "prototypes": True, "patch": 2, "batch_size": 32, "lr": 5e-3}
VECTORS, IMAGES = (3,), (2, 9, 9)
OF_VECTORS = ("mlp", "residual-mlp", "vector-mlp")
# The decoder of the method latent takes no level and no classes, and both kinds of data.
every_network = pytest.mark.parametrize("name", [name for name in names.NETWORKS if name != "decoder"])


def shape_for(name: str) -> tuple[int, ...]:
    return VECTORS if name in OF_VECTORS else IMAGES


def chosen(name: str, shape: tuple[int, ...], classes: tuple[int, ...] = (), **asked: Any) -> Any:
    """The settings of a network, some of them given and the others chosen."""
    network = networks.find(name)
    return network.Settings.from_dict(network.defaults(shape, classes, PRESET, asked) | asked)


@every_network
@pytest.mark.parametrize("classes", [(), (3, 2)])
def test_a_network_of_its_own_defaults_fits_the_data_that_they_were_chosen_for(
    name: str, classes: tuple[int, ...]
) -> None:
    shape = shape_for(name)
    network, settings = networks.find(name), chosen(name, shape, classes)
    assert None not in settings.to_dict().values(), "nothing is left open"
    network.check(settings, shape, classes)
    description = network.describe(settings, shape, classes)
    networks.require_shape(description, shape, classes)
    built = networks.build(description)
    assert type(built) is network
    condition = torch.zeros(2, len(classes), dtype=torch.int64) if classes else None
    output = built(torch.zeros(2, *shape), torch.ones(2), condition)
    assert output.shape in ((2,), (2, *shape))


@every_network
def test_a_network_for_other_data_than_described_is_refused(name: str) -> None:
    shape = shape_for(name)
    description = networks.find(name).describe(chosen(name, shape, (3,)), shape, (3,))
    for other, classes in ((tuple(size + 1 for size in shape), (3,)), (shape, (4,)), (shape, ())):
        with pytest.raises(ValueError, match="its network is not for"):
            networks.require_shape(description, other, classes)


@every_network
def test_data_of_another_kind_are_refused(name: str) -> None:
    network, shape = networks.find(name), shape_for(name)
    for other in (IMAGES if name in OF_VECTORS else VECTORS, (2, 8, 9)):
        with pytest.raises(ConfigError, match=f"the network {name} is for "):
            network.check(chosen(name, shape), other, ())


@pytest.mark.parametrize(
    ("settings", "size", "words"),
    [
        ({"widths": (8, 8, 8, 8)}, 4, "images of 2x2 patches of 2x2 pixels cannot be halved 3 times"),
        ({"widths": (8, 8, 8, 8), "patch": 1}, 4, "images of 4x4 pixels cannot be halved 3 times"),
        ({"attention": (16,)}, 28, r"attention at \[16\], but the feature maps have sizes \[14, 7\]"),
        ({"prototypes": True}, 28, "prototypes need classes, and this run has none"),
        ({"widths": ()}, 28, "a network needs at least one resolution"),
    ],
)
def test_settings_that_do_not_fit_the_images_are_refused(settings: dict[str, Any], size: int, words: str) -> None:
    fitting = chosen("unet", (1, size, size), widths=(8, 8), patch=2)
    with pytest.raises(ConfigError, match=words):
        networks.find("unet").check(fitting.replace(**settings), (1, size, size), ())


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"blocks": 0}, "blocks = 0 is out of range"), ({"dropout": 1.0}, "dropout = 1.0 is out of range"),
     ({"patch": 17}, "patch = 17 is out of range"), ({"widths": (8, -1)}, "list of positive whole numbers"),
     ({"width": 8}, "unknown setting 'width'")],
)  # fmt: skip
def test_settings_out_of_their_limits_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        networks.find("unet").Settings.from_dict(settings)


def test_a_preset_names_the_largest_feature_map_with_attention() -> None:
    assert level_sizes(28, 3) == [28, 14, 7]
    assert level_sizes(9, 3, patch=2) == [5, 3, 2], "halving rounds up"
    for size, attention in ((28, 16), (32, 16), (9, 4), (28, 0)):
        network = networks.find("unet")
        found = network.defaults((1, size, size), (), {"widths": (8, 8, 8), "attention": attention}, {})["attention"]
        sizes = [each for each in level_sizes(size, 3) if each <= attention]
        assert found == tuple(sizes[:1])


def test_prototypes_are_chosen_only_where_there_are_classes() -> None:
    assert chosen("unet", IMAGES).prototypes is False
    assert chosen("unet", IMAGES, (3,)).prototypes is True


def test_a_description_leaves_out_what_the_network_does_not_use() -> None:
    """Model files of earlier versions do not have these keys either."""
    settings = chosen("unet", IMAGES, position_embedding=False, patch=1)
    assert networks.find("unet").describe(settings, IMAGES, ()) == {
        "name": "unet", "channels": 2, "size": 9, "widths": [8, 16], "blocks": 1, "attention": [], "dropout": 0.0,
        "classes": [],
    }  # fmt: skip


@pytest.mark.parametrize("name", ["unet", "paper-unet"])
def test_the_feature_layer_of_a_unet_is_its_coarsest(name: str) -> None:
    settings = chosen(name, IMAGES)
    network = networks.build(networks.find(name).describe(settings, IMAGES, ()))
    seen: list[torch.Size] = []
    assert network.feature_layer is not None
    network.feature_layer.register_forward_hook(lambda _layer, _inputs, output: seen.append(output.shape))
    network(torch.zeros(3, *IMAGES))
    side = level_sizes(9, 2, 2 if name == "unet" else 1)[-1]
    assert seen == [(3, 16, side, side)]


def test_a_perceptron_has_no_feature_layer() -> None:
    assert networks.build({"name": "mlp", "dim": 3}).feature_layer is None


@every_network
def test_a_network_of_shapes_only_has_the_tensors_of_a_real_one_without_their_values(name: str) -> None:
    shape = shape_for(name)
    description = networks.find(name).describe(chosen(name, shape, (3,)), shape, (3,))
    state = torch.get_rng_state()
    with networks.shapes_only():
        shapes = networks.build(description)
    assert torch.equal(torch.get_rng_state(), state)
    real = networks.build(description)
    assert {key: (value.shape, value.dtype) for key, value in shapes.state_dict().items()} == {
        key: (value.shape, value.dtype) for key, value in real.state_dict().items()
    }
    assert all(parameter.is_meta for parameter in shapes.parameters())


def test_an_unknown_network_is_an_error_with_the_nearest_name_and_all_names() -> None:
    with pytest.raises(ConfigError, match="unknown network 'unett'") as failure:
        networks.find("unett")
    assert failure.value.hint == f"did you mean 'unet'? networks: {', '.join(names.NETWORKS)}"
