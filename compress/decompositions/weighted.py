"""Methods that solve on the weight, in a metric of the user's choice.

``frobenius`` counts every weight alike. ``data`` counts what the inputs make of them (Denton et al., eq. 3);
the last factor is then solved again on the responses of the compressed prefix, and of all solutions the one
is kept that is best on held-out images. ``gradient`` counts how much the class scores depend on a weight (eq.
1 and 2), as far as that separates into inputs, positions and outputs: see `cnncompress.solvers.metric`.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol, Self

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray
from typing_extensions import override

from cnncompress.decompositions.base import Decomposition, Factors, Need, Ranks
from cnncompress.decompositions.registry import check_options
from cnncompress.decompositions.solutions import RIDGE, relative_error
from cnncompress.errors import OptionError
from cnncompress.inspect import LayerInfo
from cnncompress.responses import Responses, Statistics
from cnncompress.solvers import Array
from cnncompress.solvers.metric import SeparableMetric, euclidean, of_covariance, of_sensitivity
from cnncompress.solvers.reduced_rank import Regression

METRICS = ("frobenius", "data", "gradient")

ISOTROPIC = 0.3
"""Energy of the plain norm beside that of the inputs in the data metric.

Inputs that calibration images hardly show are not unused by others. Of 0, 0.1, 0.3 and 1, on AlexNet: images
of the calibration's kind lose least with 0 (0.3 adds 6 % to the error in the mean of twelve cases), but
photographs calibrated on crops of two others with 0.3 or 1 (0 adds 5 to 30 % to what 0.3 loses)."""


class Branch(Protocol):
    """Outputs that read the same features through the last factor.

    Attributes:
        outputs: indices of these outputs.
        last: their weights in the last factor, shape (outputs, features).
    """

    @property
    def outputs(self) -> NDArray[np.int64]: ...  # noqa: D102  # see the class

    @property
    def last(self) -> Array: ...  # noqa: D102  # see the class

    def features(self, patches: Array) -> Array:
        """What the last factor reads.

        Args:
            patches: of the layer's input, shape (in_channels * positions of the kernel, samples).

        Returns:
            Shape (features, samples).
        """
        ...


class Solution(Protocol):
    """A chain of factors found on the weight."""

    @property
    def branches(self) -> Sequence[Branch]:
        """Every output belongs to one of them."""
        ...

    def with_last(self, last: Sequence[Array]) -> Self:
        """The same chain with another last factor.

        Args:
            last: for each branch, shape (outputs, features).

        Returns:
            The chain.
        """
        ...

    def factors(self, kernel_size: tuple[int, int], bias: Array) -> Factors:
        """The weights of its layers.

        Args:
            kernel_size: of the replaced layer.
            bias: shape (out_channels,), in the order of the layer's outputs.

        Returns:
            Weights, and a bias in the order in which the last factor writes.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Weighted(Decomposition):
    """A method that solves on the weight.

    Attributes:
        metric: ``"frobenius"``, ``"data"`` or ``"gradient"``.
        refit: with the data metric, also solve the last factor on responses.
    """

    metric: str = "frobenius"
    refit: bool = True
    name: ClassVar[str]

    def __post_init__(self) -> None:
        check_options(self)
        if self.metric not in METRICS:
            raise OptionError(
                f"{self.name}: option metric is frobenius, data or gradient, got {self.metric!r}"
            )

    @property
    @override
    def needs(self) -> frozenset[Need]:
        extra: dict[str, set[Need]] = {
            "frobenius": set(),
            "data": {"responses", "inputs"},
            "gradient": {"responses", "gradients"},
        }
        return frozenset(extra[self.metric])

    @abstractmethod
    def solve(self, tensor: Array, metric: SeparableMetric, ranks: Ranks) -> Solution:
        """The chain whose weight comes closest to a layer's.

        Args:
            tensor: the weight, shape (in_channels, positions of the kernel, out_channels).
            metric: in which it comes close.
            ranks: of the chain.

        Returns:
            The chain.
        """

    def on_data(self, tensor: Array, responses: Responses, ranks: Ranks) -> Solution:
        """The chain in the data metric.

        Args:
            tensor: the weight, shape (in_channels, positions of the kernel, out_channels).
            responses: of the layer.
            ranks: of the chain.

        Returns:
            The chain.
        """
        return self.solve(tensor, self.metric_of(tensor, responses.statistics), ranks)

    def metric_of(self, tensor: Array, statistics: Statistics | None) -> SeparableMetric:
        """The metric that was asked for, as the statistics make it.

        Args:
            tensor: the weight, shape (in_channels, positions of the kernel, out_channels).
            statistics: of the original network; None for the Frobenius norm.

        Returns:
            The metric.
        """
        _, positions, outputs = tensor.shape
        if self.metric == "data":
            assert statistics is not None
            assert statistics.inputs is not None
            return of_covariance(statistics.inputs.second, positions, outputs, isotropic=ISOTROPIC)
        if self.metric == "gradient":
            assert statistics is not None
            assert statistics.gradients is not None
            return of_sensitivity(statistics.gradients)
        return _plain(tensor)

    @override
    def fit(
        self, layer: LayerInfo, weight: Array, bias: Array, responses: Responses | None, ranks: Ranks
    ) -> Factors:
        tensor = folded(weight)
        if responses is None or self.metric == "frobenius":
            solution = self.solve(tensor, _plain(tensor), ranks)
            return solution.factors(layer.kernel_size, bias)
        tried: dict[str, tuple[Solution, Array]] = {}
        notes: tuple[str, ...] = ()
        if self.metric == "gradient":
            metric = self.metric_of(tensor, responses.statistics)
            tried["gradient metric"] = (self.solve(tensor, metric, ranks), bias)
            notes = (f"separable weights keep {100 * metric.explained:.0f} % of the gradient's energy",)
        else:
            solution = self.on_data(tensor, responses, ranks)
            tried["data metric"] = (solution, bias)
            tried["frobenius metric"] = (self.solve(tensor, _plain(tensor), ranks), bias)
            if self.refit:
                tried["data metric, refitted"] = refitted(solution, responses)
        errors = {
            kind: relative_error(responses, predicted(found, offset, responses.held_out.patches))
            for kind, (found, offset) in tried.items()
        }
        chosen = min(errors, key=lambda kind: errors[kind])
        found, offset = tried[chosen]
        factors = found.factors(layer.kernel_size, offset)
        return replace(factors, errors=errors, chosen=chosen, notes=(*notes, *factors.notes))


def _plain(tensor: Array) -> SeparableMetric:
    return euclidean(*tensor.shape, like=tensor)


def folded(weight: Array) -> Array:
    """A weight as the tensor that the solvers take.

    Args:
        weight: shape (out_channels, in_channels, kernel height, kernel width).

    Returns:
        Shape (in_channels, positions of the kernel, out_channels).
    """
    xp = array_namespace(weight)
    outputs, inputs, *_ = weight.shape
    return xp.permute_dims(xp.reshape(weight, (outputs, inputs, -1)), (1, 2, 0))


def predicted(solution: Solution, bias: Array, patches: Array) -> Array:
    """What a chain answers.

    Args:
        solution: the chain.
        bias: shape (out_channels,).
        patches: of the layer's input, shape (in_channels * positions, samples).

    Returns:
        Shape (out_channels, samples).
    """
    parts = [branch.last @ branch.features(patches) for branch in solution.branches]
    return in_order(parts, [branch.outputs for branch in solution.branches]) + bias[:, None]


def refitted(solution: Solution, responses: Responses) -> tuple[Solution, Array]:
    """Solve the last factor of a chain for the true responses, on what the compressed prefix delivers.

    Args:
        solution: the chain; where samples tell little, its last factor stays.
        responses: of the layer.

    Returns:
        The chain with another last factor, and its bias.
    """
    fit = responses.fit
    xp = array_namespace(fit.target)
    last, offsets = [], []
    for branch in solution.branches:
        target = xp.take(fit.target, _indices(branch.outputs, fit.target), axis=0)
        regression = Regression.on(branch.features(fit.patches), prior=branch.last, ridge=RIDGE)
        mapping = regression.solve(target, rank=target.shape[0])
        last.append(mapping.left @ mapping.right)
        offsets.append(mapping.bias)
    return solution.with_last(last), in_order(offsets, [branch.outputs for branch in solution.branches])


def in_order(parts: Sequence[Array], outputs: Sequence[NDArray[np.int64]]) -> Array:
    """Put rows of several branches back where they belong.

    Args:
        parts: rows of each branch.
        outputs: where each row belongs.

    Returns:
        All rows in the order of the outputs.
    """
    joined = array_namespace(parts[0]).concat(list(parts), axis=0)
    return taken(joined, np.argsort(np.concatenate(outputs), kind="stable"))


def taken(array: Array, indices: NDArray[np.int64], axis: int = 0) -> Array:
    """Entries of an array at indices that live on the host.

    Args:
        array: of any library.
        indices: along the axis.
        axis: along which.

    Returns:
        The entries.
    """
    return array_namespace(array).take(array, _indices(indices, array), axis=axis)


def _indices(indices: NDArray[np.int64], like: Array) -> Array:
    return array_namespace(like).asarray(np.ascontiguousarray(indices), device=device(like))
