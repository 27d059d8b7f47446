"""Root modules, groups and topological subdivisioning in the place of a trained layer."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from cnncompress.absorption import absorb_orders
from cnncompress.decompositions import make, options_of
from cnncompress.decompositions.placed import connection_energies
from cnncompress.errors import OptionError
from cnncompress.factorize import load_
from cnncompress.layers import ChannelOrder, TopologicalConv2d
from cnncompress.solvers.assignment import block_mask
from cnncompress.solvers.joint_moments import JointMoments
from cnncompress.solvers.topology import neighbourhood_mask

CHANNELS, GRID = 12, (9, 8)
DAMPED = np.linspace(2, 0.2, CHANNELS)


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1).double()


@pytest.fixture
def images():
    """Correlated channels: what one group does not read, it can partly tell from what it does."""
    generator = torch.Generator().manual_seed(1)
    sources = torch.randn(30, 5, *GRID, generator=generator, dtype=torch.float64)
    mixing = torch.randn(CHANNELS, 5, generator=generator, dtype=torch.float64)
    noise = torch.randn(30, CHANNELS, *GRID, generator=generator, dtype=torch.float64)
    return torch.einsum("ij,njhw->nihw", mixing, sources) + 0.3 * noise


@pytest.fixture
def replaced(describe, observe):
    """Replaces a layer; the replacement and what the fit found."""

    def replace(layer, images, name, options, ranks):
        method = make(name, options)
        info = describe(layer.float(), (CHANNELS, *GRID))
        layer.double()
        assert not method.obstacle(info)
        responses = observe(info, layer, images, count=60) if method.needs_data else None
        weight, bias = (part.detach().numpy() for part in (layer.weight, layer.bias))
        factors = method.fit(info, weight, bias, responses, ranks)
        module = method.build(info, ranks)
        load_(module, factors, like=layer.weight)
        return module, factors

    return replace


def error(module, layer, images):
    with torch.no_grad():
        target = torch.relu(layer(images))
        return float(((torch.relu(module(images)) - target) ** 2).sum() / (target**2).sum())


def plant(layer, mask):
    """Leave only the connections of a mask, behind secret permutations."""
    rng = np.random.default_rng(3)
    shown = mask[rng.permutation(CHANNELS)][:, rng.permutation(CHANNELS)]
    with torch.no_grad():
        layer.weight.mul_(torch.from_numpy(shown)[:, :, None, None])


CASES = [
    ("root", {"groups": 3}, (12,)),
    ("root", {"groups": 3, "grouping": "clustered"}, (12,)),
    ("groups", {"groups": 3}, (4,)),
    ("topological", {"grid": "3x4", "neighbours": "2x2"}, (4,)),
]
NAMES = ["root", "root clustered", "groups", "topological"]


@pytest.mark.parametrize(("name", "options", "ranks"), CASES, ids=NAMES)
def test_responses_help_and_the_best_solution_is_kept(layer, images, replaced, name, options, ranks):
    blind, factors = replaced(layer, images, name, {**options, "data": False}, ranks)
    assert not factors.errors
    fitted, factors = replaced(layer, images, name, options, ranks)
    assert factors.errors[factors.chosen] == min(factors.errors.values()) < 0.6 * factors.errors["weight"]
    assert factors.chosen.startswith("responses")
    fresh = images.flip(0, 2)
    assert error(fitted, layer, fresh) < 0.6 * error(blind, layer, fresh)


@pytest.mark.parametrize(("name", "options", "ranks"), CASES, ids=NAMES)
def test_what_was_judged_is_what_was_built(layer, images, replaced, describe, observe, name, options, ranks):
    module, factors = replaced(layer, images, name, options, ranks)
    info = describe(layer.float(), (CHANNELS, *GRID))
    layer.double()
    sampled = observe(info, module.double(), images, count=60)
    truth = observe(info, layer, images, count=60).held_out.target
    got, kept = np.maximum(sampled.held_out.target, 0), np.maximum(truth, 0)
    assert np.sum((got - kept) ** 2) / np.sum(kept**2) == pytest.approx(factors.errors[factors.chosen])


@pytest.mark.parametrize(
    ("name", "options", "ranks", "mask"),
    [
        ("groups", {"groups": 3}, (4,), block_mask(CHANNELS, CHANNELS, 3)),
        ("topological", {"grid": "3x4", "neighbours": "1x4"}, (4,), neighbourhood_mask((3, 4), (1, 4))),
        ("topological", {"grid": "12", "neighbours": "4"}, (4,), neighbourhood_mask((12,), (4,))),
    ],
    ids=["groups", "rows of a grid", "line"],
)
@pytest.mark.parametrize("data", [True, False])
def test_hidden_connections_are_found_and_lose_nothing(
    layer, images, replaced, name, options, ranks, mask, data
):
    plant(layer, mask)
    module, _ = replaced(
        layer, images, name, {**options, "data": data, "restarts": 20, "shuffles": 60}, ranks
    )
    assert error(module, layer, images) < 1e-12


def test_swapped_groups_lose_less_of_the_weight(layer, images, replaced):
    shared = {"groups": 3, "data": False}
    losses = []
    for options in ({}, {"grouping": "clustered", "swaps": 300}):
        module, _ = replaced(layer, images, "root", {**shared, **options}, (9,))
        impulses = torch.eye(CHANNELS * 9, dtype=torch.float64).reshape(-1, CHANNELS, 3, 3)
        with torch.no_grad():
            losses.append(float((module(impulses) - layer(impulses)).square().sum()))
    assert losses[1] < losses[0]


@pytest.mark.parametrize(("name", "options", "ranks"), CASES[1:], ids=NAMES[1:])
def test_permutations_vanish_into_the_neighbours(layer, images, replaced, name, options, ranks):
    module, _ = replaced(layer, images, name, options, ranks)
    around = [nn.Conv2d(CHANNELS, CHANNELS, 1).double() for _ in range(2)]
    network = nn.Sequential(around[0], nn.ReLU(), module, nn.ReLU(), around[1]).eval()
    with torch.no_grad():
        before = network(images)
        orders = sum(isinstance(part, ChannelOrder) for part in network.modules())
        assert len(absorb_orders(network)) == orders > 0
        torch.testing.assert_close(network(images), before)
    assert not any(isinstance(part, ChannelOrder) for part in network.modules())


def test_contributions_are_the_energies_of_what_connections_add(rng):
    weight, patches = rng.normal(size=(4, 3, 2)), DAMPED[:6, None] * rng.normal(size=(6, 50))
    covariances = JointMoments.of(patches, weight.reshape(4, 6) @ patches).covariances
    found = connection_energies(weight, covariances)
    for output in range(4):
        for channel in range(3):
            added = weight[output, channel] @ patches[2 * channel : 2 * channel + 2]
            assert found[output, channel] == pytest.approx(added.var())


class TestTopological:
    @pytest.mark.parametrize("given", ["8x16", (8, 16), [8, 16]])
    def test_sides_have_one_form_and_survive_json(self, given):
        method = make("topological", {"grid": given, "neighbours": "4x8"})
        assert method == make("tps", {"grid": "8x16", "neighbours": (4, 8)})
        assert make("topological", json.loads(json.dumps(options_of(method)))) == method

    @pytest.mark.parametrize("given", ["8by16", "0x4", "", (8, -2), 7.5, "8x"])
    def test_other_sides_are_refused(self, given):
        with pytest.raises(OptionError, match="topological: option grid is whole numbers joined by x"):
            make("topological", {"grid": given})

    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            ({"grid": "5x3"}, "15 places for its 12 channels; valid: 1x12, 2x6, 3x4"),
            ({"grid": "3x4", "neighbours": "4x4"}, "neighbours"),
            ({"grid": "3x4", "neighbours": "4"}, "axes"),
            ({"grid": "3x4", "tile": "2x2"}, "tile"),
        ],
    )
    def test_options_that_do_not_fit_a_layer_are_told(self, describe, options, reason):
        info = describe(nn.Conv2d(12, 12, 3), (12, 9, 9))
        assert reason in make("topological", options).obstacle(info)

    def test_only_square_layers(self, describe):
        info = describe(nn.Conv2d(12, 24, 3), (12, 9, 9))
        assert "12 inputs and 24 outputs" in make("topological").obstacle(info)

    @pytest.mark.parametrize(
        ("channels", "options", "grid"),
        [
            (512, {}, (16, 32)),
            (256, {}, (16, 16)),
            (7, {}, (1, 7)),
            (512, {"neighbours": "4x5x6"}, (8, 8, 8)),
            (12, {"neighbours": "4"}, (12,)),
        ],
    )
    def test_default_grids_are_nearly_square(self, describe, channels, options, grid):
        info = describe(nn.Conv2d(channels, channels, 3), (channels, 9, 9))
        method = make("topological", options)
        module = method.build(info, method.full_ranks(info))[0]
        assert isinstance(module, TopologicalConv2d)
        assert module.grid == grid

    def test_executed_and_theoretical_costs_are_told_apart(self, describe):
        info = describe(nn.Conv2d(256, 256, 3, padding=1), (256, 7, 7))
        method = make("topological", {"neighbours": "8x8"})
        assert method.asked(info) == (64,)
        note = method.notes(info, (64,))[0]
        assert f"{method.macs(info, (64,))} multiply-accumulates are executed" in note
        assert f"{info.macs // 4} by connections that exist" in note
        assert info.macs // 4 < method.macs(info, (64,)) < info.macs

    @pytest.mark.parametrize("channels", [6, 64, 67, 96])
    @pytest.mark.parametrize("options", [{}, {"neighbours": "2x1x1"}, {"neighbours": "3"}])
    def test_windows_grow_up_to_the_whole_grid(self, describe, channels, options):
        info = describe(nn.Conv2d(channels, channels, 3), (channels, 9, 9))
        method = make("topological", options)
        if method.obstacle(info):
            assert "neighbours" in method.obstacle(info)
            return
        settings = method.settings(info, 1)
        assert settings == tuple(sorted(set(settings)))
        assert settings[-1] == method.full_ranks(info)
        shares = np.array([ranks[0] / channels for ranks in settings])
        assert (np.diff(shares) <= np.maximum(shares[:-1], 1 / 7)).all()

    def test_numbers_of_neighbours_without_a_window_are_told(self, describe):
        info = describe(nn.Conv2d(64, 64, 3), (64, 9, 9))
        assert "valid: 1 (1x1), 2 (1x2)" in make("topological").unfit(info, (5,))


class TestValidValues:
    def test_groups_divide_the_channels(self, describe):
        info = describe(nn.Conv2d(12, 18, 3), (12, 9, 9))
        assert make("root").choices(info) == {"groups": [1, 2, 3, 4, 6, 12]}
        assert make("groups").choices(info) == {"groups": [1, 2, 3, 6]}
        assert "valid values: 1, 2, 3, 4, 6, 12" in make("root", {"groups": 5}).obstacle(info)
        assert "valid values: 1, 2, 3, 6" in make("groups", {"groups": 4}).obstacle(info)
        assert make("groups", {"groups": 3}).asked(info) == (4,)
        assert "valid widths: 2, 4, 6, 12" in make("groups").unfit(info, (5,))
        assert "no multiple of its 2 groups" in make("root").unfit(info, (5,))

    def test_ranks_are_multiples_of_groups_and_alignment(self, describe):
        info = describe(nn.Conv2d(64, 64, 3), (64, 9, 9))
        method = make("root", {"N": 4})
        assert method.rank_step(info, 16) == 16
        assert method.settings(info, 16) == tuple((rank,) for rank in range(16, 257, 16))
        assert method.rank_step(info, 6) == 12

    def test_channels_without_a_common_divisor(self, describe):
        info = describe(nn.Conv2d(3, 8, 3), (3, 9, 9))
        assert "no divisor in common" in make("groups").obstacle(info)

    def test_linear_layers_are_refused(self, describe):
        info = describe(nn.Linear(12, 12), (12,))
        assert all("linear" in make(name).obstacle(info) for name in ("root", "groups", "topological"))

    def test_another_grouping_is_refused(self):
        with pytest.raises(OptionError, match="contiguous or clustered"):
            make("root", {"grouping": "random"})
