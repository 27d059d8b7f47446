"""Channel and spatial ranks chosen together, against exhaustive search and against separate choices."""

import math
import time

import numpy as np
import pytest

from cnncompress.solvers.allocation import greedy_ranks
from cnncompress.solvers.joint_allocation import joint_ranks
from cnncompress.solvers.spatial_allocation import spatial_ranks
from cnncompress.solvers.splits import ChannelSplit, SpatialSplit, SplitRanks, UnreachableBudgetError


def layer(inputs, outputs, size, energies, spatial_energies, step=1):
    pixels = int(size) ** 2
    return SpatialSplit(
        energies=energies,
        cost=9 * inputs * outputs * pixels,
        cost_per_rank=(9 * inputs + outputs) * pixels,
        step=step,
        spatial_energies=spatial_energies,
        vertical_cost_per_rank=3 * inputs * pixels,
        horizontal_cost_per_pair=3 * pixels,
        pointwise_cost_per_rank=outputs * pixels,
        spatial_step=step,
    )


def falling(rng, count):
    return np.arange(1, count + 1) ** -rng.uniform(0.5, 2.5) * rng.uniform(0.8, 1.2, count)


def random_problem(rng):
    def one():
        inputs, outputs = int(rng.integers(2, 6)), int(rng.integers(4, 9))
        spatial = falling(rng, 3 * min(inputs, outputs))
        return layer(inputs, outputs, rng.choice([1, 2, 4]), falling(rng, outputs), spatial)

    layers = [one() for _ in range(3)]
    return layers, int(sum(part.cost for part in layers) / rng.uniform(1.2, 3))


def tapering_network(step=1):
    rng = np.random.default_rng(0)
    widths = [16, 32, 64, 64, 128]
    sizes = [32, 16, 8, 8]
    return [
        layer(c, d, size, falling(rng, d), falling(rng, 3 * min(c, d)), step)
        for c, d, size in zip(widths, widths[1:], sizes, strict=False)
    ]


def cost(layers, ranks):
    return sum(
        part.macs(*rank) if isinstance(part, SpatialSplit) else part.macs(rank.channel)
        for part, rank in zip(layers, ranks, strict=True)
    )


def log_energy(layers, ranks):
    channel = (
        part.log_energy[rank.channel - 1] for part, rank in zip(layers, ranks, strict=True) if rank.channel
    )
    spatial = (
        part.spatial_log_energy[rank.spatial - 1]
        for part, rank in zip(layers, ranks, strict=True)
        if rank.spatial
    )
    return sum(channel) + sum(spatial)


def options(part):
    two = [SplitRanks(rank) for rank in part.ranks.tolist() if part.worthwhile(rank)]
    three = [
        SplitRanks(rank, spatial)
        for rank in part.ranks.tolist()
        for spatial in part.spatial_ranks.tolist()
        if part.macs(rank, spatial) < min(part.macs(rank), part.cost)
    ]
    every = [SplitRanks(), *two, *three]
    return np.array([part.macs(*rank) for rank in every]), np.array([log_energy([part], [r]) for r in every])


def exhaustive(layers, budget):
    """The best of all combinations of three layers: the first two sorted once, the third tried in turn."""
    (cost1, kept1), (cost2, kept2), third = (options(part) for part in layers)
    costs, kept = np.add.outer(cost1, cost2).ravel(), np.add.outer(kept1, kept2).ravel()
    order = np.argsort(costs)
    costs, kept = costs[order], np.maximum.accumulate(kept[order])
    count = np.searchsorted(costs, budget - third[0], side="right")
    return max(kept[n - 1] + value for n, value in zip(count, third[1], strict=True) if n)


def test_a_common_price_is_optimal_for_what_it_costs():
    rng = np.random.default_rng(1)
    for _ in range(50):
        layers, budget = random_problem(rng)
        ranks = joint_ranks(layers, budget=budget, refill=False)
        spent = cost(layers, ranks)
        assert spent <= budget
        np.testing.assert_allclose(log_energy(layers, ranks), exhaustive(layers, spent), atol=1e-9)


def test_joint_ranks_come_close_to_exhaustive_search():
    rng = np.random.default_rng(0)
    deficits, plain = [], []
    for _ in range(200):
        layers, budget = random_problem(rng)
        best = exhaustive(layers, budget)
        for refill, found in ((True, deficits), (False, plain)):
            ranks = joint_ranks(layers, budget=budget, refill=refill)
            assert cost(layers, ranks) <= budget
            found.append(1 - math.exp(log_energy(layers, ranks) - best))
    assert np.mean(deficits) < 0.01
    assert np.quantile(deficits, 0.95) < 0.05
    assert (np.array(deficits) <= np.array(plain) + 1e-12).all()  # refilling never hurts
    assert np.mean(plain) > 2 * np.mean(deficits)


@pytest.mark.parametrize("step", [1, 8])
@pytest.mark.parametrize("ratio", [1.3, 2, 3, 4])
def test_joint_beats_separate_choices_within_the_budget(step, ratio):
    layers = tapering_network(step)
    whole = sum(part.cost for part in layers)
    budget = int(whole / ratio)
    ranks = joint_ranks(layers, budget=budget)
    channel = greedy_ranks(layers, budget=int(whole / math.sqrt(ratio)), break_even=False)
    separate = spatial_ranks(layers, channel, budget=budget)
    two = [SplitRanks(rank) for rank in greedy_ranks(layers, budget=budget)]
    assert cost(layers, ranks) <= budget
    assert log_energy(layers, ranks) >= log_energy(layers, separate)
    assert log_energy(layers, ranks) >= log_energy(layers, two) - 1e-3
    for part, rank in zip(layers, ranks, strict=True):
        assert rank.channel is None or rank.channel % step == 0
        assert rank.spatial is None or rank.spatial % step == 0
        if rank.spatial is not None:
            assert part.macs(*rank) < min(part.macs(rank.channel), part.cost)
        elif rank.channel is not None:
            assert part.worthwhile(rank.channel) == rank.channel


@pytest.mark.parametrize("step", [1, 8, 16])
def test_what_is_left_buys_no_higher_rank(step):
    layers = tapering_network(step)
    budget = sum(part.cost for part in layers) // 3
    ranks = joint_ranks(layers, budget=budget)
    slack = budget - cost(layers, ranks)
    for part, rank in zip(layers, ranks, strict=True):
        if rank.channel is None:
            continue
        assert slack < part.cost - part.macs(*rank)
        if rank.spatial is not None:
            assert slack < part.macs(rank.channel, rank.spatial + step) - part.macs(*rank)
        if rank.channel + step <= len(part.energies):
            assert slack < part.macs(rank.channel + step, rank.spatial) - part.macs(*rank)


def test_spatial_weight_shifts_the_loss_between_the_two_ranks():
    layers = tapering_network()
    budget = sum(part.cost for part in layers) // 3

    def channel_loss(weight):
        ranks = joint_ranks(layers, budget=budget, spatial_weight=weight)
        return log_energy(layers, [SplitRanks(rank.channel) for rank in ranks])

    losses = [channel_loss(weight) for weight in (0.01, 0.1, 1, 10)]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > losses[-1]
    with pytest.raises(ValueError, match="above 0, got 0"):
        joint_ranks(layers, budget=budget, spatial_weight=0)


def test_plain_layers_take_part_with_their_channels_only():
    rng = np.random.default_rng(0)
    plain = ChannelSplit(energies=falling(rng, 32), cost=32 * 64 * 16, cost_per_rank=96 * 16)
    layers = [plain, *tapering_network()]
    ranks = joint_ranks(layers, budget=sum(part.cost for part in layers) // 3)
    assert ranks[0].spatial is None
    assert any(rank.spatial for rank in ranks)


def test_edges():
    layers = tapering_network()
    whole = sum(part.cost for part in layers)
    assert joint_ranks(layers, budget=whole) == [SplitRanks()] * len(layers)
    assert joint_ranks([], budget=0) == []
    with pytest.raises(UnreachableBudgetError) as caught:
        joint_ranks(layers, budget=1)
    at_least = joint_ranks(layers, budget=caught.value.least)
    assert cost(layers, at_least) == caught.value.least
    assert at_least == [SplitRanks(1, 1)] * len(layers)


def test_equal_layers_give_the_same_answer_every_time():
    rng = np.random.default_rng(0)
    one = layer(16, 32, 8, falling(rng, 32), falling(rng, 48))
    first = joint_ranks([one] * 6, budget=3 * one.cost)
    assert all(joint_ranks([one] * 6, budget=3 * one.cost) == first for _ in range(3))


def test_ranks_without_energy_are_never_bought():
    energies = np.append(np.array([4.0, 2, 1]), np.zeros(29))
    spatial = np.append(np.array([4.0, 2, 1]), np.zeros(45))
    one = layer(16, 32, 8, energies, spatial)
    assert joint_ranks([one], budget=one.cost - 1) == [SplitRanks(3, 3)]


def test_150_layers_of_2048_channels_take_seconds():
    rng = np.random.default_rng(0)
    layers = [layer(2048, 2048, 7, falling(rng, 2048), falling(rng, 6144), step=16) for _ in range(150)]
    started = time.perf_counter()
    joint_ranks(layers, budget=sum(part.cost for part in layers) // 4)
    assert time.perf_counter() - started < 5
