"""Sums of outer products: 1 x 1, depthwise k x k, 1 x 1 (Denton et al., eq. 6 and 7, and section 3.3)."""

from dataclasses import dataclass
from typing import ClassVar, get_args

from array_api_compat import array_namespace
from typing_extensions import override

from cnncompress.decompositions.base import Ranks
from cnncompress.decompositions.blockwise import Biclustering, Blockwise, each, joined_last, weighed_blocks
from cnncompress.decompositions.chains import Step
from cnncompress.decompositions.clustered import ClusteredChain
from cnncompress.decompositions.registry import option, register
from cnncompress.decompositions.weighted import folded
from cnncompress.errors import OptionError
from cnncompress.inspect import LayerInfo
from cnncompress.responses import Statistics
from cnncompress.solvers import Array
from cnncompress.solvers.metric import SeparableMetric
from cnncompress.solvers.outer import OuterProducts, Start, full_rank, outer_products, slice_energies

STARTS = get_args(Start)


@dataclass(frozen=True, kw_only=True)
class OuterBlocks(Blockwise):
    """Outer products for every pair of clusters.

    Attributes:
        rank: K, terms for each pair; None leaves the choice to the planner.
        start: ``"greedy"`` fits one term after another (Denton et al.); ``"slices"`` starts from singular
            vectors of slices of the weight, which leads to less error in the same time; ``"best"`` does both.
        joint_sweeps: of alternating least squares over all terms together, after the start.
        restarts: of each greedy term.
        seed: of random starts.
    """

    rank: int | None = option(None, symbol="K", least=1)
    start: Start = "slices"
    joint_sweeps: int = option(30, least=0)
    restarts: int = option(1, least=0)
    seed: int = option(0, least=0)
    name: ClassVar[str]
    rank_names: ClassVar[tuple[str, ...]] = ("K",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start not in STARTS:
            raise OptionError(f"{self.name}: option start is best, greedy or slices, got {self.start!r}")

    @property
    @override
    def exact(self) -> bool:
        # what greedy terms have not explained they only approach, however many follow
        return self.start != "greedy"

    @override
    def obstacle(self, layer: LayerInfo) -> str:
        if max(layer.kernel_size) == 1:
            return "its kernel is 1 x 1: there is nothing to filter between two 1 x 1"
        return super().obstacle(layer)

    @override
    def full_ranks(self, layer: LayerInfo) -> Ranks:
        inputs, outputs = self.clusters
        positions = layer.patch_size // layer.in_channels
        return (full_rank(layer.in_channels // inputs, positions, layer.out_channels // outputs),)

    @override
    def asked(self, layer: LayerInfo) -> Ranks | None:
        return None if self.rank is None else (self.rank,)

    @override
    def steps(self, layer: LayerInfo, ranks: Ranks) -> tuple[Step, ...]:
        return self.chain(layer, read=ranks[0], written=ranks[0], depthwise=True)

    @override
    def energies(self, layer: LayerInfo, weight: Array, statistics: Statistics | None) -> tuple[Array, ...]:
        tensor = folded(weight)
        metric = self.metric_of(tensor, statistics)
        blocks, _ = weighed_blocks(tensor, self.grouped(tensor, metric), metric)
        return (slice_energies(blocks),)

    @override
    def solve(self, tensor: Array, metric: SeparableMetric, ranks: Ranks) -> ClusteredChain:
        xp = array_namespace(tensor)
        grouping = self.grouped(tensor, metric)
        blocks, metrics = weighed_blocks(tensor, grouping, metric)
        found = outer_products(
            blocks,
            rank=ranks[0],
            start=self.start,
            joint_sweeps=self.joint_sweeps,
            restarts=self.restarts,
            seed=self.seed,
        )
        inputs = each(SeparableMetric.unweigh_inputs, metrics, found.inputs)
        spatial = each(SeparableMetric.unweigh_spatial, metrics, found.spatial)
        outputs = each(SeparableMetric.unweigh_outputs, metrics, found.outputs)
        return ClusteredChain(
            grouping,
            xp.permute_dims(inputs, (0, 2, 1)),
            xp.permute_dims(spatial, (0, 2, 1)),
            joined_last(grouping, outputs),
            (_convergence(found),),
        )


def _convergence(found: OuterProducts) -> str:
    steps = [
        f"{stage} {error:.3g}"
        + (f" ({found.sweeps[stage]} sweeps{'' if found.converged[stage] else ', not converged'})")
        for stage, error in found.errors.items()
        if stage in found.sweeps
    ]
    return f"weight error by start and refinement: {', '.join(steps)}; kept: {found.chosen}"


@register
@dataclass(frozen=True, kw_only=True)
class Outer(OuterBlocks):
    """Outer products of the whole weight: K (c H W + k² h w + d h w) multiply-accumulates."""

    name: ClassVar[str] = "outer"


@register
@dataclass(frozen=True, kw_only=True)
class BiclusteringOuter(OuterBlocks, Biclustering):
    """Outer products between clusters: G H K (c/G H W + k² h w + d/H h w) multiply-accumulates."""

    name: ClassVar[str] = "biclustering-outer"
