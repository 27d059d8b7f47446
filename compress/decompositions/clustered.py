"""What biclustered methods solve for: grouped 1 x 1, k x k within pairs of clusters, grouped 1 x 1."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray

from cnncompress.decompositions.base import Factors
from cnncompress.decompositions.weighted import Branch, taken
from cnncompress.solvers import Array


@dataclass(frozen=True, eq=False)
class Grouping:
    """Clusters of equal size.

    Attributes:
        inputs: number of clusters of the input channels, G.
        outputs: number of clusters of the outputs, H.
        input_order: input channels sorted by cluster.
        output_order: outputs sorted by cluster.
        permuted: whether the chain permutes channels; otherwise both orders are those of the layer.
    """

    inputs: int
    outputs: int
    input_order: NDArray[np.int64]
    output_order: NDArray[np.int64]
    permuted: bool

    @property
    def shuffled(self) -> bool:
        """Whether the last factor reads channels in another order than the middle one writes."""
        return self.inputs > 1 and self.outputs > 1

    def input_cluster(self, cluster: int) -> NDArray[np.int64]:
        """Input channels of a cluster.

        Args:
            cluster: below ``inputs``.

        Returns:
            Indices.
        """
        return np.split(self.input_order, self.inputs)[cluster]

    def output_cluster(self, cluster: int) -> NDArray[np.int64]:
        """Outputs of a cluster.

        Args:
            cluster: below ``outputs``.

        Returns:
            Indices.
        """
        return np.split(self.output_order, self.outputs)[cluster]


@dataclass(frozen=True, eq=False)
class ClusteredChain:
    """Factors for every pair of clusters; pair (g, h) is number g * H + h.

    Attributes:
        grouping: the clusters.
        first: what each pair reads of its input channels, shape (pairs, rank, channels of a cluster).
        core: filters of each pair, shape (pairs, rank, positions) if depthwise, else
            (pairs, output rank, input rank, positions).
        last: for each cluster of outputs its weights, shape (outputs of a cluster, features).
        notes: see `Factors`.
    """

    grouping: Grouping
    first: Array
    core: Array
    last: tuple[Array, ...]
    notes: tuple[str, ...] = ()

    @property
    def branches(self) -> Sequence[Branch]:
        """One for each cluster of outputs."""
        return tuple(ClusterBranch(self, cluster) for cluster in range(self.grouping.outputs))

    def with_last(self, last: Sequence[Array]) -> "ClusteredChain":
        """The same chain with another last factor."""
        return replace(self, last=tuple(last))

    def factors(self, kernel_size: tuple[int, int], bias: Array) -> Factors:
        """Weights of the three convolutions, and the permutations around them."""
        xp = array_namespace(self.first)
        grouping = self.grouping
        first = xp.reshape(self.first, (-1, self.first.shape[2], 1, 1))
        read = 1 if self.core.ndim == 3 else self.core.shape[2]
        core = xp.reshape(self.core, (-1, read, *kernel_size))
        last = xp.concat(list(self.last), axis=0)[:, :, None, None]
        orders = [grouping.input_order] if grouping.permuted and grouping.inputs > 1 else []
        if grouping.permuted and grouping.outputs > 1:
            orders.append(np.argsort(grouping.output_order, kind="stable"))
            bias = taken(bias, grouping.output_order)
        return Factors((first, core, last), bias, orders=tuple(orders), notes=self.notes)


@dataclass(frozen=True, eq=False)
class ClusterBranch:
    """What one cluster of outputs reads: its pairs with all clusters of inputs.

    Attributes:
        chain: it belongs to.
        cluster: of the outputs.
    """

    chain: ClusteredChain
    cluster: int

    @property
    def outputs(self) -> NDArray[np.int64]:
        """The cluster's outputs."""
        return self.chain.grouping.output_cluster(self.cluster)

    @property
    def last(self) -> Array:
        """Their weights in the last factor."""
        return self.chain.last[self.cluster]

    def features(self, patches: Array) -> Array:
        """Outputs of the middle factor, in the order in which the shuffle leaves them."""
        xp = array_namespace(patches)
        grouping = self.chain.grouping
        samples = patches.shape[1]
        by_channel = xp.reshape(patches, (grouping.input_order.size, -1))
        found = []
        for cluster in range(grouping.inputs):
            pair = cluster * grouping.outputs + self.cluster
            read = taken(by_channel, grouping.input_cluster(cluster))
            mixed = self.chain.first[pair, ...] @ read  # rank, positions * samples
            found.append(_filtered(self.chain.core[pair, ...], mixed, samples))
        # the last factor reads rank by rank all clusters of inputs, or without a shuffle the other way round
        return xp.reshape(xp.stack(found, axis=1 if grouping.shuffled else 0), (-1, samples))


def _filtered(core: Array, mixed: Array, samples: int) -> Array:
    """Depthwise (rank, positions) or full (output rank, input rank, positions) filters on mixed patches."""
    xp = array_namespace(mixed)
    if core.ndim == 3:
        return xp.reshape(core, (core.shape[0], -1)) @ xp.reshape(mixed, (-1, samples))
    by_position = xp.reshape(mixed, (core.shape[0], core.shape[1], samples))
    # a sum over few positions: one product at a time needs no second copy of the patches
    total = core[:, 0][:, None] * by_position[:, 0, :]
    for position in range(1, core.shape[1]):
        total = total + core[:, position][:, None] * by_position[:, position, :]
    return total
