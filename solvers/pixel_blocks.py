"""Whole blocks of pixels: what a spatial bottleneck makes of them, and their moments.

A sample is a block. All its places share one bias, so that means can't be taken out of moments beforehand.
"""

from dataclasses import dataclass, replace

from array_api_compat import array_namespace, device

from cnncompress.solvers import Array
from cnncompress.solvers.joint_moments import JointMoments


@dataclass(frozen=True, eq=False)
class BlockFactors:
    """The weights of a spatial bottleneck.

    Attributes:
        down: shape (channels, positions of a block).
        pointwise: shape (outputs, channels).
        up: shape (outputs, positions of a block).
        bias: shape (outputs,).
    """

    down: Array
    pointwise: Array
    up: Array
    bias: Array

    def __call__(self, blocks: Array) -> Array:
        """The responses.

        Args:
            blocks: of the input, shape (channels, positions, samples).

        Returns:
            Shape (outputs, positions, samples).
        """
        xp, kind = array_namespace(blocks), blocks.dtype
        down, pointwise, up, bias = (
            xp.astype(part, kind) for part in (self.down, self.pointwise, self.up, self.bias)
        )
        projected = pointwise @ xp.sum(down[:, :, None] * blocks, axis=1)
        return up[:, :, None] * projected[:, None, :] + bias[:, None, None]


@dataclass(frozen=True, eq=False)
class BlockMoments:
    """Mean products of what blocks hold and of what they shall hold, in float64.

    Attributes:
        regressor: of the inputs, shape (channels * positions, channels * positions).
        cross: of targets with inputs, shape (outputs, positions, channels * positions).
        regressor_mean: shape (channels * positions,).
        target_mean: sum over a block of the targets' means, shape (outputs,).
        target_square: sum over a block of the mean squared targets, shape (outputs,).
    """

    regressor: Array
    cross: Array
    regressor_mean: Array
    target_mean: Array
    target_square: Array

    @classmethod
    def of(cls, joint: JointMoments, positions: int) -> "BlockMoments":
        """From sums over samples.

        Args:
            joint: of inputs (channels * positions) and targets (outputs * positions), a sample a block.
            positions: of a block.

        Returns:
            The means.
        """
        xp, count, by_output = array_namespace(joint.cross_outer), joint.count, (-1, positions)
        return cls(
            joint.regressor_outer / count,
            xp.reshape(joint.cross_outer / count, (*by_output, joint.cross_outer.shape[1])),
            joint.regressor_total / count,
            xp.sum(xp.reshape(joint.target_total / count, by_output), axis=1),
            xp.sum(xp.reshape(joint.target_square / count, by_output), axis=1),
        )

    @property
    def positions(self) -> int:
        """Places of a block."""
        return int(self.cross.shape[1])

    def reduced(self, down: Array) -> "FeatureMoments":
        """Moments of what filters make of the inputs.

        Args:
            down: the filters, shape (channels, positions).

        Returns:
            Of one feature a channel.
        """
        half = _reduced(self.regressor, down)
        return FeatureMoments(
            _reduced(half.T, down), _reduced(self.cross, down), _reduced(self.regressor_mean, down)
        )

    def bias(self, factors: BlockFactors) -> Array:
        """The best bias for given factors.

        Args:
            factors: of float64; their own bias isn't read.

        Returns:
            Shape (outputs,).
        """
        xp = array_namespace(factors.up)
        mean = factors.pointwise @ _reduced(self.regressor_mean, factors.down)
        return (self.target_mean - xp.sum(factors.up, axis=1) * mean) / self.positions

    def error(self, factors: BlockFactors) -> float:
        """What factors leave with the best bias.

        Args:
            factors: of float64; their own bias isn't read.

        Returns:
            Mean squared error of a block, all outputs together; rounding may take it below zero by a little.
        """
        xp, features, mixed = array_namespace(factors.up), self.reduced(factors.down), factors.pointwise
        square = xp.sum(factors.up * factors.up, axis=1)
        fitted = square * xp.sum((mixed @ features.second) * mixed, axis=1)
        right = xp.sum(factors.up[:, :, None] * features.cross, axis=1)
        error = self.target_square - 2 * xp.sum(right * mixed, axis=1) + fitted
        return float(xp.sum(error - self.positions * self.bias(factors) ** 2))

    def drawn_towards(self, prior: Array, *, ridge: float) -> "BlockMoments":
        """The same with samples added for which a 1 x 1 on block means is right.

        Args:
            prior: the 1 x 1, shape (outputs, channels).
            ridge: strength, relative to the mean variance of the inputs.

        Returns:
            Other moments; the means stay.
        """
        xp, inputs = array_namespace(self.regressor), self.regressor.shape[0]
        variance = xp.linalg.diagonal(self.regressor) - self.regressor_mean**2
        strength = ridge * xp.sum(variance) / inputs
        mean = xp.repeat(xp.astype(prior, xp.float64), self.positions, axis=1) / self.positions
        identity = xp.eye(inputs, dtype=xp.float64, device=device(self.regressor))
        return replace(
            self,
            regressor=self.regressor + strength * identity,
            cross=self.cross + strength * mean[:, None, :],
            target_square=self.target_square + strength * self.positions * xp.sum(mean * mean, axis=1),
        )


@dataclass(frozen=True, eq=False)
class FeatureMoments:
    """Mean products of the reduced blocks.

    Attributes:
        second: of the features, shape (channels, channels).
        cross: of targets with features, shape (outputs, positions, channels).
        mean: shape (channels,).
    """

    second: Array
    cross: Array
    mean: Array


def block_means(pointwise: Array, bias: Array, *, positions: int) -> BlockFactors:
    """A 1 x 1 on the means of blocks, brought back to all their places.

    Args:
        pointwise: shape (outputs, channels).
        bias: shape (outputs,).
        positions: of a block.

    Returns:
        The factors.
    """
    xp = array_namespace(pointwise)
    kind = {"dtype": pointwise.dtype, "device": device(pointwise)}
    down = xp.ones((pointwise.shape[1], positions), **kind) / positions
    return BlockFactors(down, pointwise, xp.ones((pointwise.shape[0], positions), **kind), bias)


def _reduced(values: Array, down: Array) -> Array:
    """Filters applied to the last axis: (..., channels * positions) to (..., channels)."""
    xp = array_namespace(values)
    return xp.sum(xp.reshape(values, (*values.shape[:-1], *down.shape)) * down, axis=-1)
