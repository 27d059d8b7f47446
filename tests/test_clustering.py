"""Balanced clustering by subspace distance, in every array library."""

from itertools import permutations

import numpy as np
import pytest

from cnncompress.solvers.clustering import (
    balanced_assignment,
    random_clusters,
    subspace_clusters,
    subspace_distance,
)


def planted(rng, *, clusters=4, size=6, dims=30, dimension=1, noise=0.0):
    """Shuffled rows of either sign and any scale in random subspaces, and where each row belongs."""
    labels = rng.permutation(np.repeat(np.arange(clusters), size))
    bases = rng.standard_normal((clusters, dimension, dims))
    rows = np.einsum("nq,nqd->nd", rng.standard_normal((len(labels), dimension)), bases[labels])
    return rows + noise * rng.standard_normal(rows.shape), labels


def same_partition(a, b):
    return np.array_equal(a[:, None] == a[None, :], b[:, None] == b[None, :])


def squared_distance(rows, labels, dimension=1):
    """The objective by its definition."""
    values = [np.linalg.svd(rows[labels == c], compute_uv=False) for c in np.unique(labels)]
    return sum(float(np.sum(v[dimension:] ** 2)) for v in values)


@pytest.mark.parametrize("shape", [(6, 2), (6, 3), (6, 6), (6, 1), (4, 2)])
def test_the_assignment_is_the_cheapest(to_xp, rng, shape):
    items, clusters = shape
    slots = np.repeat(np.arange(clusters), items // clusters)
    for _ in range(5):
        costs = rng.standard_normal(shape)
        labels = balanced_assignment(to_xp(costs))
        assert np.bincount(labels, minlength=clusters).tolist() == [items // clusters] * clusters
        least = min(costs[np.arange(items), list(dealt)].sum() for dealt in set(permutations(slots.tolist())))
        np.testing.assert_allclose(costs[np.arange(items), labels].sum(), least, atol=1e-12)


def test_what_an_item_costs_anywhere_decides_nothing(rng):
    costs = rng.random((12, 3))
    offset = 1e6 * rng.random((12, 1))
    assert balanced_assignment(costs + offset).tolist() == balanced_assignment(costs).tolist()


@pytest.mark.parametrize("shape", [(24, 50), (24, 7), (24, 1)])
@pytest.mark.parametrize("clusters", [1, 2, 3, 8, 24])
def test_clusters_are_equal_and_ordered(to_xp, rng, shape, clusters):
    found = subspace_clusters(to_xp(rng.standard_normal(shape)), clusters=clusters)
    assert np.bincount(found.labels).tolist() == [24 // clusters] * clusters
    assert sorted(found.order) == list(range(24))
    assert found.labels[found.order].tolist() == np.repeat(np.arange(clusters), 24 // clusters).tolist()
    assert all(np.all(np.diff(part) > 0) for part in found.order.reshape(clusters, -1))
    firsts = [int(np.flatnonzero(found.labels == c)[0]) for c in range(clusters)]
    assert firsts == sorted(firsts)


@pytest.mark.parametrize("dimension", [1, 2, 4])
@pytest.mark.parametrize("dims", [7, 80])
def test_the_objective_is_that_of_the_labels_and_never_rises(rng, dims, dimension):
    lengths = []
    for _ in range(10):
        rows, _ = planted(rng, clusters=3, size=20, dims=dims, dimension=dimension, noise=0.5)
        anywhere = random_clusters(60, clusters=3, seed=1).labels
        found = subspace_clusters(rows, clusters=3, dimension=dimension, restarts=0, start=anywhere)
        np.testing.assert_allclose(
            found.objective, squared_distance(rows, found.labels, dimension), rtol=1e-9
        )
        assert found.history[-1] == found.objective
        assert np.all(np.diff(found.history) < 0)
        lengths.append(len(found.history))
    assert max(lengths) > 2


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("dims", [12, 200])
def test_planted_lines_are_recovered(to_xp, rng, dims, kind):
    rows, labels = planted(rng, dims=dims)
    found = subspace_clusters(to_xp(rows.astype(kind)), clusters=4)
    assert same_partition(found.labels, labels)
    assert found.objective < 10 * np.finfo(kind).eps * np.sum(rows**2)


def test_planted_planes_are_recovered(rng):
    rows, labels = planted(rng, clusters=3, size=10, dimension=2)
    found = subspace_clusters(rows, clusters=3, dimension=2, restarts=20)
    assert same_partition(found.labels, labels)
    assert found.objective < 1e-12 * np.sum(rows**2)


def test_items_of_several_rows_stay_together(to_xp, rng):
    labels = rng.permutation(np.repeat(np.arange(3), 4))
    lines = rng.standard_normal((3, 10))
    items = rng.standard_normal((12, 5))[:, :, None] * lines[labels][:, None, :]
    found = subspace_clusters(to_xp(items), clusters=3)
    assert same_partition(found.labels, labels)
    noisy = items + rng.standard_normal(items.shape)
    found = subspace_clusters(to_xp(noisy), clusters=3)
    of_rows = np.repeat(found.labels, 5)
    np.testing.assert_allclose(found.objective, squared_distance(noisy.reshape(-1, 10), of_rows), rtol=1e-10)


@pytest.mark.parametrize("noise", [0.0, 0.3, 3.0])
def test_never_worse_than_random_clusters(noise):
    for seed in range(10):
        rows, _ = planted(np.random.default_rng(seed), noise=noise)
        baseline = subspace_distance(rows, random_clusters(len(rows), clusters=4, seed=100 + seed))
        np.testing.assert_allclose(baseline.objective, squared_distance(rows, baseline.labels), rtol=1e-9)
        assert baseline.history == (baseline.objective,)
        assert subspace_clusters(rows, clusters=4, seed=seed).objective < baseline.objective


def test_a_start_is_only_improved(rng):
    rows, labels = planted(rng, noise=0.1)
    wrong = random_clusters(len(rows), clusters=4, seed=1).labels
    from_wrong = subspace_clusters(rows, clusters=4, restarts=0, start=wrong)
    np.testing.assert_allclose(from_wrong.history[0], squared_distance(rows, wrong), rtol=1e-9)
    assert from_wrong.objective < from_wrong.history[0]
    from_right = subspace_clusters(rows, clusters=4, restarts=0, start=labels)
    assert from_right.objective <= squared_distance(rows, labels) * (1 + 1e-9)


def test_more_restarts_and_sweeps_never_hurt(rng):
    rows = rng.standard_normal((48, 20))
    by_restarts = [subspace_clusters(rows, clusters=8, restarts=r).objective for r in (1, 2, 4, 8)]
    assert by_restarts == sorted(by_restarts, reverse=True)
    assert by_restarts[-1] < by_restarts[0]
    by_sweeps = [subspace_clusters(rows, clusters=3, sweeps=s).objective for s in (0, 1, 50)]
    assert by_sweeps == sorted(by_sweeps, reverse=True)


def test_the_sign_of_a_row_decides_nothing(rng):
    rows, _ = planted(rng, noise=0.5)
    turned = rows * rng.choice([-1.0, 1.0], size=(len(rows), 1))
    found, again = (subspace_clusters(r, clusters=4) for r in (rows, turned))
    assert found.labels.tolist() == again.labels.tolist()


def test_one_cluster_loses_the_tail_of_the_spectrum(rng):
    rows = rng.standard_normal((9, 5))
    found = subspace_clusters(rows, clusters=1, dimension=2)
    values = np.linalg.svd(rows, compute_uv=False)
    np.testing.assert_allclose(found.objective, np.sum(values[2:] ** 2))
    assert found.order.tolist() == list(range(9))


def test_one_item_per_cluster_loses_and_moves_nothing(rng):
    rows = rng.standard_normal((9, 5))
    found = subspace_clusters(rows, clusters=9)
    assert found.objective < 1e-12
    assert found.order.tolist() == list(range(9))


@pytest.mark.parametrize("dims", [4, 40])
def test_dead_rows_cost_nothing(to_xp, rng, dims):
    rows, labels = planted(rng, clusters=3, size=4, dims=dims)
    rows[labels == 2] = 0
    found = subspace_clusters(to_xp(rows), clusters=3, dimension=2)
    assert np.bincount(found.labels).tolist() == [4, 4, 4]
    assert found.objective < 1e-12
    found = subspace_clusters(to_xp(np.zeros((12, dims))), clusters=3)
    assert np.bincount(found.labels).tolist() == [4, 4, 4]
    assert found.objective == 0


@pytest.mark.parametrize("clusters", [2, 4, 8])
def test_duplicate_rows(rng, clusters):
    rows = np.repeat(rng.standard_normal((4, 20)), 4, axis=0)
    found = subspace_clusters(rows, clusters=clusters, dimension=2)
    assert np.bincount(found.labels).tolist() == [16 // clusters] * clusters
    assert found.objective < 1e-12


def test_deterministic_and_the_same_in_every_library(to_xp, rng):
    rows = rng.standard_normal((40, 60))
    first = subspace_clusters(rows, clusters=5, seed=3)
    again = subspace_clusters(to_xp(rows), clusters=5, seed=3)
    assert first.labels.tolist() == again.labels.tolist()
    np.testing.assert_allclose(first.history, again.history, rtol=1e-10)
    dealt = [random_clusters(40, clusters=5, seed=s).labels.tolist() for s in (3, 3, 4)]
    assert dealt[0] == dealt[1] != dealt[2]


def test_random_clusters_are_equal_and_have_no_objective():
    found = random_clusters(12, clusters=3, seed=0)
    assert np.bincount(found.labels).tolist() == [4, 4, 4]
    assert np.isnan(found.objective)
    assert found.history == ()


@pytest.mark.parametrize("clusters", [0, -1, 5, 24])
def test_clusters_of_unequal_size_are_refused(clusters):
    message = f"clusters must divide the 12 items, got {clusters}; valid: 1, 2, 3, 4, 6, 12$"
    with pytest.raises(ValueError, match=message):
        subspace_clusters(np.ones((12, 2)), clusters=clusters)
    with pytest.raises(ValueError, match=message):
        random_clusters(12, clusters=clusters, seed=0)


def test_unequal_slots_are_refused():
    with pytest.raises(
        ValueError, match=r"clusters must divide the 12 items, got 5; valid: 1, 2, 3, 4, 6, 12$"
    ):
        balanced_assignment(np.ones((12, 5)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dimension": 0}, "dimension must be at least 1, got 0"),
        ({"restarts": 0}, "restarts must be at least 1 without a start, got 0"),
        ({"start": np.array([0, 0, 0, 1])}, "start must hold each of the labels 0 to 1 exactly 2 times"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        subspace_clusters(np.ones((4, 2)), clusters=2, **options)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("dims", [2, 9])
def test_numbers_that_are_not_finite_are_refused(to_xp, bad, dims):
    rows = np.ones((4, dims))
    rows[1, 1] = bad
    with pytest.raises(ValueError, match="clustering needs finite numbers, got NaN or infinity"):
        subspace_clusters(to_xp(rows), clusters=2)
