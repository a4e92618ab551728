"""The networks: shapes, the zero start, conditions, second derivatives, and building from a description."""

from __future__ import annotations

from typing import Any, TypeVar

import pytest
import torch
from torch import nn

from vpfb_core.errors import ConfigError
from vpfb_core.networks import MLP, Encoder, PaperUNet, UNet, build
from vpfb_core.networks.blocks import Attention, Block, from_patches, to_patches
from vpfb_core.networks.downsampling import Prototypes
from vpfb_core.networks.embedding import ConditionEmbedding, LevelFeatures

M = TypeVar("M", bound=nn.Module)
DESCRIPTIONS: dict[str, dict[str, Any]] = {
    "mlp": {"name": "mlp", "dim": 3, "width": 16, "classes": [3, 2]},
    "unet": {
        "name": "unet", "channels": 2, "size": 8, "widths": [8, 16], "attention": [4], "classes": [3, 2],
        "position_embedding": True,
    },
    "patched unet": {"name": "unet", "channels": 2, "size": 9, "widths": [8, 16], "classes": [3, 2], "patch": 2},
    "unet with prototypes": {
        "name": "unet", "channels": 2, "size": 9, "widths": [8, 16], "classes": [3, 2], "patch": 2, "prototypes": True,
    },
    "encoder": {
        "name": "encoder", "channels": 2, "size": 9, "widths": [8, 16], "attention": [3], "classes": [3, 2],
        "position_embedding": True, "patch": 2, "prototypes": True,
    },
    "paper-unet": {
        "name": "paper-unet", "channels": 2, "size": 8, "widths": [8, 16], "blocks": 2, "attention": [4],
        "classes": [3, 2], "stem": 8,
    },
}  # fmt: skip
SHAPES = {
    "mlp": (3,),
    "unet": (2, 8, 8),
    "patched unet": (2, 9, 9),
    "unet with prototypes": (2, 9, 9),
    "encoder": (2, 9, 9),
    "paper-unet": (2, 8, 8),
}

every_network = pytest.mark.parametrize("name", DESCRIPTIONS)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shuffle_weights(module: M, std: float = 0.3) -> M:
    """Give every weight a value, the zero-initialised ones too."""
    draws = generator(5)
    for parameter in module.parameters():
        parameter.data = std * torch.randn(parameter.shape, generator=draws, dtype=parameter.dtype)
    return module


@pytest.mark.parametrize("size", [7, 8, 9, 28, 32])
@pytest.mark.parametrize("blocks", [1, 2])
def test_unet_answers_in_the_shape_of_images_of_any_size(size: int, blocks: int) -> None:
    network = UNet(channels=3, size=size, widths=(8, 16, 16), blocks=blocks, attention=((size + 1) // 2,))
    shuffle_weights(network)
    u = torch.randn(2, 3, size, size, generator=generator())
    output = network(u, torch.tensor([0.1, 1.5]))
    assert output.shape == u.shape
    assert output.isfinite().all()


@pytest.mark.parametrize("size", [7, 8, 9, 28, 32])
def test_encoder_answers_in_the_shape_of_images_of_any_size(size: int) -> None:
    network = shuffle_weights(Encoder(channels=3, size=size, widths=(8, 16, 16), patch=2 if size > 9 else 1))
    u = torch.randn(2, 3, size, size, generator=generator())
    output = network(u, torch.tensor([0.1, 1.5]))
    assert output.shape == u.shape
    assert output.isfinite().all()


def test_every_pixel_of_the_gradient_of_an_encoder_sees_the_whole_image() -> None:
    network = shuffle_weights(Encoder(channels=1, size=8, widths=(8, 16, 16))).double()
    u = torch.randn(1, 1, 8, 8, generator=generator(), dtype=torch.float64, requires_grad=True)
    output = network(u, torch.tensor([1.0], dtype=torch.float64))
    (gradient,) = torch.autograd.grad((output * (0.5 * output - u)).sum(), u, create_graph=True)
    (seen,) = torch.autograd.grad(gradient[0, 0, 0, 0], u)
    assert bool((seen != 0).all())


@pytest.mark.parametrize("size", [7, 8, 9])
def test_patches_hold_every_pixel_once_and_come_back(size: int) -> None:
    images = torch.arange(2.0 * 3 * size**2).reshape(2, 3, size, size) + 1
    patches = to_patches(images, 2)
    assert patches.shape == (2, 12, (size + 1) // 2, (size + 1) // 2)
    assert torch.equal(patches[0, :4, 0, 0], images[0, 0, :2, :2].flatten())
    assert torch.equal(patches[patches > 0].sort().values, images.flatten())
    assert torch.equal(from_patches(patches, 2, images), images)


@pytest.mark.parametrize("widths", [(8,), (24, 40), (8, 12, 20, 36)])
def test_unet_takes_any_number_and_width_of_levels(widths: tuple[int, ...]) -> None:
    network = UNet(channels=1, size=16, widths=widths, attention=(16, 8, 4, 2))
    u = torch.randn(1, 1, 16, 16, generator=generator())
    assert network(u, torch.tensor([0.5])).shape == u.shape


def test_the_network_of_the_paper_has_its_size() -> None:
    """55.7 million in the paper; here the embedding gives each block a scale beside the shift."""
    assert sum(parameter.numel() for parameter in PaperUNet(3, 32).parameters()) == pytest.approx(55.7e6, rel=0.05)


@pytest.mark.parametrize("size", [7, 8, 12])
def test_the_network_of_the_paper_takes_images_of_any_size(size: int) -> None:
    network = shuffle_weights(PaperUNet(3, size, widths=(8, 8, 16), blocks=1, attention=((size + 1) // 2,), stem=8))
    u = torch.randn(2, 3, size, size, generator=generator())
    output = network(u, torch.tensor([0.1, 1.5]))
    assert output.shape == u.shape
    assert output.isfinite().all()


@every_network
def test_network_starts_at_exactly_zero(name: str) -> None:
    u = torch.randn(4, *SHAPES[name], generator=generator())
    output = build(DESCRIPTIONS[name])(u, torch.linspace(0, 1.5, 4))
    assert output.shape == ((4,) if name == "mlp" else u.shape)
    assert not output.any()


@every_network
def test_samples_do_not_see_each_other(name: str) -> None:
    network = shuffle_weights(build(DESCRIPTIONS[name])).double()
    u = torch.randn(4, *SHAPES[name], generator=generator(), dtype=torch.float64)
    level, condition = torch.linspace(0, 1.5, 4, dtype=torch.float64), torch.tensor([[0, 1], [2, -1], [-1, 0], [1, 1]])
    whole = network(u, level, condition)
    for i in range(4):
        torch.testing.assert_close(network(u[i : i + 1], level[i : i + 1], condition[i : i + 1])[0], whole[i])


@every_network
def test_the_level_changes_the_output(name: str) -> None:
    network = shuffle_weights(build(DESCRIPTIONS[name]))
    u = torch.randn(1, *SHAPES[name], generator=generator()).expand(3, *SHAPES[name])
    first, second, third = network(u, torch.tensor([0.1, 0.7, 1.5]))
    assert not torch.allclose(first, second)
    assert not torch.allclose(second, third)


@every_network
def test_no_condition_is_the_null_of_every_group(name: str) -> None:
    network = shuffle_weights(build(DESCRIPTIONS[name]))
    u, level = torch.randn(4, *SHAPES[name], generator=generator()), torch.linspace(0, 1.5, 4)
    null = torch.full((4, 2), -1)
    assert torch.equal(network(u, level), network(u, level, null))
    for column in range(2):
        one = null.clone()
        one[:, column] = 0
        assert not torch.allclose(network(u, level, one), network(u, level, null))


@every_network
def test_without_a_level_a_network_has_one_output_per_input_and_condition(name: str) -> None:
    network = shuffle_weights(build(DESCRIPTIONS[name])).double()
    u = torch.randn(3, *SHAPES[name], generator=generator(), dtype=torch.float64, requires_grad=True)
    condition = torch.tensor([[0, 1], [2, -1], [-1, 0]])
    output = network(u, condition=condition)
    assert output.shape == network(u, torch.ones(3, dtype=torch.float64), condition).shape
    assert not torch.allclose(output, network(u))
    for i in range(3):
        torch.testing.assert_close(network(u[i : i + 1], condition=condition[i : i + 1])[0], output[i])
    (gradient,) = torch.autograd.grad(output.sum(), u)
    assert gradient.abs().sum() > 0


def test_groups_of_conditions_are_summed() -> None:
    embedding = ConditionEmbedding(16, classes=(3, 2)).double()
    level = torch.linspace(0, 1.5, 6, dtype=torch.float64)

    def embed(first: int, second: int) -> torch.Tensor:
        return embedding(level, level, torch.tensor([[first, second]]).expand(6, 2))

    none = embed(-1, -1)
    rows = {(first, second): embed(first, second) - none for first in range(-1, 3) for second in range(-1, 2)}
    for (first, second), row in rows.items():
        torch.testing.assert_close(row, rows[first, -1] + rows[-1, second])
    different = torch.stack([row[0] for row in rows.values()])
    assert torch.unique(different, dim=0).shape == different.shape


def test_every_class_has_a_row_of_its_own_and_no_more() -> None:
    embedding = ConditionEmbedding(8, classes=(3,))
    u = torch.zeros(1)
    embedding(u, condition=torch.tensor([[2]]))
    for index in (3, -2):
        with pytest.raises(IndexError):
            embedding(u, condition=torch.tensor([[index]]))


def test_features_of_the_level_are_bounded_and_separate_levels_that_differ_by_a_hundredth() -> None:
    features = LevelFeatures(64)(torch.tensor([0.0, 1.54, 1.55, torch.pi / 2]))
    assert features.shape == (4, 64)
    assert (features.abs() <= 1).all()
    assert (features[1] - features[2]).norm() > 0.5


def test_with_a_position_embedding_a_network_knows_where_in_the_picture_it_is() -> None:
    """Deep inside a picture of one colour every place is like the next, but for the embedding."""
    networks = {embedded: UNet(1, 32, widths=(8, 8), position_embedding=embedded) for embedded in (False, True)}
    for network in networks.values():
        shuffle_weights(network, 0.1)
    u, level = torch.zeros(1, 1, 32, 32), torch.ones(1)
    inside = {embedded: network(u, level)[0, 0, 14:18, 14:18] for embedded, network in networks.items()}
    assert inside[False].std() < 1e-3 * inside[True].std()


def test_prototypes_of_classes_add_up_and_no_class_has_none() -> None:
    prototypes = Prototypes((3, 2), (2, 4, 4), 8, embedding=5)
    embedding = torch.randn(1, 5, generator=generator())
    assert not prototypes(torch.tensor([[2, 1]]), embedding).any(), "learned from zero"
    images_of_three, images_of_two = prototypes.images.parameters()
    images_of_three.data[2].normal_(generator=generator(1))
    images_of_two.data[1].normal_(generator=generator(2))
    both, first, second, none = (
        prototypes(torch.tensor([rows]), embedding) for rows in ((2, 1), (2, -1), (-1, 1), (-1, -1))
    )
    assert first.any()
    assert second.any()
    assert torch.allclose(both, first + second, atol=1e-6)
    assert not none.any()


def test_with_prototypes_a_network_draws_the_mean_image_of_a_class_from_nothing() -> None:
    """Two classes, a vertical and a horizontal bar: in noise nothing else tells where they lie."""
    means = torch.zeros(2, 1, 16, 16)
    means[0, ..., 6:9], means[1, :, 6:9] = 1.0, 1.0
    nothing, condition = (torch.zeros(2, 1, 16, 16), torch.zeros(2)), torch.tensor([[0], [1]])
    left = {}
    for own in (False, True):
        torch.manual_seed(0)
        network = UNet(1, 16, widths=(8,), classes=(2,), prototypes=own)
        optimizer = torch.optim.Adam(network.parameters(), 5e-3)
        for _ in range(50):
            optimizer.zero_grad()
            loss = ((network(*nothing, condition) - means) ** 2).mean()
            loss.backward()
            optimizer.step()
        left[own] = loss.item()
    assert left[True] < 0.2 * left[False], left


@pytest.mark.parametrize("own", [{"position_embedding": True}, {"prototypes": True, "classes": (2,)}])
def test_what_a_network_knows_of_places_keeps_the_precision_of_the_features(own: dict[str, Any]) -> None:
    seen: list[torch.dtype] = []
    network = UNet(1, 8, widths=(8,), **own)
    network.down[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        network(torch.zeros(1, 1, 8, 8), torch.ones(1), torch.tensor([[1]]))
    assert seen == [torch.bfloat16]


def test_the_level_is_embedded_in_float32_under_autocast() -> None:
    network, level = UNet(1, 8, widths=(8,)), torch.tensor([0.3, 1.5])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = network.embedding(torch.zeros(2, 1, 8, 8), level)
    torch.testing.assert_close(found, network.embedding(torch.zeros(2, 1, 8, 8), level), rtol=0, atol=0)


def test_attention_mixes_positions_and_starts_as_the_identity() -> None:
    attention = Attention(8)
    features = torch.randn(2, 8, 3, 3, generator=generator(), requires_grad=True)
    assert torch.equal(attention(features), features)
    shuffle_weights(attention)
    (gradient,) = torch.autograd.grad(attention(features)[0, 0, 0, 0], features)
    assert (gradient[0].abs().sum(0) > 0).all()  # one position depends on all of its sample
    assert not gradient[1].any()


def test_attention_is_that_of_torch() -> None:
    attention = shuffle_weights(Attention(64)).double()
    features = torch.randn(2, 64, 3, 3, generator=generator(), dtype=torch.float64)
    tokens = attention.norm(features).flatten(2).mT
    weight, bias = attention.qkv.weight.flatten(1), attention.qkv.bias
    expected, _ = nn.functional.multi_head_attention_forward(
        *(tokens.transpose(0, 1),) * 3, 64, attention.heads, weight, bias, None, None, False, 0.0,
        attention.out.weight.flatten(1), attention.out.bias, training=False,
    )  # fmt: skip
    mixed = expected.transpose(0, 1).mT.reshape(features.shape)
    torch.testing.assert_close(attention(features), features + mixed)


@pytest.mark.parametrize("channels", [4, 40, 80, 100])
def test_attention_takes_any_number_of_channels(channels: int) -> None:
    features = torch.randn(1, channels, 2, 2, generator=generator())
    assert Attention(channels)(features).shape == features.shape


def test_second_derivatives_of_attention_agree_with_finite_differences() -> None:
    attention = shuffle_weights(Attention(2)).double()
    features = torch.randn(1, 2, 2, 2, generator=generator(), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(attention, (features,))
    assert torch.autograd.gradgradcheck(attention, (features,))


def test_second_derivatives_of_a_block_agree_with_finite_differences() -> None:
    block = shuffle_weights(Block(2, 3, 4, dropout=0.0, attend=True)).double()
    features = torch.randn(1, 2, 2, 2, generator=generator(), dtype=torch.float64, requires_grad=True)
    embedding = torch.randn(1, 4, generator=generator(1), dtype=torch.float64)
    assert torch.autograd.gradgradcheck(lambda features: block(features, embedding), (features,))


@every_network
def test_second_derivatives_of_the_network_agree_with_finite_differences(name: str) -> None:
    small = {
        "mlp": MLP(dim=2, width=4),
        "unet": UNet(1, 2, widths=(2, 2), attention=(2,)),
        "patched unet": UNet(1, 2, widths=(2,), patch=2),
        "unet with prototypes": UNet(1, 2, widths=(2,), classes=(2,), prototypes=True),
        "encoder": Encoder(1, 2, widths=(2, 2), attention=(1,)),
        "paper-unet": PaperUNet(1, 2, widths=(2, 2), blocks=1, attention=(2,), stem=2),
    }[name]
    network = shuffle_weights(small).double()
    shape = (2, 2) if name == "mlp" else (1, 1, 2, 2)
    u = torch.randn(shape, generator=generator(), dtype=torch.float64, requires_grad=True)
    level = torch.full((shape[0],), 0.8, dtype=torch.float64)
    condition = torch.zeros(shape[0], 1, dtype=torch.int64) if name == "unet with prototypes" else None
    assert torch.autograd.gradgradcheck(lambda u: network(u, level, condition), (u,))


def test_dropout_acts_in_training_only() -> None:
    network = shuffle_weights(UNet(1, 8, widths=(8, 8), dropout=0.5))
    u, level = torch.randn(2, 1, 8, 8, generator=generator()), torch.tensor([0.3, 1.0])
    with torch.random.fork_rng(devices=[]):
        assert not torch.equal(network(u, level), network(u, level))
        network.eval()
        assert torch.equal(network(u, level), network(u, level))


@every_network
def test_build_depends_on_the_seed_alone_and_leaves_the_global_generators(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    monkeypatch.setattr(torch.mps, "manual_seed", seeded.append)
    before = torch.get_rng_state()
    first = build(DESCRIPTIONS[name], seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    again, other = build(DESCRIPTIONS[name], seed=1), build(DESCRIPTIONS[name], seed=2)
    assert not seeded, "torch.manual_seed would seed every device"
    for key, value in first.state_dict().items():
        assert torch.equal(again.state_dict()[key], value)
    assert any(not torch.equal(other.state_dict()[key], value) for key, value in first.state_dict().items())


def test_initial_weights_are_those_of_torch_after_its_global_seed() -> None:
    built = build(DESCRIPTIONS["unet"], seed=3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        expected = UNet(**{key: value for key, value in DESCRIPTIONS["unet"].items() if key != "name"})
    for key, value in expected.state_dict().items():
        assert torch.equal(built.state_dict()[key], value)


@every_network
def test_build_does_not_change_the_description(name: str) -> None:
    description = dict(DESCRIPTIONS[name])
    build(description)
    assert description == DESCRIPTIONS[name]


@pytest.mark.parametrize(
    "description",
    [
        {},
        {"name": "transformer"},
        {"name": "mlp"},
        {"name": "mlp", "dim": 2, "heads": 3},
        {"name": "mlp", "dim": -1},
        {"name": "mlp", "dim": "two"},
        {"name": "unet", "channels": 1, "size": 8, "widths": []},
        {"name": "unet", "channels": 1, "size": 8, "widths": "wide"},
        {"name": "unet", "channels": 1, "size": 8, "dropout": 2.0},
        {"name": "unet", "channels": 1, "size": 8, "classes": [-3]},
        {"name": "unet", "channels": 1, "size": 8, "patch": 0},
        {"name": "unet", "channels": 1, "size": 8, "patch": 1.5},
    ],
    ids=str,
)
def test_description_that_is_no_network_is_a_config_error(description: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        build(description)
