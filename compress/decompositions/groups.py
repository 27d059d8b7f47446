"""Grouped convolutions without anything that mixes their groups."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import gcd
from typing import ClassVar

import numpy as np
from array_api_compat import array_namespace
from typing_extensions import override

from cnncompress.decompositions.base import Ranks
from cnncompress.decompositions.chains import Link, Step, unsupported
from cnncompress.decompositions.divisibility import divisors, indivisible
from cnncompress.decompositions.placed import Mask, Placed
from cnncompress.decompositions.registry import option, register
from cnncompress.inspect import LayerInfo
from cnncompress.solvers import Array
from cnncompress.solvers.assignment import Placement, block_mask
from cnncompress.solvers.blocks import (
    block_diagonal,
    diagonal_blocks,
    patch_entries,
    reordered,
    reordered_covariances,
)
from cnncompress.solvers.joint_moments import Covariances
from cnncompress.solvers.masked import grouped_least_squares


@register
@dataclass(frozen=True, kw_only=True)
class Groups(Placed):
    """A grouped k x k between two permutations (Ioannou et al., https://arxiv.org/abs/1605.06489, section 3).

    k² c d h w / g multiply-accumulates. The rank is the number of inputs of a group, c / g. What connects one
    group with another is lost: exact only where the weight is block-diagonal.

    Attributes:
        groups: g, a divisor of the inputs and of the outputs; None lets the planner choose.
    """

    groups: int | None = option(None, symbol="N", least=1)
    name: ClassVar[str] = "groups"
    rank_names: ClassVar[tuple[str, ...]] = ("width",)

    @override
    def obstacle(self, layer: LayerInfo) -> str:
        if layer.kind == "linear":
            return "it is linear; svd-out splits it"
        if reason := unsupported(layer):
            return reason
        common = gcd(layer.in_channels, layer.out_channels)
        if common == 1:
            return (
                f"its {layer.in_channels} inputs and {layer.out_channels} outputs have no divisor in common"
            )
        if self.groups is None:
            return ""
        return indivisible(common, self.groups, "groups", "channels (in common of inputs and outputs)")

    @override
    def full_ranks(self, layer: LayerInfo) -> Ranks:
        return (layer.in_channels,)

    @override
    def unfit(self, layer: LayerInfo, ranks: Ranks) -> str:
        valid = [setting[0] for setting in self.settings(layer, 1)]
        if ranks[0] in valid:
            return ""
        return f"groups of {ranks[0]} inputs can't be had; valid widths: {', '.join(map(str, valid))}"

    @override
    def choices(self, layer: LayerInfo) -> Mapping[str, Sequence[int]]:
        return {"groups": divisors(gcd(layer.in_channels, layer.out_channels))}

    @override
    def asked(self, layer: LayerInfo) -> Ranks | None:
        return None if self.groups is None else (layer.in_channels // self.groups,)

    @override
    def rank_step(self, layer: LayerInfo, step: int) -> int:
        return 1  # the valid widths are few and none is better aligned

    @override
    def settings(self, layer: LayerInfo, step: int) -> tuple[Ranks, ...]:
        counts = divisors(gcd(layer.in_channels, layer.out_channels))
        return tuple((layer.in_channels // groups,) for groups in reversed(counts))

    @override
    def mask(self, layer: LayerInfo, ranks: Ranks) -> Mask:
        return block_mask(layer.out_channels, layer.in_channels, layer.in_channels // ranks[0])

    @override
    def convolution(self, layer: LayerInfo, ranks: Ranks) -> Step:
        groups = layer.in_channels // ranks[0]
        return Link("whole", layer.in_channels, layer.out_channels, groups=groups, bias=True)

    @override
    def compact(self, weight: Array, ranks: Ranks) -> Array:
        xp = array_namespace(weight)
        outputs, inputs, positions = weight.shape
        blocks = diagonal_blocks(xp.reshape(weight, (outputs, -1)), inputs // ranks[0])
        return xp.reshape(blocks, (outputs, ranks[0], positions))

    @override
    def on_mask(
        self, weight: Array, covariances: Covariances, placement: Placement, mask: Mask, ranks: Ranks
    ) -> Array:
        inputs = placement.inputs.size
        entries = patch_entries(placement.inputs, weight.shape[1] // inputs)
        in_slots = reordered(reordered(weight, placement.outputs, axis=0), entries, axis=1)
        groups = inputs // ranks[0]
        solved = grouped_least_squares(
            reordered_covariances(covariances, entries, placement.outputs),
            diagonal_blocks(in_slots, groups),
            groups=groups,
        )
        standing = reordered(block_diagonal(solved), np.argsort(placement.outputs), axis=0)
        return reordered(standing, np.argsort(entries), axis=1)
