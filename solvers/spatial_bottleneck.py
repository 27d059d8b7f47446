"""A spatial bottleneck fitted to true responses on whole blocks of pixels.

Wang et al., "Design of Efficient Convolutional Layers using Single Intra-channel Convolution, Topological
Subdivisioning and Spatial Bottleneck Structure", https://arxiv.org/abs/1608.04337v1, section 2.4. The
alternation is in `cnncompress.solvers.block_alternation`; here are the rectifier that follows, and the way
past the layer.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from array_api_compat import array_namespace

from cnncompress.solvers import Array
from cnncompress.solvers.block_alternation import fit_blocks
from cnncompress.solvers.free_targets import free_targets, response_error, with_targets
from cnncompress.solvers.joint_moments import JointMoments
from cnncompress.solvers.nonlinear import rectify
from cnncompress.solvers.pixel_blocks import BlockFactors, BlockMoments, block_means

_ENTRIES = 2**24
"""Of the values that are read in one part; temporaries are a few times that."""


@dataclass(frozen=True)
class BlockSettings:
    """How a spatial bottleneck is fitted.

    Attributes:
        residual: whether it adds its input.
        rectified: whether the network rectifies the responses.
        ridge: how strongly it is drawn towards the prior, relative to the mean variance of the inputs.
        rounds: fits to targets that follow the rectifier, at most.
        sweeps: alternations of a fit, at most.
    """

    residual: bool = False
    rectified: bool = True
    ridge: float = 0.0
    rounds: int = 5
    sweeps: int = 30


@dataclass(frozen=True)
class SpatialBottleneckFit:
    """A spatial bottleneck fitted to responses.

    Attributes:
        factors: the weights; the 1 x 1 is zero if nothing lowered the error.
        history: squared error after the rectifier, as a share of the squared responses, of the input (of
            zeros without residual) and of each fit that was kept; never rising.
    """

    factors: BlockFactors
    history: tuple[float, ...]


def fit_spatial_bottleneck(
    blocks: Array, target: Array, settings: BlockSettings, *, prior: Array | None = None
) -> SpatialBottleneckFit:
    """Fit the factors.

    Args:
        blocks: of the input, shape (channels, positions, samples).
        target: true responses before the rectifier, shape (outputs, positions, samples).
        settings: of the fit.
        prior: 1 x 1 on block means that it is drawn to, shape (outputs, channels); None for zeros.

    Returns:
        The factors.
    """
    xp, positions = array_namespace(blocks), blocks.shape[1]
    task = _Task(blocks, target, settings)
    drawn_to = xp.zeros_like(target[:, 0, :1] * blocks[:, 0, :1].T) if prior is None else prior
    best = block_means(xp.zeros_like(drawn_to), xp.zeros_like(drawn_to[:, 0]), positions=positions)
    errors, moments = [task.error(best)], task.moments()
    start: BlockFactors | None = None
    for attempt in range(settings.rounds + 1):
        means = BlockMoments.of(moments, positions).drawn_towards(drawn_to, ridge=settings.ridge)
        start = fit_blocks(means, start=start, sweeps=settings.sweeps).factors
        error = task.error(start)
        if error >= errors[-1]:
            break
        best = start
        errors.append(error)
        if attempt == settings.rounds or not settings.rectified:
            break
        moments = with_targets(moments, task.free(start))
    energy = response_error(target, xp.zeros_like(target), rectified=settings.rectified)
    return SpatialBottleneckFit(best, tuple(error / energy if energy > 0 else 0.0 for error in errors))


@dataclass(frozen=True, eq=False)
class _Task:
    """Blocks, what they shall become, and how."""

    blocks: Array
    target: Array
    settings: BlockSettings

    def error(self, factors: BlockFactors) -> float:
        """Squared error of factors, summed over all samples."""
        return sum(
            response_error(known, self.response(factors, read), rectified=self.settings.rectified)
            for read, known in self._parts()
        )

    def moments(self) -> JointMoments:
        """Of the blocks and what shall be added to what is passed on, before a first fit.

        The targets are the responses; rectified where they are added to the input, so that no fit can be
        worse than adding nothing.

        Returns:
            Sums over all samples.
        """
        total: JointMoments | None = None
        for read, known in self._parts():
            rectified = self.settings.rectified and self.settings.residual
            more = JointMoments.of(*self._flat(read, rectify(known) if rectified else known))
            total = more if total is None else total + more
        assert total is not None
        return total

    def free(self, factors: BlockFactors) -> Iterator[tuple[Array, Array]]:
        """Blocks with targets that are free where the rectifier hides what the factors give."""
        for read, known in self._parts():
            yield self._flat(read, free_targets(known, self.response(factors, read)))

    def response(self, factors: BlockFactors, read: Array) -> Array:
        """What the layer answers, before the rectifier."""
        return factors(read) + read if self.settings.residual else factors(read)

    def _flat(self, read: Array, wanted: Array) -> tuple[Array, Array]:
        """A column for each block, without what is passed on."""
        xp = array_namespace(read)
        added = wanted - read if self.settings.residual else wanted
        samples = read.shape[2]
        return xp.reshape(read, (-1, samples)), xp.reshape(added, (-1, samples))

    def _parts(self) -> Iterator[tuple[Array, Array]]:
        samples = self.blocks.shape[2]
        step = max(1, _ENTRIES // (self.blocks.shape[0] * self.blocks.shape[1]))
        for first in range(0, max(samples, 1), step):
            part = slice(first, min(first + step, samples))
            yield self.blocks[:, :, part], self.target[:, :, part]
