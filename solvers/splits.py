"""What a layer can be split into, and what every split costs.

A convolution of ``out_channels`` k_h x k_w filters over ``in_channels`` can be left alone, split in two
(``rank`` filters of k_h x k_w, then 1 x 1), or split in three (``spatial`` filters of k_h x 1, ``channel``
filters of 1 x k_w, then 1 x 1). Costs are multiply-accumulates (MACs) of one image. How much a rank keeps is
a share of energy: of the response covariance for the channels, of the folded weight for the spatial part.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class UnreachableBudgetError(ValueError):
    """Nothing admissible fits the budget.

    Attributes:
        budget: what was allowed, in any unit, for example multiply-accumulates (MACs).
        least: what the cheapest admissible choice costs, in the same unit.
    """

    def __init__(self, budget: float, least: float) -> None:
        super().__init__(
            f"nothing fits a budget of {_plain(budget)}; the least these layers can cost is {_plain(least)}"
        )
        self.budget = budget
        self.least = least

    def largest_speedup(self, *, total: int, fixed: int) -> float:
        """The speedup that the cheapest ranks would give.

        Args:
            total: cost of the whole original network.
            fixed: cost of the layers that stay as they are.

        Returns:
            Original over smallest reachable cost.
        """
        return total / (fixed + self.least)


def _plain(value: float) -> str:
    return f"{value:.0f}" if value == round(value, 0) else f"{value:.9g}"


class SplitRanks(NamedTuple):
    """The ranks of one layer: both None if it is left alone, ``spatial`` None if it is split in two."""

    channel: int | None = None
    spatial: int | None = None


def log_energy(energies: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logarithm of the share of energy that the leading values keep.

    Args:
        energies: not negative, descending, shape (n,).

    Returns:
        Shape (n,); entry ``i`` belongs to rank ``i + 1``, the last one is 0. All 0 if there is no energy.

    Example:
        >>> np.exp(log_energy(np.array([3.0, 1.0, 0.0])))
        array([0.75, 1.  , 1.  ])
    """
    # summed from the small end, so that a tail of 1e-20 still tells one rank from the next
    tails = np.cumsum(energies[::-1])[::-1]
    if not tails[0] > 0:
        return np.zeros(len(energies))
    kept: NDArray[np.float64] = np.log1p(-np.append(tails[1:], 0.0) / tails[0])
    return kept


def _descending(energies: NDArray[np.float64]) -> NDArray[np.float64]:
    values = np.asarray(energies, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"energies must be a vector with at least one entry, got shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("energies must be finite, got NaN or infinity")
    return np.sort(np.maximum(values, 0.0))[::-1]


def _multiples(step: int, first: int, last: int) -> NDArray[np.int64]:
    return np.arange(-(-first // step) * step, last + 1, step, dtype=np.int64)


@dataclass(frozen=True, eq=False, kw_only=True)
class ChannelSplit:
    """A layer and its splits into k_h x k_w -> 1 x 1.

    Attributes:
        energies: eigenvalues of the response covariance, shape (out_channels,); negative ones, which are
            rounding, count as 0.
        cost: MACs of the layer as it is.
        cost_per_rank: MACs of one rank, (k_h k_w in_channels + out_channels) h w.
        step: ranks are multiples of this.
        floor: smallest rank.
    """

    energies: NDArray[np.float64]
    cost: int
    cost_per_rank: int
    step: int = 1
    floor: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "energies", _descending(self.energies))
        for name in ("cost", "cost_per_rank", "step", "floor"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    @cached_property
    def ranks(self) -> NDArray[np.int64]:
        """Every multiple of the step from the floor to the number of output channels, ascending."""
        return _multiples(self.step, self.floor, len(self.energies))

    @property
    def smallest(self) -> int:
        """The floor, rounded up to a multiple of the step; above the full rank nothing is admissible."""
        return -(-self.floor // self.step) * self.step

    @cached_property
    def log_energy(self) -> NDArray[np.float64]:
        """Log share of response energy, entry ``rank - 1``."""
        return log_energy(self.energies)

    def macs(self, channel: int | None) -> int:
        """Cost at a rank.

        Args:
            channel: the rank, or None for the layer as it is.

        Returns:
            MACs of one image.
        """
        return self.cost if channel is None else self.cost_per_rank * channel

    @property
    def least(self) -> int:
        """MACs of the cheapest of the layer as it is and its splits in two."""
        return self.macs(self.worthwhile(self.smallest))

    def worthwhile(self, channel: int | None) -> int | None:
        """The break-even rule: a split that saves nothing isn't made.

        Args:
            channel: a rank, or None.

        Returns:
            The rank if its split is cheaper than the layer, else None.
        """
        admissible = channel is not None and channel <= len(self.energies)
        return channel if admissible and self.macs(channel) < self.cost else None


@dataclass(frozen=True, eq=False, kw_only=True)
class SpatialSplit(ChannelSplit):
    """A layer that can also be split into k_h x 1 -> 1 x k_w -> 1 x 1.

    Attributes:
        spatial_energies: squared singular values of the weight folded to (in_channels k_h) x
            (out_channels k_w), all min(in_channels k_h, out_channels k_w) of them.
        vertical_cost_per_rank: MACs of one k_h x 1 filter, k_h in_channels h W; W is the input's width,
            because only the next factor strides along it.
        horizontal_cost_per_pair: MACs of 1 x k_w from one spatial to one channel rank, k_w h w.
        pointwise_cost_per_rank: MACs of the 1 x 1 for one channel rank, out_channels h w.
        spatial_step: spatial ranks are multiples of this.
        spatial_floor: smallest spatial rank.
    """

    spatial_energies: NDArray[np.float64]
    vertical_cost_per_rank: int
    horizontal_cost_per_pair: int
    pointwise_cost_per_rank: int
    spatial_step: int = 1
    spatial_floor: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "spatial_energies", _descending(self.spatial_energies))
        costs = ("vertical_cost_per_rank", "horizontal_cost_per_pair", "pointwise_cost_per_rank")
        for name in (*costs, "spatial_step", "spatial_floor"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    @cached_property
    def spatial_ranks(self) -> NDArray[np.int64]:
        """Every multiple of the spatial step from its floor to the full rank, ascending."""
        return _multiples(self.spatial_step, self.spatial_floor, len(self.spatial_energies))

    @cached_property
    def spatial_log_energy(self) -> NDArray[np.float64]:
        """Log share of weight energy, entry ``spatial rank - 1``."""
        return log_energy(self.spatial_energies)

    def macs(self, channel: int | None, spatial: int | None = None) -> int:
        """Cost at a pair of ranks.

        Args:
            channel: channel rank, or None for the layer as it is.
            spatial: spatial rank, or None for the split in two.

        Returns:
            MACs of one image.
        """
        if channel is None or spatial is None:
            return super().macs(channel)
        second = self.horizontal_cost_per_pair * spatial + self.pointwise_cost_per_rank
        return self.vertical_cost_per_rank * spatial + second * channel
