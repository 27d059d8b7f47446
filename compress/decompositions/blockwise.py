"""What the methods on pairs of clusters share (Denton et al., section 3.3)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import gcd
from typing import ClassVar, Literal, get_args

import numpy as np
from array_api_compat import array_namespace
from typing_extensions import override

from cnncompress.decompositions.base import multiples
from cnncompress.decompositions.chains import Link, Reorder, Shuffle, Step, unsupported
from cnncompress.decompositions.clustered import Grouping
from cnncompress.decompositions.divisibility import divisors, indivisible
from cnncompress.decompositions.registry import option
from cnncompress.decompositions.weighted import Weighted
from cnncompress.errors import OptionError
from cnncompress.inspect import LayerInfo
from cnncompress.solvers import Array
from cnncompress.solvers.biclustering import bicluster, blocks_of
from cnncompress.solvers.metric import SeparableMetric

GroupingRule = Literal["clustered", "random", "ordered"]
GROUPINGS = get_args(GroupingRule)


@dataclass(frozen=True, kw_only=True)
class Blockwise(Weighted):
    """A method that gives every pair of an input and an output cluster factors of its own."""

    name: ClassVar[str]

    @property
    def clusters(self) -> tuple[int, int]:
        """Numbers of clusters of the inputs and of the outputs."""
        return 1, 1

    @property
    def permutes(self) -> bool:
        """Whether channels are permuted into clusters."""
        return False

    @override
    def obstacle(self, layer: LayerInfo) -> str:
        if layer.kind == "linear":
            return "it is linear; svd-out splits it"
        inputs, outputs = self.clusters
        return (
            unsupported(layer)
            or indivisible(layer.in_channels, inputs, "clusters (G)", "input channels")
            or indivisible(layer.out_channels, outputs, "clusters (H)", "outputs")
        )

    @override
    def rank_step(self, layer: LayerInfo, step: int) -> int:
        # a rank stands for as many channels as there are pairs of clusters
        inputs, outputs = self.clusters
        return multiples(step // gcd(step, inputs * outputs), min(self.full_ranks(layer)))[0]

    def chain(self, layer: LayerInfo, *, read: int, written: int, depthwise: bool) -> tuple[Step, ...]:
        """The chain of a layer.

        Args:
            layer: the layer.
            read: rank of each pair behind the first factor.
            written: rank of each pair in front of the last factor.
            depthwise: whether the middle factor filters each channel alone.

        Returns:
            Its convolutions and permutations.
        """
        inputs, outputs = self.clusters
        pairs = inputs * outputs
        permuted = self.permutes
        return (
            *((Reorder(layer.in_channels),) if permuted and inputs > 1 else ()),
            Link("pointwise", layer.in_channels, pairs * read, groups=inputs),
            Link("whole", pairs * read, pairs * written, groups=pairs * (read if depthwise else 1)),
            *((Shuffle(inputs),) if inputs > 1 and outputs > 1 else ()),
            Link("pointwise", pairs * written, layer.out_channels, groups=outputs, bias=True),
            *((Reorder(layer.out_channels),) if permuted and outputs > 1 else ()),
        )

    def grouped(self, tensor: Array, metric: SeparableMetric) -> Grouping:
        """The clusters of a layer; here all channels in one.

        Args:
            tensor: the weight, shape (in_channels, positions, out_channels).
            metric: in which channels are near each other.

        Returns:
            The clusters.
        """
        del metric
        return Grouping(1, 1, np.arange(tensor.shape[0]), np.arange(tensor.shape[2]), permuted=False)


@dataclass(frozen=True, kw_only=True)
class Biclustering(Blockwise):
    """A blockwise method whose clusters are found.

    Attributes:
        input_clusters: G, a divisor of the input channels.
        output_clusters: H, a divisor of the outputs.
        dimension: q, of the subspace that stands for a cluster.
        grouping: ``"clustered"``; ``"random"`` and ``"ordered"`` (channels as they come, which saves the
            permutations) are what it is compared with.
        restarts: of the clustering.
        seed: of the clustering and of random starts.
    """

    input_clusters: int = option(2, symbol="G", least=1)
    output_clusters: int = option(2, symbol="H", least=1)
    dimension: int = option(1, symbol="q", least=1)
    grouping: GroupingRule = "clustered"
    restarts: int = option(5, least=1)
    seed: int = option(0, least=0)
    name: ClassVar[str]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.grouping not in GROUPINGS:
            raise OptionError(
                f"{self.name}: option grouping is clustered, random or ordered, got {self.grouping!r}"
            )

    @property
    @override
    def clusters(self) -> tuple[int, int]:
        return self.input_clusters, self.output_clusters

    @property
    @override
    def permutes(self) -> bool:
        return self.grouping != "ordered"

    @override
    def choices(self, layer: LayerInfo) -> Mapping[str, Sequence[int]]:
        return {"G": divisors(layer.in_channels), "H": divisors(layer.out_channels)}

    @override
    def grouped(self, tensor: Array, metric: SeparableMetric) -> Grouping:
        inputs, outputs = self.clusters
        # the root of a covariance mixes channels; what tells them apart is how much each of them counts
        alone = SeparableMetric(metric.diagonal, metric.spatial, metric.outputs, metric.least)
        scaled = alone.weigh(tensor)
        found = bicluster(
            scaled,
            inputs=inputs,
            outputs=outputs,
            dimension=self.dimension,
            restarts=self.restarts,
            seed=self.seed,
            grouping=self.grouping,
        )
        return Grouping(inputs, outputs, found.inputs.order, found.outputs.order, permuted=self.permutes)


def weighed_blocks(
    tensor: Array, grouping: Grouping, metric: SeparableMetric
) -> tuple[Array, list[SeparableMetric]]:
    """The weight of every pair of clusters, in the space where its metric is the Frobenius norm.

    Args:
        tensor: the weight, shape (in_channels, positions, out_channels).
        grouping: the clusters.
        metric: of the whole weight.

    Returns:
        Blocks (pairs, channels of a cluster, positions, outputs of a cluster), and the metric of each.
    """
    xp = array_namespace(tensor)
    blocks = blocks_of(
        tensor,
        grouping.input_order,
        grouping.output_order,
        inputs=grouping.inputs,
        outputs=grouping.outputs,
    )
    metrics = [
        metric.part(grouping.input_cluster(g), grouping.output_cluster(h))
        for g in range(grouping.inputs)
        for h in range(grouping.outputs)
    ]
    return xp.stack([part.weigh(blocks[b, ...]) for b, part in enumerate(metrics)], axis=0), metrics


def each(
    function: Callable[[SeparableMetric, Array], Array], metrics: list[SeparableMetric], of: Array
) -> Array:
    """Apply a function of a block's metric to every block's factors.

    Args:
        function: for example ``SeparableMetric.unweigh_inputs``.
        metrics: of the blocks.
        of: their factors, shape (blocks, ...).

    Returns:
        The results, stacked.
    """
    xp = array_namespace(of)
    return xp.stack([function(metric, of[b, ...]) for b, metric in enumerate(metrics)], axis=0)


def joined_last(grouping: Grouping, outputs: Array) -> tuple[Array, ...]:
    """The last factor of each cluster of outputs.

    Args:
        grouping: the clusters.
        outputs: vectors of each pair, shape (pairs, outputs of a cluster, rank).

    Returns:
        For each cluster shape (outputs, features), features in the order that `ClusteredChain` has them in.
    """
    xp = array_namespace(outputs)
    _, members, rank = outputs.shape
    by_pair = xp.reshape(outputs, (grouping.inputs, grouping.outputs, members, rank))
    axes = (1, 2, 3, 0) if grouping.shuffled else (1, 2, 0, 3)
    ordered = xp.reshape(xp.permute_dims(by_pair, axes), (grouping.outputs, members, -1))
    return tuple(ordered[cluster, ...] for cluster in range(grouping.outputs))
