"""Truncated SVD in every array library."""

import array_api_strict
import numpy as np
import pytest
import torch

from cnncompress.solvers.svd import leading_vectors, squared_singular_values, truncated_svd


@pytest.fixture(
    params=[np.asarray, torch.from_numpy, array_api_strict.asarray], ids=["numpy", "torch", "strict"]
)
def to_library(request):
    return request.param


@pytest.fixture
def matrix():
    return np.random.default_rng(0).normal(size=(12, 7))


@pytest.mark.parametrize("shape", [(12, 7), (7, 12), (5, 5), (1, 4)])
def test_exact_at_full_rank(to_library, shape):
    matrix = np.random.default_rng(0).normal(size=shape)
    left, values, right = (np.asarray(part) for part in truncated_svd(to_library(matrix), rank=min(shape)))
    np.testing.assert_allclose(left * values @ right, matrix, atol=1e-12)


@pytest.mark.parametrize("rank", range(1, 8))
def test_squared_error_is_the_discarded_energy(to_library, matrix, rank):
    left, values, right = (np.asarray(part) for part in truncated_svd(to_library(matrix), rank=rank))
    assert (left.shape, values.shape, right.shape) == ((12, rank), (rank,), (rank, 7))
    energies = np.asarray(squared_singular_values(to_library(matrix)))
    np.testing.assert_allclose(values**2, energies[:rank], rtol=1e-10)
    np.testing.assert_allclose(
        np.linalg.norm(left * values @ right - matrix) ** 2, energies[rank:].sum(), atol=1e-10
    )


def test_no_matrix_of_the_same_rank_is_closer(matrix):
    left, values, right = truncated_svd(matrix, rank=3)
    error = np.linalg.norm(left * values @ right - matrix)
    rng = np.random.default_rng(1)
    for _ in range(20):
        basis = np.linalg.qr(left + 0.1 * rng.normal(size=left.shape))[0]
        assert error <= np.linalg.norm(basis @ basis.T @ matrix - matrix)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_library_and_dtype_are_kept(to_library, matrix, dtype):
    given = to_library(matrix.astype(dtype))
    for part in truncated_svd(given, rank=2):
        assert type(part) is type(given)
        assert part.dtype == given.dtype


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (9, 9)])
@pytest.mark.parametrize("rank", [1, 4, 6])
def test_leading_vectors_are_those_of_the_svd(shape, rank, rng, to_xp):
    matrix = rng.standard_normal(shape)
    found = np.asarray(leading_vectors(to_xp(matrix), rank=rank))
    expected = np.linalg.svd(matrix)[0][:, :rank]
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-9)


def test_a_random_search_finds_nearly_the_best_subspace(rng, to_xp):
    left, _ = np.linalg.qr(rng.standard_normal((120, 120)))
    matrix = (left * np.arange(1, 121) ** -0.5) @ rng.standard_normal((120, 300))
    found = np.asarray(leading_vectors(to_xp(matrix), rank=20, large=100))
    again = np.asarray(leading_vectors(to_xp(matrix), rank=20, large=100))
    assert (found == again).all()
    np.testing.assert_allclose(found.T @ found, np.eye(20), atol=1e-9)
    best = np.sqrt((np.linalg.svd(matrix, compute_uv=False)[20:] ** 2).sum())
    assert best <= np.linalg.norm(matrix - found @ (found.T @ matrix)) < 1.01 * best
