"""The contract of a decomposition, and the register of all of them.

A decomposition is one file with one frozen dataclass whose fields are its options. It replaces a
layer by a chain of plain torch layers with a rank between each two of them. Padding, stride and
dilation live in the spatial factors, the bias in the last factor alone: a bias before a padded
convolution would be wrong at the borders.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

from torch import nn

from cnncompress.errors import ModelError, OptionError, RankError, unknown_name
from cnncompress.inspect import LayerInfo
from cnncompress.responses import Responses
from cnncompress.solvers import Array
from cnncompress.solvers.moments import Moments

Ranks = tuple[int, ...]


@dataclass(frozen=True)
class Factors:
    """What a fit returns.

    Attributes:
        weights: of each layer of the chain, in the shape of that torch layer's weight.
        bias: of the last layer, shape (out_channels,).
        errors: relative squared error of each solution that was tried, on held-out responses after the
            activation; empty for methods that see no data.
        chosen: key of ``errors`` of the solution that was kept.
    """

    weights: tuple[Array, ...]
    bias: Array
    errors: Mapping[str, float] = field(default_factory=dict)
    chosen: str = ""


@runtime_checkable
class Decomposition(Protocol):
    """What the pipeline asks of a method.

    Attributes:
        name: by which users ask for it.
        needs_data: whether it reads responses.
        fallback: method for layers that this one can't replace, None for none; it takes those of this
            method's options that it knows.
    """

    name: ClassVar[str]
    needs_data: ClassVar[bool] = False
    fallback: ClassVar[str | None] = None

    def obstacle(self, layer: LayerInfo) -> str:
        """Why this method can't replace a layer.

        Args:
            layer: the layer.

        Returns:
            The reason, or an empty string.
        """
        ...

    def full_ranks(self, layer: LayerInfo) -> Ranks:
        """The ranks at which the replacement is exact; also the greatest ones allowed.

        Args:
            layer: the layer.

        Returns:
            One rank for each place between two factors.
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
        ...

    def energies(self, layer: LayerInfo, weight: Array, moments: Moments | None) -> tuple[Array, ...]:
        """What each further rank adds to the energy that is kept.

        Args:
            layer: the layer.
            weight: shape (out_channels, in_channels, kernel height, kernel width).
            moments: of the original network's responses; None unless the method needs data.

        Returns:
            For each rank a vector as long as its full value, descending.
        """
        ...

    def build(self, layer: LayerInfo, ranks: Ranks) -> nn.Sequential:
        """The replacement with untrained weights.

        Args:
            layer: the layer.
            ranks: of the replacement.

        Returns:
            Plain torch layers.
        """
        ...

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


_REGISTER: dict[str, Callable[..., Decomposition]] = {}

Method = TypeVar("Method", bound=Callable[..., Decomposition])


def register(method: Method) -> Method:
    """Class decorator that makes a decomposition known by its ``name``.

    Args:
        method: a frozen dataclass that follows `Decomposition`.

    Returns:
        The class, unchanged.

    Raises:
        OptionError: the name is taken.
    """
    name: str = method.name  # type: ignore[attr-defined]  # the protocol's class variable
    if name in _REGISTER:
        raise OptionError(f"a decomposition named {name!r} is registered already; choose another name")
    _REGISTER[name] = method
    return method


def available() -> tuple[str, ...]:
    """Names of all registered decompositions.

    Returns:
        Sorted names.
    """
    return tuple(sorted(_REGISTER))


def make(name: str, options: Mapping[str, Any] | None = None) -> Decomposition:
    """A decomposition by name.

    Args:
        name: one of `available`.
        options: values for the dataclass's fields.

    Returns:
        The decomposition.

    Raises:
        OptionError: the name or an option is unknown, or a value doesn't fit.
    """
    if name not in _REGISTER:
        raise OptionError(unknown_name("method", name, _REGISTER))
    method = _REGISTER[name]
    known = {option.name: option for option in fields(method)}  # type: ignore[arg-type]  # always a dataclass
    for option, value in (options or {}).items():
        if option not in known:
            raise OptionError(f"{name}: {unknown_name('option', option, known)}")
        expected = type(known[option].default)
        if expected is bool and not isinstance(value, bool):
            raise OptionError(f"{name}: option {option} is true or false, got {value!r}")
    return method(**(options or {}))


def check_ranks(method: Decomposition, layer: LayerInfo, ranks: Ranks) -> None:
    """Refuse ranks out of range.

    Args:
        method: the decomposition.
        layer: the layer that it shall replace.
        ranks: one for each place between two factors.

    Raises:
        ModelError: the method doesn't fit the layer.
        OptionError: the number of ranks is wrong.
        RankError: a rank is out of its range.
    """
    obstacle = method.obstacle(layer)
    if obstacle:
        raise ModelError(f"{layer.name}: {method.name} can't replace this layer: {obstacle}")
    full = method.full_ranks(layer)
    if len(ranks) != len(full):
        raise OptionError(f"{layer.name}: {method.name} takes {len(full)} ranks, got {len(ranks)}: {ranks}")
    for rank, limit in zip(ranks, full, strict=True):
        if not 1 <= rank <= limit:
            raise RankError(layer.name, rank, limit)


def fallback_of(method: Decomposition) -> Decomposition | None:
    """The method that stands in where this one doesn't fit, with the options that both know.

    Args:
        method: a decomposition.

    Returns:
        Its fallback, or None if it has none.
    """
    if method.fallback is None:
        return None
    known = {option.name for option in fields(_REGISTER[method.fallback])}  # type: ignore[arg-type]  # a dataclass
    return make(method.fallback, {key: value for key, value in options_of(method).items() if key in known})


def options_of(method: Decomposition) -> dict[str, Any]:
    """The options of a decomposition.

    Args:
        method: a decomposition.

    Returns:
        Values of its fields.
    """
    return asdict(method)  # type: ignore[call-overload,no-any-return]  # every method is a dataclass
