"""The bridge between torch and the solvers' arrays."""

import numpy as np
import pytest
import torch

from cnncompress.arrays import choose_backend, to_array, to_tensor
from cnncompress.errors import BackendError, OptionError


def test_numpy_shares_memory_with_cpu_tensors():
    tensor = torch.arange(6.0).reshape(2, 3)
    array = to_array(tensor, "numpy")
    tensor[0, 0] = 7
    assert array[0, 0] == 7


def test_arrays_come_back_in_the_type_and_layout_of_the_network():
    like = torch.zeros(1, dtype=torch.float16)
    tensor = to_tensor(np.arange(6.0).reshape(2, 3).T, like)
    assert tensor.dtype == torch.float16
    assert tensor.is_contiguous()
    assert tensor.tolist() == [[0, 3], [1, 4], [2, 5]]


def test_auto_is_numpy_on_the_cpu():
    assert choose_backend("auto", torch.device("cpu")) == "numpy"


@pytest.mark.skipif(torch.cuda.is_available(), reason="CuPy may run here")
def test_cupy_that_cannot_run_is_an_error_that_says_why():
    with pytest.raises(BackendError, match=r"--solver cupy can't run: .*use --solver numpy"):
        choose_backend("cupy", torch.device("cpu"))


def test_unknown_backend():
    with pytest.raises(OptionError, match="auto, numpy, cupy"):
        choose_backend("jax", torch.device("cpu"))
