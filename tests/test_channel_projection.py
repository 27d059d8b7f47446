"""Choice of a convolution's input channels: by the metric of what it reads, and by a Tucker decomposition."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cnncompress.solvers.channel_projection import channel_energies, channel_split
from cnncompress.solvers.tucker_start import tucker_split

Floats = NDArray[np.float64]


@pytest.fixture
def weight(rng: np.random.Generator) -> Floats:
    return rng.standard_normal((6, 4, 3, 5))


def composed(first: Floats, second: Floats) -> Floats:
    """The convolution that a 1 x 1 and a kernel amount to."""
    return np.einsum("orhw,rc->ochw", second, first[:, :, 0, 0])


class TestChannelSplit:
    def test_energy_left_over_is_the_squared_error_in_the_metric(
        self, weight: Floats, rng: np.random.Generator
    ) -> None:
        mixing = rng.standard_normal((4, 4))
        moment = mixing @ mixing.T + np.eye(4)
        energies = channel_energies(weight, channel_moment=moment)
        for rank in (1, 2, 3):
            first, second = channel_split(weight, rank=rank, channel_moment=moment)
            error = weight - composed(first, second)
            lost = np.einsum("ochw,ce,oehw->", error, moment, error)
            assert lost == pytest.approx(energies[rank:].sum())

    def test_the_plain_norm_keeps_channels_that_were_never_seen(self, weight: Floats) -> None:
        weight[:, 0] *= 10
        moment = np.diag([0.0, 1.0, 1.0, 1.0])
        lost = []
        for isotropic in (0.0, 1.0):
            first, second = channel_split(weight, rank=2, channel_moment=moment, isotropic=isotropic)
            rest = weight - composed(first, second)
            lost.append(np.sum(rest[:, 0] ** 2) / np.sum(weight[:, 0] ** 2))
        assert lost[0] > 0.9
        assert lost[1] < 0.1

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_library_and_type_are_kept(self, to_xp: Callable[[Any], Any], dtype: Any, weight: Floats) -> None:
        given, moment = to_xp(weight.astype(dtype)), to_xp(np.diag([4.0, 1.0, 0.0, 2.0]))
        for part in channel_split(given, rank=2, channel_moment=moment):
            assert type(part) is type(given)
            assert part.dtype == given.dtype
            assert np.isfinite(np.asarray(part)).all()

    def test_a_weight_of_zeros_gives_zeros(self) -> None:
        first, second = channel_split(np.zeros((6, 4, 3, 3)), rank=3, channel_moment=np.zeros((4, 4)))
        assert np.isfinite(first).all()
        assert not second.any()


class TestTuckerSplit:
    def test_exact_and_orthonormal(self, to_xp: Callable[[Any], Any], weight: Floats) -> None:
        first, second = (
            np.asarray(part) for part in tucker_split(to_xp(weight), input_rank=4, output_rank=2)
        )
        filters = first[:, :, 0, 0]
        np.testing.assert_allclose(filters @ filters.T, np.eye(4), atol=1e-12)
        np.testing.assert_allclose(composed(first, second), weight, atol=1e-12)

    @pytest.mark.parametrize("ranks", [(4, 1), (1, 6), (3, 3)])
    def test_damaged_weights_leave_it_finite(self, ranks: tuple[int, int]) -> None:
        weight = np.zeros((6, 4, 3, 3))
        for planted in (0.0, 1.0):
            weight[1, 2] = planted
            for part in tucker_split(weight, input_rank=ranks[0], output_rank=ranks[1]):
                assert np.isfinite(part).all()

    def test_planted_channels_are_found(self, rng: np.random.Generator) -> None:
        mixing = rng.standard_normal((2, 4))
        weight = np.einsum("orhw,rc->ochw", rng.standard_normal((6, 2, 3, 3)), mixing)
        first, second = tucker_split(weight, input_rank=2, output_rank=6)
        np.testing.assert_allclose(composed(first, second), weight, atol=1e-10)
