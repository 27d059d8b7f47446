"""Filters in groups, then a 1 x 1 that mixes them: root modules (Ioannou et al., section 3)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import gcd
from typing import ClassVar, Literal, get_args

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray
from typing_extensions import override

from cnncompress.decompositions.base import Factors, Ranks, multiples
from cnncompress.decompositions.chains import Link, Reorder, Step, unsupported
from cnncompress.decompositions.divisibility import divisors, indivisible
from cnncompress.decompositions.from_moments import Fitted, FromMoments
from cnncompress.decompositions.registry import option, register
from cnncompress.errors import OptionError
from cnncompress.inspect import LayerInfo
from cnncompress.responses import Statistics
from cnncompress.solvers import Array
from cnncompress.solvers.blocks import patch_entries, reordered, reordered_covariances
from cnncompress.solvers.group_regression import (
    GroupedFactors,
    fit_by_groups,
    group_energies,
    split_by_groups,
)
from cnncompress.solvers.input_groups import choose_input_groups
from cnncompress.solvers.joint_moments import Covariances

InputGrouping = Literal["contiguous", "clustered"]
GROUPINGS = get_args(InputGrouping)


@register
@dataclass(frozen=True, kw_only=True)
class Root(FromMoments):
    """A grouped k x k without bias, then a linear 1 x 1 (Ioannou et al., https://arxiv.org/abs/1605.06489).

    R (k² c/g + d) h w multiply-accumulates for R channels between the two, R/g of each group. Exact at
    R/g = min(d, k² c/g).

    Attributes:
        groups: of the inputs (g; N in the paper's "root-N"), a divisor of the input channels.
        rank: R, a multiple of the groups; None lets the planner choose.
        grouping: ``"contiguous"`` takes the inputs as they stand; ``"clustered"`` brings inputs that go
            together into one group, behind a permutation.
        swaps: of two inputs that are tried after clustering. On VGG-16's conv3_3 (4 groups, R = d) forty of
            them lowered what they look at by 0.4 %, and not the error of what was then fitted to responses.
        sweeps: over all groups on responses, at most.
        seed: of the clustering.
    """

    groups: int = option(2, symbol="N", least=1)
    rank: int | None = option(None, symbol="R", least=1)
    grouping: InputGrouping = "contiguous"
    swaps: int = option(0, least=0)
    sweeps: int = option(20, least=1)
    seed: int = option(0, least=0)
    name: ClassVar[str] = "root"
    rank_names: ClassVar[tuple[str, ...]] = ("R",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.grouping not in GROUPINGS:
            raise OptionError(f"root: option grouping is contiguous or clustered, got {self.grouping!r}")

    @override
    def obstacle(self, layer: LayerInfo) -> str:
        if layer.kind == "linear":
            return "it is linear; svd-out splits it"
        return unsupported(layer) or indivisible(layer.in_channels, self.groups, "groups", "input channels")

    @override
    def full_ranks(self, layer: LayerInfo) -> Ranks:
        return (self.groups * min(layer.out_channels, layer.patch_size // self.groups),)

    @override
    def unfit(self, layer: LayerInfo, ranks: Ranks) -> str:
        if ranks[0] % self.groups:
            return f"R = {ranks[0]} is no multiple of its {self.groups} groups"
        return ""

    @override
    def choices(self, layer: LayerInfo) -> Mapping[str, Sequence[int]]:
        return {"groups": divisors(layer.in_channels)}

    @override
    def asked(self, layer: LayerInfo) -> Ranks | None:
        return None if self.rank is None else (self.rank,)

    @override
    def rank_step(self, layer: LayerInfo, step: int) -> int:
        each = self.full_ranks(layer)[0] // self.groups
        return self.groups * multiples(step // gcd(step, self.groups), each)[0]

    @override
    def settings(self, layer: LayerInfo, step: int) -> tuple[Ranks, ...]:
        (full,) = self.full_ranks(layer)
        each = multiples(step // gcd(step, self.groups), full // self.groups)
        return tuple((self.groups * rank,) for rank in each)

    @override
    def energies(self, layer: LayerInfo, weight: Array, statistics: Statistics | None) -> tuple[Array, ...]:
        order = self._order(layer, weight, None, self.full_ranks(layer)[0] // (2 * self.groups))
        each = np.asarray(group_energies(_by_order(layer, weight, order), groups=self.groups))
        return (np.repeat(each / self.groups, self.groups),)

    @override
    def steps(self, layer: LayerInfo, ranks: Ranks) -> tuple[Step, ...]:
        return (
            *((Reorder(layer.in_channels),) if self._permutes else ()),
            Link("whole", layer.in_channels, ranks[0], groups=self.groups),
            Link("pointwise", ranks[0], layer.out_channels, bias=True),
        )

    @override
    def on_weight(self, layer: LayerInfo, weight: Array, bias: Array, ranks: Ranks) -> Fitted:
        rank = ranks[0] // self.groups
        order = self._order(layer, weight, None, rank)
        factors = split_by_groups(_by_order(layer, weight, order), groups=self.groups, rank=rank)
        return self._fitted(layer, factors, order, bias)

    @override
    def on_moments(
        self, layer: LayerInfo, weight: Array, covariances: Covariances, ranks: Ranks, start: Fitted
    ) -> Mapping[str, Fitted]:
        rank = ranks[0] // self.groups
        if not self._permutes:
            return {
                "responses": self._on_order(layer, weight, covariances, rank, np.arange(layer.in_channels))
            }
        return {
            "responses": self._on_order(layer, weight, covariances, rank, start.factors.orders[0]),
            "responses, groups by inputs": self._on_order(
                layer, weight, covariances, rank, self._order(layer, weight, covariances.regressor, rank)
            ),
        }

    @property
    def _permutes(self) -> bool:
        return self.grouping == "clustered" and self.groups > 1

    def _order(
        self, layer: LayerInfo, weight: Array, covariance: Array | None, rank: int
    ) -> NDArray[np.int64]:
        if not self._permutes:
            return np.arange(layer.in_channels)
        found = choose_input_groups(
            array_namespace(weight).reshape(weight, (layer.out_channels, -1)),
            covariance,
            channels=layer.in_channels,
            groups=self.groups,
            rank=rank,
            trials=self.swaps,
            seed=self.seed,
        )
        return found.order

    def _on_order(
        self,
        layer: LayerInfo,
        weight: Array,
        covariances: Covariances,
        rank: int,
        order: NDArray[np.int64],
    ) -> Fitted:
        first = split_by_groups(_by_order(layer, weight, order), groups=self.groups, rank=rank)
        by_group = reordered_covariances(
            covariances, _entries(layer, order), np.arange(layer.out_channels, dtype=np.int64)
        )
        factors = fit_by_groups(by_group, first, sweeps=self.sweeps).factors
        return self._fitted(layer, factors, order, by_group.bias(factors.weight))

    def _fitted(
        self, layer: LayerInfo, factors: GroupedFactors, order: NDArray[np.int64], bias: Array
    ) -> Fitted:
        xp = array_namespace(bias)
        groups, rank, _ = factors.filters.shape
        filters = xp.reshape(factors.filters, (groups * rank, -1, *layer.kernel_size))
        weights = (filters, factors.pointwise[:, :, None, None])
        back = np.argsort(_entries(layer, order), kind="stable")
        return Fitted(
            Factors(weights, bias, orders=(order,) if self._permutes else ()),
            reordered(factors.weight, back, axis=1),
            bias,
        )


def _entries(layer: LayerInfo, order: NDArray[np.int64]) -> NDArray[np.int64]:
    return patch_entries(order, layer.patch_size // layer.in_channels)


def _by_order(layer: LayerInfo, weight: Array, order: NDArray[np.int64]) -> Array:
    """The weight as a matrix whose columns are sorted by group."""
    flat = array_namespace(weight).reshape(weight, (layer.out_channels, -1))
    return reordered(flat, _entries(layer, order), axis=1)
