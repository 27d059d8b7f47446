"""Channels brought onto a mask of connections."""

from itertools import permutations

import numpy as np
import pytest

from cnncompress.solvers.assignment import block_mask, place_channels
from cnncompress.solvers.topology import neighbourhood_mask

MASKS = {
    "groups": block_mask(24, 24, 4),
    "wide groups": block_mask(36, 12, 3),
    "grid": neighbourhood_mask((4, 6), (2, 3)),
    "line": neighbourhood_mask((24,), (8,)),
}


def planted(mask, rng, *, noise=0.01):
    """Energy on a mask behind secret permutations, and the share of it on the mask."""
    energy = rng.exponential(size=mask.shape) * (mask + noise)
    outputs, inputs = rng.permutation(mask.shape[0]), rng.permutation(mask.shape[1])
    return energy[np.ix_(outputs, inputs)], float((energy * mask).sum() / energy.sum())


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
def test_planted_structure_is_found(mask, rng, to_xp):
    energy, share = planted(mask, rng)
    identity = float((energy * mask).sum() / energy.sum())
    found = place_channels(to_xp(energy), mask, restarts=10, shuffles=60)
    assert share > 0.95
    assert identity < 0.45
    assert found.captured > 0.85
    moved = energy[np.ix_(found.outputs, found.inputs)]
    assert (moved * mask).sum() / energy.sum() == pytest.approx(found.captured)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
def test_energy_never_falls_and_both_orders_are_permutations(mask, rng):
    energy = rng.random(mask.shape)
    found = place_channels(energy, mask, restarts=3)
    assert len(found.history) > 1
    assert (np.diff(found.history) > 0).all()
    assert sorted(found.outputs) == list(range(mask.shape[0]))
    assert sorted(found.inputs) == list(range(mask.shape[1]))


@pytest.mark.parametrize("seed", range(4))
def test_never_worse_than_the_channels_as_they_stand(seed):
    rng = np.random.default_rng(seed)
    mask = MASKS["grid"]
    energy = rng.exponential(size=mask.shape) * (mask + 0.01)
    found = place_channels(energy, mask, restarts=0, shuffles=0, seed=seed)
    asis = (energy * mask).sum() / energy.sum()
    assert asis > 0.9
    assert found.captured >= asis - 1e-12


def test_more_starts_never_capture_less(rng):
    mask = MASKS["grid"]
    energy, _ = planted(mask, rng, noise=0.1)
    captured = [
        place_channels(energy, mask, restarts=restarts, shuffles=0).captured for restarts in (0, 1, 4, 16)
    ]
    assert captured == sorted(captured)
    captured = [place_channels(energy, mask, restarts=1, shuffles=count).captured for count in (0, 1, 4, 16)]
    assert captured == sorted(captured)


def test_deterministic_for_a_seed(rng):
    energy = rng.random((24, 24))
    one, two = (place_channels(energy, MASKS["grid"], restarts=4, seed=7) for _ in range(2))
    np.testing.assert_array_equal(one.outputs, two.outputs)
    np.testing.assert_array_equal(one.inputs, two.inputs)
    assert one.history == two.history


@pytest.mark.parametrize("damage", ["dead channels", "all dead", "twins"])
def test_degenerate_energies(damage, rng):
    energy, _ = planted(MASKS["groups"], rng)
    if damage == "dead channels":
        energy[3] = energy[:, 5] = 0
    elif damage == "all dead":
        energy[:] = 0
    else:
        energy[:] = energy[:1]
    found = place_channels(energy, MASKS["groups"], restarts=2)
    assert sorted(found.outputs) == list(range(24))
    assert 0 <= found.captured <= 1 + 1e-12


def test_a_full_mask_holds_everything(rng):
    assert place_channels(rng.random((6, 4)), np.ones((6, 4), dtype=bool)).captured == pytest.approx(1)


def test_no_permutation_does_better_on_a_small_case(rng):
    mask, energy = block_mask(4, 4, 2), rng.random((4, 4))
    best = max(
        (energy[np.ix_(outputs, inputs)] * mask).sum()
        for outputs in permutations(range(4))
        for inputs in permutations(range(4))
    )
    assert place_channels(energy, mask, restarts=10).captured == pytest.approx(best / energy.sum())
