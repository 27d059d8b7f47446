"""Pairs of single intra-channel convolutions with fewer channels between them.

Wang et al., "Factorized Convolutional Neural Networks", https://arxiv.org/abs/1608.04337, section 3.3. One
layer is fitted first; its 1 x 1 then splits in two at the directions in which its responses vary most, with a
second filter that changes nothing between the halves. Up to there the pair is exactly the layer with a 1 x 1
of that rank, wherever the rectifier between them is left out or kept silent by a bias. Last, the second half
is fitted again, with filters of its own.
"""

from dataclasses import dataclass, replace

from array_api_compat import array_namespace, device

from cnncompress.solvers import Array
from cnncompress.solvers.free_targets import response_error
from cnncompress.solvers.moments import Moments
from cnncompress.solvers.sic import LayerSettings, LayerTask, fit_layer
from cnncompress.solvers.sic_layers import Crops, IntraChannel, activated


@dataclass(frozen=True, eq=False)
class Bottleneck:
    """Two layers in sequence.

    Attributes:
        first: to the fewer channels, without residual.
        second: back, without residual.
        residual: whether the input of the first is added to the responses of the second.
        inner_rectified: whether a rectifier is between them.
    """

    first: IntraChannel
    second: IntraChannel
    residual: bool
    inner_rectified: bool

    def between(self, crops: Crops) -> Crops:
        """What the second layer reads.

        Args:
            crops: of the input.

        Returns:
            Smaller by the first filter.
        """
        return activated(self.first(crops), rectified=self.inner_rectified)

    def __call__(self, crops: Crops) -> Array:
        """Responses at the centres, before the last rectifier.

        Args:
            crops: of the input, at least ``2 * kernel - 1`` wide.

        Returns:
            Shape (outputs, samples).
        """
        xp = array_namespace(crops.values)
        found = []
        for part in crops.trimmed(self.first.kernel + self.second.kernel - 1).parts():
            responses = self.second(self.between(part)).patches()
            found.append(responses + part.trimmed(1).patches() if self.residual else responses)
        return xp.concat(found, axis=1)


@dataclass(frozen=True)
class BottleneckFit:
    """A pair fitted to responses.

    Attributes:
        pair: the layers.
        history: squared error after the rectifier, as a share of the squared responses: of the residual alone
            (of zeros without one), of the split layer, and with the second half fitted again; never rising,
            because what raises it is dropped.
    """

    pair: Bottleneck
    history: tuple[float, float, float]


def fit_bottleneck(
    crops: Crops,
    target: Array,
    *,
    hidden: int,
    settings: LayerSettings,
    residual: bool,
    inner_rectified: bool,
    prior: Array | None = None,
) -> BottleneckFit:
    """Fit a pair.

    Args:
        crops: of what the pair reads, at least ``2 * kernel - 1`` wide.
        target: true responses before the rectifier, shape (outputs, samples).
        hidden: channels between the two.
        settings: of both layers.
        residual: whether the pair adds its input.
        inner_rectified: whether a rectifier is between the two.
        prior: weight that the layer before the split starts from and is drawn to, shape
            (outputs, channels * kernel²).

    Returns:
        The pair.
    """
    xp = array_namespace(target)
    whole = crops.trimmed(2 * settings.kernel - 1)
    layer, (before, _) = fit_layer(LayerTask(whole.parts(), target, settings, residual=residual), prior)
    halves = split(layer, whole, hidden=hidden, inner_rectified=inner_rectified)
    kept = _empty(halves)
    errors = [before]
    for pair in (halves, _refitted(halves, whole, target, settings)):
        error = response_error(target, pair(whole), rectified=settings.rectified)
        kept = pair if error < errors[-1] else kept
        errors.append(min(error, errors[-1]))
    energy = response_error(target, xp.zeros_like(target), rectified=settings.rectified)
    first, second, third = (error / energy if energy > 0 else 0.0 for error in errors)
    return BottleneckFit(kept, (first, second, third))


def split(layer: IntraChannel, crops: Crops, *, hidden: int, inner_rectified: bool) -> Bottleneck:
    """One layer as two with fewer channels between them.

    Args:
        layer: the layer.
        crops: of what it reads, at least ``2 * kernel - 1`` wide.
        hidden: channels between the two.
        inner_rectified: whether a rectifier comes between; a bias keeps it silent on these crops.

    Returns:
        A pair whose responses are the layer's, projected on the directions in which they vary most.
    """
    xp = array_namespace(layer.pointwise)
    plain = replace(layer, residual=False)
    directions = _directions(plain, crops)[:, :hidden]
    first = replace(
        plain,
        pointwise=directions.T @ layer.pointwise,
        bias=xp.zeros_like(directions[0, :]),
    )
    shift = -_least(first, crops) if inner_rectified else first.bias
    delta = _delta(
        xp.zeros((shift.shape[0], *layer.depthwise.shape[1:]), dtype=shift.dtype, device=device(shift))
    )
    return Bottleneck(
        replace(first, bias=shift),
        IntraChannel(delta, directions, layer.bias - directions @ shift, residual=False),
        residual=layer.residual,
        inner_rectified=inner_rectified,
    )


def _directions(layer: IntraChannel, crops: Crops) -> Array:
    """Orthonormal columns, those first along which the layer's responses vary most."""
    moments: Moments | None = None
    for part in crops.parts():
        more = Moments.of(layer(part.trimmed(layer.kernel)).patches())
        moments = more if moments is None else moments + more
    assert moments is not None
    # in an order of its own: other libraries take no array that runs backwards
    return array_namespace(layer.pointwise).asarray(moments.spectrum[1], copy=True)


def _least(layer: IntraChannel, crops: Crops) -> Array:
    """The least value of each output inside the image, and no more than zero, shape (outputs,)."""
    xp = array_namespace(layer.pointwise)
    least = xp.zeros_like(layer.bias)
    for part in crops.parts():
        if part.samples:
            values = layer(part).emptied().patches()  # zeros outside don't lower the least
            by_channel = xp.min(xp.reshape(values, (least.shape[0], -1)), axis=1)
            least = xp.minimum(least, xp.astype(by_channel, least.dtype))
    return least


def _refitted(pair: Bottleneck, crops: Crops, target: Array, settings: LayerSettings) -> Bottleneck:
    """The same first half with another second one."""
    xp = array_namespace(target)
    second = pair.second
    between = [pair.between(part) for part in crops.parts()]
    added = crops.trimmed(1).patches() if pair.residual else None
    weight = second.pointwise[:, :, None] * xp.reshape(second.depthwise, (1, second.depthwise.shape[0], -1))
    prior = xp.reshape(weight, (weight.shape[0], -1))
    task = LayerTask(between, target, settings, residual=False, added=added)
    return replace(pair, second=fit_layer(task, prior)[0])


def _empty(pair: Bottleneck) -> Bottleneck:
    """A pair that adds nothing."""
    xp, second = array_namespace(pair.second.pointwise), pair.second
    nothing = xp.zeros_like(second.pointwise)
    return replace(pair, second=replace(second, pointwise=nothing, bias=xp.zeros_like(second.bias)))


def _delta(like: Array) -> Array:
    """Filters that change nothing, of a given shape (channels, 1, kernel, kernel)."""
    xp, middle = array_namespace(like), like.shape[2] // 2
    place = xp.arange(like.shape[2], device=device(like))
    row = xp.astype(place == middle, like.dtype)
    return xp.zeros_like(like) + (row[:, None] * row[None, :])[None, None, :, :]
