"""First layers whose filters see one colour each (Denton et al., section 3.2.1)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray
from typing_extensions import override

from cnncompress.decompositions.base import Factors, Ranks
from cnncompress.decompositions.chains import Link, Reorder, Step, unsupported
from cnncompress.decompositions.divisibility import divisors, indivisible
from cnncompress.decompositions.registry import option, register
from cnncompress.decompositions.weighted import Branch, Weighted, folded, taken
from cnncompress.errors import OptionError
from cnncompress.inspect import LayerInfo
from cnncompress.responses import Statistics
from cnncompress.solvers import Array
from cnncompress.solvers.metric import SeparableMetric
from cnncompress.solvers.monochromatic import Monochrome, monochromatic

Filters = Literal["resolved", "aligned", "paper"]
FILTERS = get_args(Filters)
_MOST_INPUTS = 4


@dataclass(frozen=True)
class ColorBranch:
    """The outputs that see one colour.

    Attributes:
        outputs: indices of these outputs.
        color: weights of the input channels, shape (in_channels,).
        last: the filters, shape (outputs, positions).
    """

    outputs: NDArray[np.int64]
    color: Array
    last: Array

    def features(self, patches: Array) -> Array:
        """Patches of the colour; shapes as in `Branch`."""
        xp = array_namespace(patches)
        by_channel = xp.reshape(patches, (self.color.shape[0], -1))
        return xp.reshape(self.color[None, :] @ by_channel, (self.last.shape[1], -1))


@dataclass(frozen=True)
class Colored:
    """A 1 x 1 to colours, then filters that read one of them each.

    Attributes:
        colors: for each colour its outputs and filters.
    """

    colors: tuple[ColorBranch, ...]

    @property
    def branches(self) -> Sequence[Branch]:
        """One for each colour."""
        return self.colors

    def with_last(self, last: Sequence[Array]) -> "Colored":
        """The same colours with other filters."""
        pairs = zip(self.colors, last, strict=True)
        return Colored(tuple(replace(color, last=filters) for color, filters in pairs))

    def factors(self, kernel_size: tuple[int, int], bias: Array) -> Factors:
        """Weights of both convolutions, outputs sorted by colour, and the permutation back."""
        xp = array_namespace(self.colors[0].last)
        first = xp.stack([branch.color for branch in self.colors], axis=0)[:, :, None, None]
        last = xp.concat([branch.last for branch in self.colors], axis=0)
        sorted_outputs = np.concatenate([branch.outputs for branch in self.colors])
        return Factors(
            (first, xp.reshape(last, (-1, 1, *kernel_size))),
            taken(bias, sorted_outputs),
            orders=(np.argsort(sorted_outputs, kind="stable"),) if len(self.colors) > 1 else (),
        )


@register
@dataclass(frozen=True, kw_only=True)
class Monochromatic(Weighted):
    """1 x 1 to ``colors`` channels, then k x k filters of one channel each.

    The rank is the number of colours: C' c H W + k² d h w multiply-accumulates. Full rank gives every filter
    a colour of its own, which is exact only where a filter has a single one.

    Attributes:
        colors: C', a divisor of the outputs; None leaves the choice to the planner.
        filters: ``"resolved"`` solves each filter for its cluster's colour; ``"aligned"`` keeps the filter's
            leading component with the sign that fits; ``"paper"`` keeps it as eq. 9 prints it.
        restarts: of the clustering.
        seed: of the clustering.
    """

    colors: int | None = option(None, symbol="C", least=1)
    filters: Filters = "resolved"
    restarts: int = option(10, least=1)
    seed: int = option(0, least=0)
    name: ClassVar[str] = "monochromatic"
    descends: ClassVar[bool] = False
    rank_names: ClassVar[tuple[str, ...]] = ("colors",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.filters not in FILTERS:
            raise OptionError(
                f"monochromatic: option filters is resolved, aligned or paper, got {self.filters!r}"
            )

    @property
    @override
    def exact(self) -> bool:
        return False

    @override
    def obstacle(self, layer: LayerInfo) -> str:
        if layer.kind == "linear":
            return "it is linear: there is no kernel to share a colour"
        if layer.in_channels > _MOST_INPUTS:
            count = layer.in_channels
            return f"it has {count} input channels; one colour out of more than {_MOST_INPUTS} loses too much"
        if max(layer.kernel_size) == 1:
            return "its kernel is 1 x 1: there is no filter to keep"
        return unsupported(layer) or (self.unfit(layer, (self.colors,)) if self.colors is not None else "")

    @override
    def full_ranks(self, layer: LayerInfo) -> Ranks:
        return (layer.out_channels,)

    @override
    def unfit(self, layer: LayerInfo, ranks: Ranks) -> str:
        return indivisible(layer.out_channels, ranks[0], "colours", "outputs")

    @override
    def choices(self, layer: LayerInfo) -> Mapping[str, Sequence[int]]:
        return {"colors": divisors(layer.out_channels)} if layer.in_channels <= _MOST_INPUTS else {}

    @override
    def asked(self, layer: LayerInfo) -> Ranks | None:
        return None if self.colors is None else (self.colors,)

    @override
    def settings(self, layer: LayerInfo, step: int) -> tuple[Ranks, ...]:
        return tuple((colors,) for colors in divisors(layer.out_channels))

    @override
    def steps(self, layer: LayerInfo, ranks: Ranks) -> tuple[Step, ...]:
        (colors,) = ranks
        return (
            Link("pointwise", layer.in_channels, colors),
            Link("whole", colors, layer.out_channels, groups=colors, bias=True),
            *((Reorder(layer.out_channels),) if colors > 1 else ()),
        )

    @override
    def energies(self, layer: LayerInfo, weight: Array, statistics: Statistics | None) -> tuple[Array, ...]:
        # clusters of one size don't nest in those of another: no rank adds to the one before
        return ()

    @override
    def kept(
        self, layer: LayerInfo, weight: Array, statistics: Statistics | None, settings: Sequence[Ranks]
    ) -> NDArray[np.float64]:
        tensor = folded(weight)
        metric = self.metric_of(tensor, statistics)
        return np.array([max(0.0, 1 - self._clustered(tensor, metric, ranks[0]).error) for ranks in settings])

    @override
    def solve(self, tensor: Array, metric: SeparableMetric, ranks: Ranks) -> Colored:
        found = self._clustered(tensor, metric, ranks[0])
        colors = metric.unweigh_inputs(found.colors.T).T
        filters = metric.unweigh_outputs(metric.unweigh_spatial(found.filters.T).T)
        members = [np.flatnonzero(found.labels == color) for color in range(ranks[0])]
        return Colored(
            tuple(
                ColorBranch(outputs, colors[color, :], taken(filters, outputs))
                for color, outputs in enumerate(members)
            )
        )

    def _clustered(self, tensor: Array, metric: SeparableMetric, colors: int) -> Monochrome:
        weighed = array_namespace(tensor).permute_dims(metric.weigh(tensor), (2, 0, 1))
        return monochromatic(
            weighed, colors=colors, restarts=self.restarts, seed=self.seed, filters=self.filters
        )
