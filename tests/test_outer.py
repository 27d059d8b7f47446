"""Sums of outer products, in every array library."""

import numpy as np
import pytest
import torch

from cnncompress.solvers.cp_refinement import (
    balanced,
    dense_terms,
    joint_refinement,
    refit_outputs,
    squared_errors,
)
from cnncompress.solvers.outer import full_rank, outer_products, slice_energies
from cnncompress.solvers.outer_greedy import greedy_terms
from cnncompress.solvers.outer_slices import slice_terms

SHAPES = [
    (2, 6, 9, 5),
    (1, 8, 4, 7),
    (3, 2, 9, 5),
    (2, 4, 9, 3),
    (1, 9, 1, 6),
    (2, 1, 9, 4),
    (2, 5, 9, 1),
    (1, 1, 1, 1),
]


def random_tensors(shape=(3, 7, 9, 6), seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def planted(rank, shape=(2, 8, 9, 7), seed=0):
    rng = np.random.default_rng(seed)
    terms = tuple(rng.normal(size=(shape[0], length, rank)) for length in shape[1:])
    return np.einsum("bck,bpk,bfk->bcpf", *terms), terms


def relative(found, tensors):
    return float(((np.asarray(found.dense()) - tensors) ** 2).sum() / (tensors**2).sum())


def unit(tensors):
    return tensors / np.sqrt((tensors**2).sum(axis=(1, 2, 3), keepdims=True))


@pytest.mark.parametrize("start", ["best", "greedy", "slices"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_planted_term_is_recovered(to_xp, start, shape):
    tensors, _ = planted(1, shape)
    found = outer_products(to_xp(tensors), rank=1, start=start)
    assert relative(found, tensors) < 1e-20


def test_greedy_finds_the_planted_vectors():
    tensors, terms = planted(1)
    found = outer_products(tensors, rank=1, start="greedy", joint_sweeps=0)
    assert found.converged["greedy"]
    for vectors, truth in zip((found.inputs, found.spatial, found.outputs), terms, strict=True):
        cosine = (vectors * truth).sum(axis=1) / (
            np.linalg.norm(vectors, axis=1) * np.linalg.norm(truth, axis=1)
        )
        np.testing.assert_allclose(np.abs(cosine), 1, atol=1e-12)


def test_three_planted_terms_are_recovered(to_xp):
    tensors, _ = planted(3)
    found = outer_products(to_xp(tensors), rank=3, joint_sweeps=300)
    assert relative(found, tensors) < 1e-8
    assert relative(outer_products(tensors, rank=2, joint_sweeps=300), tensors) > 1e-3


def test_greedy_terms_do_not_depend_on_how_many_follow_and_never_raise_the_error():
    tensors = unit(random_tensors())
    terms = greedy_terms(tensors, rank=20).terms
    errors = [squared_errors(tensors, tuple(part[..., :rank] for part in terms)) for rank in range(21)]
    assert (np.diff(errors, axis=0) < 0).all()
    for part, first in zip(terms, greedy_terms(tensors, rank=4).terms, strict=True):
        np.testing.assert_array_equal(part[..., :4], first)
    reported = outer_products(tensors, rank=4, start="greedy", joint_sweeps=0).errors["greedy"]
    assert reported == pytest.approx(errors[4].mean())


def test_each_greedy_term_fits_what_the_earlier_ones_left():
    tensors = unit(random_tensors())
    inputs, spatial, outputs = greedy_terms(tensors, rank=3).terms
    residual = tensors
    for k in range(3):
        best = np.einsum("bcpf,bc,bp->bf", residual, inputs[..., k], spatial[..., k])
        np.testing.assert_allclose(outputs[..., k], best, atol=1e-12)
        given_outputs = np.einsum("bcpf,bf->bcp", residual, outputs[..., k])
        strongest = np.linalg.svd(given_outputs)[1][:, 0] / np.linalg.norm(best, axis=1)
        np.testing.assert_allclose(np.linalg.norm(best, axis=1), strongest, rtol=1e-3)
        residual = residual - np.einsum("bc,bp,bf->bcpf", inputs[..., k], spatial[..., k], outputs[..., k])


def test_more_restarts_do_not_lose_the_best_of_few():
    tensors = unit(random_tensors((6, 5, 9, 5), seed=3))
    errors = [
        squared_errors(tensors, greedy_terms(tensors, rank=1, restarts=count).terms).sum()
        for count in (0, 20)
    ]
    assert errors[1] <= errors[0] + 1e-6


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exact_at_full_rank(to_xp, shape, dtype):
    tensors = random_tensors(shape).astype(dtype)
    found = outer_products(to_xp(tensors), rank=full_rank(*shape[1:]))
    assert relative(found, tensors) < (1e-10 if dtype == np.float32 else 1e-25)


@pytest.mark.parametrize("shape", SHAPES)
def test_full_rank_is_the_least_over_the_three_modes(shape):
    channels, positions, outputs = shape[1:]
    assert full_rank(channels, positions, outputs) == min(
        positions * min(channels, outputs),
        channels * min(positions, outputs),
        outputs * min(channels, positions),
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_slices_leave_exactly_the_energy_that_was_foretold(to_xp, shape):
    tensors = random_tensors(shape)
    energies = np.asarray(slice_energies(to_xp(tensors)))
    assert energies.shape == (full_rank(*shape[1:]),)
    assert energies.dtype == np.float64
    assert (np.diff(energies) <= 1e-12).all()
    for rank in range(1, len(energies) + 1):
        terms = tuple(np.asarray(part) for part in slice_terms(to_xp(tensors), rank=rank))
        left = squared_errors(tensors, terms).sum()
        np.testing.assert_allclose(left, energies[rank:].sum(), atol=1e-10)


@pytest.mark.parametrize("rank", [1, 2, 5, 12, 30])
@pytest.mark.parametrize("joint_sweeps", [0, 5])
def test_best_is_never_worse_than_foretold(rank, joint_sweeps):
    tensors = random_tensors()
    energies = slice_energies(tensors)
    found = outer_products(tensors, rank=rank, joint_sweeps=joint_sweeps)
    assert relative(found, tensors) <= energies[rank:].sum() / energies.sum() + 1e-12
    assert relative(found, tensors) <= min(found.errors.values()) + 1e-12


@pytest.mark.parametrize("start", ["best", "greedy", "slices"])
@pytest.mark.parametrize("rank", [1, 4, 15])
def test_stages_never_raise_the_error_and_report_the_true_one(to_xp, start, rank):
    tensors = random_tensors() * np.array([1.0, 10.0, 0.1])[:, None, None, None]
    found = outer_products(to_xp(tensors), rank=rank, start=start, joint_sweeps=6)
    for name in ("slices", "greedy"):
        path = [error for stage, error in found.errors.items() if stage.startswith(name)]
        assert len(path) == (3 if start in {"best", name} else 0)
        assert (np.diff(path) <= 0).all()
    assert found.errors[found.chosen] == pytest.approx(relative(found, tensors), rel=1e-9)
    assert set(found.sweeps) == set(found.converged)
    assert set(found.sweeps) <= set(found.errors)


def test_joint_sweeps_help_and_are_limited():
    tensors = random_tensors()
    errors = outer_products(tensors, rank=8, joint_sweeps=6).errors
    assert errors["greedy+joint"] < 0.99 * errors["greedy"]
    assert errors["slices+joint"] < 0.99 * errors["slices"]
    found = outer_products(tensors, rank=8, joint_sweeps=3, start="slices")
    assert (found.sweeps["slices+joint"], found.converged["slices+joint"]) == (3, False)
    long = outer_products(planted(1)[0] + 1e-3 * random_tensors((2, 8, 9, 7)), rank=1, joint_sweeps=200)
    assert long.converged["slices+joint"]
    assert long.sweeps["slices+joint"] < 200


def test_refit_is_the_least_squares_solution(to_xp):
    tensors = unit(random_tensors())
    terms = greedy_terms(tensors, rank=10).terms
    refitted = tuple(np.asarray(part) for part in refit_outputs(to_xp(tensors), tuple(map(to_xp, terms))))
    for block in range(3):
        pairs = np.einsum("ck,pk->cpk", refitted[0][block], refitted[1][block]).reshape(-1, 10)
        best = np.linalg.lstsq(pairs, tensors[block].reshape(-1, 6), rcond=None)[0]
        np.testing.assert_allclose(refitted[2][block].T, best, atol=1e-9)
    assert (squared_errors(tensors, refitted) < squared_errors(tensors, terms)).all()


def test_refit_bears_terms_that_coincide():
    tensors = unit(random_tensors())
    terms = tuple(np.repeat(part, 2, axis=2) for part in greedy_terms(tensors, rank=3).terms)
    refitted = refit_outputs(tensors, terms)
    single = refit_outputs(tensors, tuple(part[..., ::2] for part in terms))
    np.testing.assert_allclose(squared_errors(tensors, refitted), squared_errors(tensors, single), rtol=1e-9)


def test_refinements_keep_what_they_cannot_better():
    tensors, terms = planted(2)
    for refined in (refit_outputs(tensors, terms), joint_refinement(tensors, terms, sweeps=2)[0]):
        assert (squared_errors(tensors, refined) <= squared_errors(tensors, terms)).all()


@pytest.mark.parametrize(
    "failure",
    [np.linalg.LinAlgError("singular"), torch.linalg.LinAlgError("singular"), None],
    ids=["numpy", "torch", "nan"],
)
def test_a_failed_joint_refinement_leaves_the_terms(monkeypatch, failure):
    def parafac(tensor, rank, *, init, callback, **options):
        callback(None, 0.0)
        if failure:
            raise failure
        return None, [part * np.nan for part in init[1]]

    monkeypatch.setattr("tensorly.decomposition.parafac", parafac)
    tensors = random_tensors()
    found = outer_products(tensors, rank=5, joint_sweeps=4)
    for name in ("slices", "greedy"):
        assert found.errors[f"{name}+joint"] == found.errors[name]
    assert np.isfinite(found.dense()).all()
    assert found.converged["greedy+joint"] is (failure is None)


def test_degenerate_tensors_do_not_blow_up():
    # the best approximation by two terms doesn't exist: ever larger ones that cancel come ever closer
    a, b = np.eye(4)[:2]
    tensor = sum(np.einsum("i,j,k->ijk", *three) for three in ((a, a, b), (a, b, a), (b, a, a)))[None]
    found = outer_products(tensor, rank=2, joint_sweeps=200)
    assert relative(found, tensor) < 0.05
    assert all(np.abs(part).max() < 100 for part in (found.inputs, found.spatial, found.outputs))


@pytest.mark.parametrize("start", ["best", "greedy", "slices"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_zero_blocks_give_zero_terms(to_xp, start, dtype):
    tensors = random_tensors().astype(dtype)
    tensors[1] = 0
    found = outer_products(to_xp(tensors), rank=5, start=start, joint_sweeps=3)
    parts = [np.asarray(part) for part in (found.inputs, found.spatial, found.outputs)]
    assert all(np.isfinite(part).all() for part in parts)
    assert np.abs(np.asarray(found.dense())[1]).max() == 0
    nothing = outer_products(to_xp(np.zeros_like(tensors)), rank=2, start=start)
    assert np.abs(np.asarray(nothing.dense())).max() == 0
    assert nothing.errors[nothing.chosen] == 0


@pytest.mark.parametrize("start", ["best", "greedy", "slices"])
@pytest.mark.parametrize("shape", SHAPES)
def test_rank_above_need_is_harmless(to_xp, start, shape):
    tensors, _ = planted(1, shape)
    tensors = tensors.astype(np.float32)
    rank = full_rank(*shape[1:]) + 3
    found = outer_products(to_xp(tensors), rank=rank, start=start, joint_sweeps=3)
    assert np.asarray(found.inputs).shape == (*shape[:2], rank)
    assert np.isfinite(np.asarray(found.dense())).all()
    assert relative(found, tensors) < 1e-10


@pytest.mark.parametrize("scale", [1e-15, 1e12])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scale_does_not_matter(scale, dtype):
    tensors = random_tensors().astype(dtype)
    errors = [outer_products(tensors * dtype(factor), rank=4).errors for factor in (1, scale)]
    assert list(errors[0]) == list(errors[1])
    np.testing.assert_allclose(list(errors[0].values()), list(errors[1].values()), rtol=1e-3)


def test_lengths_are_shared_equally(to_xp):
    found = outer_products(to_xp(random_tensors()), rank=6)
    lengths = [
        np.linalg.norm(np.asarray(part), axis=1) for part in (found.inputs, found.spatial, found.outputs)
    ]
    np.testing.assert_allclose(lengths[1], lengths[0], rtol=1e-9)
    np.testing.assert_allclose(lengths[2], lengths[0], rtol=1e-9)
    terms = planted(3)[1]
    np.testing.assert_allclose(dense_terms(balanced(terms)), dense_terms(terms), atol=1e-12)


def test_dense_is_the_sum_of_the_terms(to_xp):
    found = outer_products(to_xp(random_tensors()), rank=6)
    inputs, spatial, outputs = (np.asarray(part) for part in (found.inputs, found.spatial, found.outputs))
    naive = np.einsum("bck,bpk,bfk->bcpf", inputs, spatial, outputs)
    np.testing.assert_allclose(np.asarray(found.dense()), naive, atol=1e-12)


@pytest.mark.parametrize("start", ["best", "greedy", "slices"])
def test_the_same_seed_gives_the_same_terms_and_the_input_stays(start):
    tensors = random_tensors()
    before = tensors.copy()
    first, second = (outer_products(tensors, rank=5, start=start, seed=7) for _ in range(2))
    np.testing.assert_array_equal(first.outputs, second.outputs)
    np.testing.assert_array_equal(tensors, before)
    assert first.errors == second.errors


def test_blocks_are_solved_as_if_alone():
    tensors = random_tensors((4, 6, 9, 5))
    together = outer_products(tensors, rank=4, start="slices")
    for block in range(4):
        alone = outer_products(tensors[block : block + 1], rank=4, start="slices")
        np.testing.assert_allclose(together.dense()[block], alone.dense()[0], atol=1e-9)


def test_each_block_keeps_its_better_start():
    tensors = random_tensors((12, 5, 4, 5))
    found = outer_products(tensors, rank=6, joint_sweeps=2)
    single = [outer_products(tensors, rank=6, joint_sweeps=2, start=start) for start in ("slices", "greedy")]
    errors = [((one.dense() - tensors) ** 2).sum(axis=(1, 2, 3)) for one in single]
    best = ((found.dense() - tensors) ** 2).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(best, np.minimum(*errors), rtol=1e-9)
    assert found.chosen == "mixed"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_library_and_dtype_are_kept(to_xp, dtype):
    given = to_xp(random_tensors().astype(dtype))
    found = outer_products(given, rank=3, joint_sweeps=2)
    for part in (found.inputs, found.spatial, found.outputs, found.dense()):
        assert type(part) is type(given)
        assert part.dtype == given.dtype


def test_an_exact_joint_refinement_is_kept():
    tensors, _ = planted(2)
    found = outer_products(tensors, rank=2, joint_sweeps=500, start="slices")
    assert found.errors[found.chosen] == min(found.errors.values())
    both = outer_products(tensors, rank=2, joint_sweeps=500)
    assert relative(both, tensors) <= min(both.errors.values()) * (1 + 1e-6) + 1e-20


def test_libraries_agree(to_xp):
    tensors = random_tensors()
    reference = outer_products(tensors, rank=5)
    found = outer_products(to_xp(tensors), rank=5)
    assert found.errors.keys() == reference.errors.keys()
    np.testing.assert_allclose(list(found.errors.values()), list(reference.errors.values()), rtol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 0}, "rank must be at least 1"),
        ({"start": "hosvd"}, "start must be one of best, greedy, slices"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        outer_products(random_tensors(), **{"rank": 1, **change})


def test_numbers_that_are_not_finite_are_refused():
    tensors = random_tensors()
    tensors[1, 2, 3, 4] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        outer_products(tensors, rank=1)


def test_a_weight_that_was_not_folded_is_refused():
    with pytest.raises(ValueError, match="4 axes"):
        outer_products(random_tensors((4, 3, 3)), rank=1)
