"""The monochromatic approximation, in every array library."""

import numpy as np
import pytest

from cnncompress.solvers.clustering import balanced_assignment
from cnncompress.solvers.monochromatic import monochromatic


def planted(rng, *, colors=4, outputs=24, channels=3, positions=9):
    labels = rng.permutation(np.repeat(np.arange(colors), outputs // colors))
    shared = rng.standard_normal((colors, channels))
    filters = rng.standard_normal((outputs, positions))
    return shared[labels][:, :, None] * filters[:, None, :], labels, shared


def relative_error(weight, found):
    return float(np.sum((np.asarray(found.dense()) - weight) ** 2) / np.sum(weight**2))


def same_partition(a, b):
    return np.array_equal(a[:, None] == a[None, :], b[:, None] == b[None, :])


@pytest.mark.parametrize("filters", ["resolved", "aligned"])
@pytest.mark.parametrize("shape", [(3, 9), (3, 49), (8, 1), (20, 4)])
def test_planted_colours_are_recovered(to_xp, rng, shape, filters):
    weight, labels, shared = planted(rng, channels=shape[0], positions=shape[1])
    found = monochromatic(to_xp(weight), colors=4, filters=filters)
    assert same_partition(found.labels, labels)
    assert found.error < 1e-20
    np.testing.assert_allclose(np.asarray(found.dense()), weight, atol=1e-12)
    for output, label in enumerate(labels):
        cosine = (
            np.asarray(found.colors)[found.labels[output]] @ shared[label] / np.linalg.norm(shared[label])
        )
        np.testing.assert_allclose(abs(cosine), 1, rtol=1e-12)


@pytest.mark.parametrize("filters", ["resolved", "aligned", "paper"])
def test_one_colour_per_output_is_the_best_of_rank_one(to_xp, rng, filters):
    weight = rng.standard_normal((12, 3, 25))
    found = monochromatic(to_xp(weight), colors=12, filters=filters)
    energies = np.linalg.svd(weight, compute_uv=False) ** 2
    np.testing.assert_allclose(found.error, energies[:, 1:].sum() / energies.sum(), rtol=1e-10)
    assert found.order.tolist() == list(range(12))


def test_one_colour_is_the_leading_direction_of_all_filters(rng):
    weight = rng.standard_normal((12, 3, 25))
    found = monochromatic(weight, colors=1)
    values = np.linalg.svd(weight.transpose(1, 0, 2).reshape(3, -1), compute_uv=False) ** 2
    np.testing.assert_allclose(found.error, 1 - values[0] / values.sum(), rtol=1e-10)


@pytest.mark.parametrize("filters", ["resolved", "aligned", "paper"])
@pytest.mark.parametrize("colors", [1, 3, 4, 8, 24])
def test_the_parts_fit_together(to_xp, rng, colors, filters):
    weight = rng.standard_normal((24, 3, 9))
    found = monochromatic(to_xp(weight), colors=colors, filters=filters)
    assert found.colors.shape == (colors, 3)
    assert found.filters.shape == (24, 9)
    assert np.bincount(found.labels).tolist() == [24 // colors] * colors
    assert found.labels[found.order].tolist() == np.repeat(np.arange(colors), 24 // colors).tolist()
    np.testing.assert_allclose(np.linalg.norm(np.asarray(found.colors), axis=1), 1, rtol=1e-12)
    largest = np.abs(np.asarray(found.colors)).argmax(axis=1)
    assert np.all(np.asarray(found.colors)[np.arange(colors), largest] > 0)
    by_hand = [np.outer(found.colors[found.labels[f], :], found.filters[f, :]) for f in range(24)]
    np.testing.assert_allclose(np.asarray(found.dense()), by_hand, atol=1e-12)
    np.testing.assert_allclose(found.error, relative_error(weight, found), rtol=1e-10)


def test_re_solved_filters_beat_aligned_ones_and_those_the_paper():
    for seed in range(10):
        weight = np.random.default_rng(seed).standard_normal((48, 3, 49))
        paper, aligned, resolved = (
            monochromatic(weight, colors=6, filters=kind).error for kind in ("paper", "aligned", "resolved")
        )
        assert resolved < aligned < paper


def test_re_solving_the_filters_of_aligned_clusters_is_no_better():
    for seed in range(20):
        weight = np.random.default_rng(seed).standard_normal((24, 3, 9))
        aligned, resolved = (
            monochromatic(weight, colors=4, filters=kind, restarts=1) for kind in ("aligned", "resolved")
        )
        captured = np.einsum("fc,fcp->fp", aligned.colors[aligned.labels], weight)
        assert resolved.error <= 1 - np.sum(captured**2) / np.sum(weight**2) + 1e-12


def test_the_order_holds_where_colours_are_nearly_pure():
    for seed in range(10):
        rng = np.random.default_rng(seed)
        weight = planted(rng)[0] + 1e-3 * rng.standard_normal((24, 3, 9))
        paper, aligned, resolved = (
            monochromatic(weight, colors=4, filters=kind, restarts=1).error
            for kind in ("paper", "aligned", "resolved")
        )
        assert resolved <= aligned <= paper


def test_history_is_the_error_of_re_solved_filters_and_never_rises(rng):
    lengths = []
    for _ in range(10):
        found = monochromatic(rng.standard_normal((96, 3, 9)), colors=4)
        np.testing.assert_allclose(found.history[-1], found.error, rtol=1e-9)
        assert np.all(np.diff(found.history) < 0)
        lengths.append(len(found.history))
    assert max(lengths) > 2


@pytest.mark.parametrize("filters", ["aligned", "paper"])
def test_history_of_kept_filters_is_that_of_their_colours(rng, filters):
    weight = rng.standard_normal((96, 3, 9))
    found = monochromatic(weight, colors=4, filters=filters)
    left, values, _ = np.linalg.svd(weight, full_matrices=False)
    cosine = np.sum(left[:, :, 0] * found.colors[found.labels], axis=1)
    energies = values[:, 0] ** 2
    np.testing.assert_allclose(found.history[-1], np.sum(energies * (1 - cosine**2)) / energies.sum())
    assert np.all(np.diff(found.history) < 0)


def test_no_assignment_or_filter_improves_the_result(rng):
    weight = rng.standard_normal((24, 3, 9))
    found = monochromatic(weight, colors=4)
    costs = -np.sum(np.einsum("kc,fcp->fkp", found.colors, weight) ** 2, axis=2)
    chosen = costs[np.arange(24), found.labels].sum()
    np.testing.assert_allclose(costs[np.arange(24), balanced_assignment(costs)].sum(), chosen, rtol=1e-12)
    for _ in range(10):
        other = found.filters + 0.1 * rng.standard_normal(found.filters.shape)
        dense = found.colors[found.labels][:, :, None] * other[:, None, :]
        assert np.sum((weight - dense) ** 2) / np.sum(weight**2) > found.error


def test_more_colours_lose_less(rng):
    weight = rng.standard_normal((48, 3, 25))
    errors = [monochromatic(weight, colors=k).error for k in (1, 3, 6, 12, 24, 48)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0]


@pytest.mark.parametrize("filters", ["resolved", "aligned", "paper"])
def test_dead_and_duplicate_filters(to_xp, rng, filters):
    weight = np.repeat(rng.standard_normal((4, 3, 1)) * rng.standard_normal((4, 1, 9)), 3, axis=0)
    weight[3:6] = 0
    found = monochromatic(to_xp(weight), colors=4, filters=filters)
    assert found.error < 1e-20
    assert np.all(np.asarray(found.filters)[3:6] == 0)
    np.testing.assert_allclose(np.linalg.norm(np.asarray(found.colors), axis=1), 1)
    found = monochromatic(to_xp(np.zeros((12, 3, 9))), colors=4, filters=filters)
    assert found.error == 0
    assert np.all(np.asarray(found.dense()) == 0)


def test_the_sign_of_a_filter_decides_nothing(rng):
    weight = rng.standard_normal((24, 3, 9))
    signs = rng.choice([-1.0, 1.0], size=(24, 1, 1))
    found, again = (monochromatic(w, colors=4) for w in (weight, signs * weight))
    assert found.labels.tolist() == again.labels.tolist()
    np.testing.assert_allclose(signs * again.dense(), found.dense(), atol=1e-12)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_library_and_dtype_are_kept(to_xp, rng, kind):
    given = to_xp(rng.standard_normal((8, 3, 9)).astype(kind))
    found = monochromatic(given, colors=2)
    for part in (found.colors, found.filters, found.dense()):
        assert type(part) is type(given)
        assert part.dtype == given.dtype


def test_deterministic_and_the_same_in_every_library(to_xp, rng):
    weight = rng.standard_normal((24, 3, 9))
    found, again = (monochromatic(w, colors=4, seed=5) for w in (weight, to_xp(weight)))
    assert found.labels.tolist() == again.labels.tolist()
    np.testing.assert_allclose(np.asarray(again.colors), found.colors, rtol=1e-10)
    np.testing.assert_allclose(again.history, found.history, rtol=1e-10)


def test_what_cannot_be_done_is_refused_by_name():
    weight = np.ones((12, 3, 9))
    with pytest.raises(
        ValueError, match=r"colors must divide the 12 outputs, got 5; valid: 1, 2, 3, 4, 6, 12$"
    ):
        monochromatic(weight, colors=5)
    with pytest.raises(ValueError, match="filters must be one of resolved, aligned, paper, got 'best'"):
        monochromatic(weight, colors=4, filters="best")
    with pytest.raises(ValueError, match="restarts must be at least 1 without a start, got 0"):
        monochromatic(weight, colors=4, restarts=0)
