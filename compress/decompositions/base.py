"""The contract of a decomposition.

A decomposition is one file with one frozen dataclass whose fields are its options. It replaces a
layer by a chain of plain torch layers with ranks between them. Padding, stride and dilation live in
the spatial factors, the bias in the last factor alone: a bias before a padded convolution would be
wrong at the borders.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import nn

from cnncompress.decompositions.chains import Step, build_chain, chain_macs, chain_params
from cnncompress.decompositions.projections import Projection
from cnncompress.inspect import LayerInfo
from cnncompress.responses import Responses, Statistics
from cnncompress.sampling import Blocks
from cnncompress.solvers import Array

Ranks = tuple[int, ...]
Need = Literal["responses", "inputs", "gradients", "moments"]


@dataclass(frozen=True)
class Factors:
    """What a fit returns.

    Attributes:
        weights: of each convolution or linear layer of the replacement, in its order, in the shape of a
            convolution's weight.
        bias: of the last of them, shape (out_channels,), in the order of its outputs.
        inner_biases: of those before that have one.
        errors: relative squared error of each solution that was tried, on held-out responses after the
            activation; empty for methods that see no data.
        chosen: key of ``errors`` of the solution that was kept.
        orders: of each permutation of the chain: position ``i`` takes channel ``order[i]``.
        notes: what else a user should know of the solution, for example whether it converged.
    """

    weights: tuple[Array, ...]
    bias: Array
    errors: Mapping[str, float] = field(default_factory=dict)
    chosen: str = ""
    orders: tuple[NDArray[np.int64], ...] = ()
    notes: tuple[str, ...] = ()
    inner_biases: tuple[Array, ...] = ()


@runtime_checkable
class Decomposition(Protocol):
    """What the pipeline asks of a method.

    Attributes:
        name: by which users ask for it.
        fallback: method for layers that this one can't replace, None for none; it takes those of this
            method's options that it knows.
        descends: whether ``energies`` are those of the best choice of each rank, independent of the others
            and descending, and the cost is proportional to the rank: what the greedy rule rests on. Other
            methods are chosen by what each of their ``settings`` keeps.
        rank_names: what its ranks are called.
        principal: whether its last rank counts principal components of the response.
        convolves: whether the replacement amounts to one convolution with the layer's own kernel.
        projection: what its first factor reads, of methods that solve all behind it on responses; else None.
        truncates: whether such a method's last rank limits the map from the projection to the responses.
    """

    name: ClassVar[str]
    fallback: ClassVar[str | None] = None
    descends: ClassVar[bool] = True
    rank_names: ClassVar[tuple[str, ...]] = ("rank",)
    principal: ClassVar[bool] = False
    convolves: ClassVar[bool] = True
    projection: ClassVar[Projection | None] = None
    truncates: ClassVar[bool] = False

    @property
    def needs(self) -> frozenset[Need]:
        """What it must know of the data.

        Responses; moments of the inputs; gradients of the weights; moments of patches with responses, which
        stand for the patches to fit.
        """
        return frozenset()

    @property
    def exact(self) -> bool:
        """Whether full ranks reproduce every layer."""
        return True

    @property
    def blocks(self) -> Blocks:
        """Squares that it wants positions to be sampled in."""
        return Blocks()

    @property
    def needs_data(self) -> bool:
        """Whether it reads responses."""
        return bool(self.needs)

    def margin(self, layer: LayerInfo, ranks: Ranks) -> int:
        """How far beyond the kernel the replacement looks.

        Args:
            layer: the layer.
            ranks: of the replacement.

        Returns:
            Rows and columns on each side.
        """
        del layer, ranks
        return 0

    def obstacle(self, layer: LayerInfo) -> str:
        """Why this method can't replace a layer.

        Args:
            layer: the layer.

        Returns:
            The reason, or an empty string.
        """
        ...

    def full_ranks(self, layer: LayerInfo) -> Ranks:
        """The greatest ranks allowed; at them an `exact` method is exact.

        Args:
            layer: the layer.

        Returns:
            One rank for each place between two factors that can be chosen.
        """
        ...

    def unfit(self, layer: LayerInfo, ranks: Ranks) -> str:
        """Why ranks within their limits can't be had all the same.

        Args:
            layer: the layer.
            ranks: of the replacement.

        Returns:
            The reason with the valid values, or an empty string.
        """
        del layer, ranks
        return ""

    def choices(self, layer: LayerInfo) -> Mapping[str, Sequence[int]]:
        """Values of options that depend on the layer.

        Args:
            layer: the layer.

        Returns:
            The valid values of each such option.
        """
        del layer
        return {}

    def asked(self, layer: LayerInfo) -> Ranks | None:
        """The ranks that the method's own options settle.

        Args:
            layer: the layer.

        Returns:
            The ranks, or None if they are to be chosen.
        """
        del layer
        return None

    def rank_step(self, layer: LayerInfo, step: int) -> int:
        """What ranks are multiples of.

        Args:
            layer: the layer.
            step: that the channels of the replacement shall be multiples of.

        Returns:
            The step of the ranks.
        """
        del layer
        return step

    def settings(self, layer: LayerInfo, step: int) -> tuple[Ranks, ...]:
        """Ranks to choose among.

        Args:
            layer: the layer.
            step: ranks are multiples of this, or of less where there are few.

        Returns:
            All combinations that fit.
        """
        choices = [multiples(step, limit) for limit in self.full_ranks(layer)]
        return tuple(ranks for ranks in product(*choices) if not self.unfit(layer, ranks))

    def energies(self, layer: LayerInfo, weight: Array, statistics: Statistics | None) -> tuple[Array, ...]:
        """What each further rank adds to the energy that is kept.

        Args:
            layer: the layer.
            weight: shape (out_channels, in_channels, kernel height, kernel width).
            statistics: of the original network; None unless the method needs data.

        Returns:
            For each rank a vector as long as its full value, descending.
        """
        ...

    def kept(
        self, layer: LayerInfo, weight: Array, statistics: Statistics | None, settings: Sequence[Ranks]
    ) -> NDArray[np.float64]:
        """The share of energy that each of some settings keeps.

        Args:
            layer: the layer.
            weight: shape (out_channels, in_channels, kernel height, kernel width).
            statistics: of the original network; None unless the method needs data.
            settings: ranks of each.

        Returns:
            Between 0 and 1, one for each setting.
        """
        shares = [cumulative_share(energy) for energy in self.energies(layer, weight, statistics)]
        return np.array(
            [
                np.prod([share[rank - 1] for share, rank in zip(shares, ranks, strict=True)])
                for ranks in settings
            ]
        )

    def steps(self, layer: LayerInfo, ranks: Ranks) -> tuple[Step, ...]:
        """The chain that replaces the layer.

        Args:
            layer: the layer.
            ranks: of the replacement.

        Returns:
            Its convolutions and permutations.
        """
        ...

    def macs(self, layer: LayerInfo, ranks: Ranks) -> int:
        """Multiply-accumulates of the replacement.

        Args:
            layer: the layer.
            ranks: of the replacement.

        Returns:
            For one image.
        """
        return chain_macs(layer, self.steps(layer, ranks))

    def params(self, layer: LayerInfo, ranks: Ranks) -> int:
        """Weights and biases of the replacement.

        Args:
            layer: the layer.
            ranks: of the replacement.

        Returns:
            Their number.
        """
        return chain_params(layer, self.steps(layer, ranks))

    def build(self, layer: LayerInfo, ranks: Ranks) -> nn.Sequential:
        """The replacement with untrained weights.

        Args:
            layer: the layer.
            ranks: of the replacement.

        Returns:
            Plain torch layers.
        """
        return build_chain(layer, self.steps(layer, ranks))

    def fit(
        self, layer: LayerInfo, weight: Array, bias: Array, responses: Responses | None, ranks: Ranks
    ) -> Factors:
        """Solve for the replacement's weights.

        Args:
            layer: the layer.
            weight: shape (out_channels, in_channels, kernel height, kernel width).
            bias: shape (out_channels,), zeros if the layer has none.
            responses: of the layer; None unless the method needs data.
            ranks: of the replacement.

        Returns:
            The factors.
        """
        ...


def multiples(step: int, limit: int) -> list[int]:
    """Ranks to choose among: multiples of a step, which is halved where it is coarse.

    Args:
        step: asked for.
        limit: greatest rank.

    Returns:
        Ascending, at most ``limit``; never empty.

    Example:
        >>> multiples(16, 40), multiples(16, 3)
        ([8, 16, 24, 32, 40], [1, 2, 3])
    """
    while step > 1 and 4 * step > limit:
        step //= 2
    return list(range(step, limit + 1, step))


def cumulative_share(energies: Array) -> NDArray[np.float64]:
    """The share of energy that leading values hold.

    Args:
        energies: not negative but for rounding, shape (n,).

    Returns:
        Shape (n,), ascending to 1; all 1 if there is no energy.

    Example:
        >>> cumulative_share(np.array([3.0, 1.0])).tolist()
        [0.75, 1.0]
    """
    values = np.maximum(np.asarray(energies, dtype=np.float64), 0.0)
    total = float(values.sum())
    return np.cumsum(values) / total if total > 0 else np.ones(len(values))
