"""Methods that fit a linear replacement to moments of patches and true responses."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from array_api_compat import array_namespace
from typing_extensions import override

from cnncompress.decompositions.base import Decomposition, Factors, Need, Ranks
from cnncompress.decompositions.registry import check_options
from cnncompress.decompositions.solutions import RIDGE, relative_error
from cnncompress.inspect import LayerInfo
from cnncompress.responses import Responses
from cnncompress.solvers import Array
from cnncompress.solvers.joint_moments import Covariances


@dataclass(frozen=True)
class Fitted:
    """One solution.

    Attributes:
        factors: the weights of the replacement, and its bias.
        weight: the convolution that they amount to, shape (out_channels, patch entries).
        bias: the bias that they amount to, shape (out_channels,).
    """

    factors: Factors
    weight: Array
    bias: Array


@dataclass(frozen=True, kw_only=True)
class FromMoments(Decomposition):
    """A method that is solved on the weight alone or, from there, on responses.

    Attributes:
        data: fit to the true responses, on what the compressed prefix delivers; without it no image is read.
    """

    data: bool = True
    name: ClassVar[str]

    def __post_init__(self) -> None:
        check_options(self)

    @property
    @override
    def needs(self) -> frozenset[Need]:
        return frozenset({"responses", "moments"}) if self.data else frozenset()

    @abstractmethod
    def on_weight(self, layer: LayerInfo, weight: Array, bias: Array, ranks: Ranks) -> Fitted:
        """The solution that comes closest to the weight.

        Args:
            layer: the layer.
            weight: shape (out_channels, in_channels, kernel height, kernel width).
            bias: shape (out_channels,).
            ranks: of the replacement.

        Returns:
            The solution.
        """

    @abstractmethod
    def on_moments(
        self, layer: LayerInfo, weight: Array, covariances: Covariances, ranks: Ranks, start: Fitted
    ) -> Mapping[str, Fitted]:
        """Solutions that come closest to the true responses.

        Args:
            layer: the layer.
            weight: shape (out_channels, in_channels, kernel height, kernel width).
            covariances: of patches and responses, drawn towards the weight.
            ranks: of the replacement.
            start: what `on_weight` found.

        Returns:
            Solutions by what a user shall read of them.
        """

    @override
    def fit(
        self, layer: LayerInfo, weight: Array, bias: Array, responses: Responses | None, ranks: Ranks
    ) -> Factors:
        start = self.on_weight(layer, weight, bias, ranks)
        if responses is None or not self.data:
            return start.factors
        assert responses.moments is not None
        xp = array_namespace(weight)
        flat = xp.reshape(weight, (weight.shape[0], -1))
        covariances = responses.moments.covariances.drawn_towards(flat, ridge=RIDGE)
        tried = {"weight": start} | dict(self.on_moments(layer, weight, covariances, ranks, start))
        errors = {kind: _held_out_error(responses, solution) for kind, solution in tried.items()}
        chosen = min(errors, key=lambda kind: errors[kind])
        return replace(tried[chosen].factors, errors=errors, chosen=chosen)


def _held_out_error(responses: Responses, solution: Fitted) -> float:
    patches = responses.held_out.patches
    xp = array_namespace(patches)
    weight, bias = (xp.astype(part, patches.dtype) for part in (solution.weight, solution.bias))
    return relative_error(responses, weight @ patches + bias[:, None])
