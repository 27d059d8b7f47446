"""Sequential stacks of single intra-channel convolutions, fitted layer by layer to true responses.

Wang et al., "Factorized Convolutional Neural Networks", https://arxiv.org/abs/1608.04337, section 2.2.2: a
layer of a stack is r(I + P (B * I)), with one filter for each channel, a 1 x 1 P and the rectifier r. Layer t
is fitted to what the layers before it leave of T = r(Y), where Y are the true responses. An empty layer would
pass O on, and r brings no value farther from T >= 0: the error on the samples never rises. The last rectifier
is the network's own; a stack returns its response before it.

The rectifier hides what is below zero, so that a layer is fitted again to targets that are free there
(Zhang et al., eq. 9 to 11) for as long as that lowers the error.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from array_api_compat import array_namespace, device

from cnncompress.solvers import Array
from cnncompress.solvers.free_targets import free_targets, response_error, with_targets
from cnncompress.solvers.joint_moments import Covariances, JointMoments
from cnncompress.solvers.nonlinear import rectify
from cnncompress.solvers.reduced_rank import descending_eigh, whitener
from cnncompress.solvers.separable import Separable, fit_separable, separate
from cnncompress.solvers.sic_layers import Crops, IntraChannel, activated


@dataclass(frozen=True)
class LayerSettings:
    """How a layer is fitted.

    Attributes:
        kernel: rows and columns of the filters, odd.
        filters: of each channel; a single one in the paper's stacks.
        rectified: whether the network rectifies the responses; else the stack is linear.
        ridge: how strongly a layer is drawn towards the prior, or towards an empty one where there is none,
            relative to the mean variance of what it reads.
        rounds: fits to targets that follow the rectifier, at most.
        sweeps: alternations of a fit, at most.
    """

    kernel: int
    filters: int = 1
    rectified: bool = True
    ridge: float = 0.0
    rounds: int = 5
    sweeps: int = 20


@dataclass(frozen=True)
class StackFit:
    """A stack fitted to responses.

    Attributes:
        layers: first to last; those that didn't lower the error are empty.
        history: squared error after the rectifier, as a share of the squared responses: of the input (of
            zeros where the first layer has no residual), and after each layer; never rising.
    """

    layers: tuple[IntraChannel, ...]
    history: tuple[float, ...]


def fit_stack(
    crops: Crops,
    target: Array,
    *,
    bases: int,
    settings: LayerSettings,
    residual: bool = False,
    prior: Array | None = None,
) -> StackFit:
    """Fit a stack layer by layer.

    Args:
        crops: of what the stack reads, at least ``bases * (kernel - 1) + 1`` wide.
        target: true responses before the rectifier, shape (outputs, samples).
        bases: layers of the stack.
        settings: of all layers.
        residual: whether the first layer adds its input too; the others always do.
        prior: weight that the first layer starts from and is drawn to, shape (outputs, channels * kernel²).

    Returns:
        The stack.
    """
    xp = array_namespace(target)
    parts = crops.trimmed(bases * (settings.kernel - 1) + 1).parts()
    energy = response_error(target, xp.zeros_like(target), rectified=settings.rectified)
    layers: list[IntraChannel] = []
    errors: list[float] = []
    for index in range(bases):
        task = LayerTask(parts, target, settings, residual=residual or index > 0)
        layer, (before, after) = fit_layer(task, prior if index == 0 else None)
        layers.append(layer)
        errors = [*errors, after] if errors else [before, after]
        if index + 1 < bases:
            parts = [activated(layer(part), rectified=settings.rectified) for part in parts]
    return StackFit(tuple(layers), tuple(error / energy if energy > 0 else 0.0 for error in errors))


@dataclass(frozen=True, eq=False)
class LayerTask:
    """What one layer is fitted to.

    Attributes:
        parts: of what it reads, all as wide as each other.
        target: true responses before the rectifier, shape (outputs, samples of all parts).
        settings: of the fit.
        residual: whether the layer adds its input.
        added: what comes to the layer's responses from elsewhere, shape (outputs, samples); None for nothing.
    """

    parts: list[Crops]
    target: Array
    settings: LayerSettings
    residual: bool
    added: Array | None = None

    def error(self, layer: IntraChannel) -> float:
        """Squared error of a layer.

        Args:
            layer: any that reads these parts.

        Returns:
            Summed over all samples.
        """
        rectified = self.settings.rectified
        return sum(
            response_error(known, _plus(layer(read), added), rectified=rectified)
            for read, known, added in self._seen()
        )

    def moments(self) -> JointMoments:
        """Of what the layer reads and what it shall add, before a first fit.

        The targets are the true responses; rectified where the layer adds to its input, so that no fit can be
        worse than an empty layer.

        Returns:
            Sums over all samples.
        """
        total: JointMoments | None = None
        adding = self.residual or self.added is not None
        for read, known, added in self._seen():
            aim = rectify(known) if self.settings.rectified and adding else known
            wanted = aim - self._passed_on(read, known, added)
            more = JointMoments.of(read.patches(), wanted)
            total = more if total is None else total + more
        assert total is not None
        return total

    def free(self, layer: IntraChannel) -> Iterator[tuple[Array, Array]]:
        """What the layer reads with targets that are free where the rectifier hides what it gives.

        Args:
            layer: that reads these parts.

        Yields:
            Patches, and what shall be added to what is passed on, part by part.
        """
        for read, known, added in self._seen():
            free = free_targets(known, _plus(layer(read), added))
            yield read.patches(), free - self._passed_on(read, known, added)

    def layer(self, factors: Separable, bias: Array | None) -> IntraChannel:
        """A layer of given factors.

        Args:
            factors: of the settings' kernel.
            bias: shape (outputs,); None for zeros.

        Returns:
            The layer.
        """
        xp, kernel = array_namespace(self.target), self.settings.kernel
        filters = xp.reshape(factors.depthwise, (*factors.depthwise.shape[:2], kernel, kernel))
        offset = xp.zeros_like(factors.pointwise[:, 0]) if bias is None else bias
        return IntraChannel(filters, factors.pointwise, offset, self.residual)

    def _seen(self) -> Iterator[tuple[Crops, Array, Array | None]]:
        """What the layer reads at the centres, beside the true responses and what is added, part by part."""
        first = 0
        for part in self.parts:
            at = slice(first, first + part.samples)
            added = None if self.added is None else self.added[:, at]
            yield part.trimmed(self.settings.kernel), self.target[:, at], added
            first += part.samples

    def _passed_on(self, read: Crops, known: Array, added: Array | None) -> Array:
        """The responses with an empty layer, shape (outputs, samples)."""
        own = read.trimmed(1).patches() if self.residual else array_namespace(known).zeros_like(known)
        return own if added is None else own + added


def fit_layer(task: LayerTask, prior: Array | None) -> tuple[IntraChannel, tuple[float, float]]:
    """Fit one layer.

    Args:
        task: what it is fitted to.
        prior: weight that it starts from and is drawn to, shape (outputs, channels * kernel²).

    Returns:
        The layer, and the squared errors of an empty one and of this one, which is no greater.
    """
    settings, moments = task.settings, task.moments()
    xp = array_namespace(task.target)
    factors = _start(moments.covariances, settings, prior)
    best = task.layer(Separable(factors.depthwise, xp.zeros_like(factors.pointwise)), None)
    errors = [task.error(best)]
    drawn_to = xp.zeros_like(moments.cross_outer) if prior is None else prior
    for attempt in range(settings.rounds + 1):
        covariances = moments.covariances.drawn_towards(drawn_to, ridge=settings.ridge)
        factors = fit_separable(covariances, factors, sweeps=settings.sweeps).factors
        layer = task.layer(factors, covariances.bias(factors.weight))
        error = task.error(layer)
        if error >= errors[-1]:
            break
        best = layer
        errors.append(error)
        if attempt == settings.rounds or not settings.rectified:
            break
        moments = with_targets(moments, task.free(layer))
    return best, (errors[0], errors[-1])


def _start(covariances: Covariances, settings: LayerSettings, prior: Array | None) -> Separable:
    """The prior's best factors; without one, the filters that tell most alone, and a 1 x 1 of zeros."""
    xp = array_namespace(covariances.regressor)
    outputs, entries = covariances.cross.shape
    positions = settings.kernel**2
    if prior is not None:
        tensor = xp.reshape(xp.astype(prior, xp.float64), (outputs, -1, positions))
        return separate(xp.permute_dims(tensor, (1, 2, 0)), bases=settings.filters)
    channels = (slice(first, first + positions) for first in range(0, entries, positions))
    found = [
        _telling_filters(covariances.regressor[at, at], covariances.cross[:, at], settings.filters)
        for at in channels
    ]
    shape = (outputs, len(found) * settings.filters)
    nothing = xp.zeros(shape, dtype=xp.float64, device=device(covariances.regressor))
    return Separable(xp.stack(found), nothing)


def _telling_filters(regressor: Array, cross: Array, count: int) -> Array:
    """Filters of one channel whose outputs alone explain most of the targets, shape (count, positions)."""
    xp = array_namespace(regressor)
    whiten = whitener(regressor, cutoff=1e-6)
    told = cross @ whiten
    there = min(count, whiten.shape[1])
    kept = (whiten @ descending_eigh(told.T @ told)[1][:, :there]).T if there else regressor[:0, :]
    nothing = xp.zeros((count - there, regressor.shape[0]), dtype=regressor.dtype, device=device(regressor))
    return xp.concat([kept, nothing], axis=0)


def _plus(responses: Crops, added: Array | None) -> Array:
    """Responses at the centres with what comes from elsewhere, shape (outputs, samples)."""
    return responses.patches() if added is None else responses.patches() + added
