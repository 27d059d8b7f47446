"""The split of a k x k convolution into k x 1 and 1 x k, in every array library."""

import array_api_strict
import numpy as np
import pytest
import torch
from torch.nn import functional

from cnncompress.solvers.spatial import compose, fold, spatial_split


@pytest.fixture(
    params=[np.asarray, torch.from_numpy, array_api_strict.asarray], ids=["numpy", "torch", "strict"]
)
def to_library(request):
    return request.param


def weight_of(outputs=6, inputs=4, height=3, width=3):
    return np.random.default_rng(0).normal(size=(outputs, inputs, height, width))


def squared_error(weight, rank):
    return float(np.linalg.norm(compose(*spatial_split(weight, rank=rank)) - weight) ** 2)


@pytest.mark.parametrize("shape", [(6, 4, 3, 3), (4, 6, 3, 3), (5, 2, 5, 3), (3, 3, 1, 7), (2, 8, 3, 1)])
def test_exact_at_full_rank(to_library, shape):
    weight = weight_of(*shape)
    outputs, inputs, height, width = shape
    full = min(inputs * height, outputs * width)
    vertical, horizontal = spatial_split(to_library(weight), rank=full)
    assert vertical.shape == (full, inputs, height, 1)
    assert horizontal.shape == (outputs, full, 1, width)
    np.testing.assert_allclose(np.asarray(compose(vertical, horizontal)), weight, atol=1e-12)


@pytest.mark.parametrize(
    ("stride", "padding", "dilation"), [(1, 1, 1), (2, 1, 1), ((2, 1), (0, 2), 1), (1, 2, 2)]
)
def test_two_convolutions_in_a_row_equal_the_whole(stride, padding, dilation):
    weight = torch.from_numpy(weight_of())
    vertical, horizontal = spatial_split(weight, rank=12)
    image = torch.from_numpy(np.random.default_rng(1).normal(size=(2, 4, 11, 9)))
    (s_h, s_w), (p_h, p_w) = (v if isinstance(v, tuple) else (v, v) for v in (stride, padding))
    tall = functional.conv2d(image, vertical, stride=(s_h, 1), padding=(p_h, 0), dilation=(dilation, 1))
    both = functional.conv2d(tall, horizontal, stride=(1, s_w), padding=(0, p_w), dilation=(1, dilation))
    whole = functional.conv2d(image, weight, stride=stride, padding=padding, dilation=dilation)
    torch.testing.assert_close(both, whole, rtol=0, atol=1e-10)


def test_squared_error_is_the_discarded_energy_and_never_rises():
    weight = weight_of()
    energies = np.linalg.svd(fold(weight), compute_uv=False) ** 2
    errors = [squared_error(weight, rank) for rank in range(1, 13)]
    np.testing.assert_allclose(errors, [energies[rank:].sum() for rank in range(1, 13)], atol=1e-10)
    assert (np.diff(errors) <= 1e-12).all()


def test_a_separable_kernel_needs_one_rank():
    rng = np.random.default_rng(0)
    weight = compose(rng.normal(size=(1, 4, 3, 1)), rng.normal(size=(6, 1, 1, 3)))
    assert squared_error(weight, 1) < 1e-20
    assert squared_error(weight_of(), 1) > 1


def test_the_scale_is_shared_by_both_factors():
    vertical, horizontal = spatial_split(weight_of(), rank=5)
    np.testing.assert_allclose(
        np.linalg.norm(vertical.reshape(5, -1), axis=1),
        np.linalg.norm(horizontal.transpose(1, 0, 2, 3).reshape(5, -1), axis=1),
    )


def test_input_columns_decide_where_the_error_goes():
    weight = weight_of()
    rng = np.random.default_rng(1)
    columns = rng.normal(size=(12, 12)) * np.geomspace(1, 1e-2, 12) @ rng.normal(size=(12, 500))
    moment = columns @ columns.T / 500
    by_weight = spatial_split(weight, rank=4)
    by_columns = spatial_split(weight, rank=4, column_moment=moment)

    def response_error(factors):
        return np.linalg.norm(fold(compose(*factors) - weight).T @ columns)

    assert response_error(by_columns) < response_error(by_weight)
    np.testing.assert_allclose(
        compose(*spatial_split(weight, rank=4, column_moment=np.eye(12))), compose(*by_weight), atol=1e-10
    )
    np.testing.assert_allclose(
        compose(*spatial_split(weight, rank=12, column_moment=moment)), weight, atol=1e-10
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_library_and_dtype_are_kept(to_library, dtype):
    given = to_library(weight_of().astype(dtype))
    for part in spatial_split(given, rank=3):
        assert type(part) is type(given)
        assert part.dtype == given.dtype
