"""What is known of one layer: its true responses, and what it reads on the compressed prefix."""

from dataclasses import dataclass

from cnncompress.inspect import Activation
from cnncompress.solvers import Array
from cnncompress.solvers.joint_moments import JointMoments
from cnncompress.solvers.moments import Moments


@dataclass(frozen=True)
class Samples:
    """One set of sampled positions.

    Attributes:
        target: the original network's responses, shape (out_channels, samples).
        patches: the layer's inputs on the compressed prefix, shape (patch entries, samples); entries in the
            order of the weight's: channels, rows, columns; more rows and columns for a method with a margin.
        inside: whether each row and column of a patch lies in the image, shape (rows * columns, samples);
            None unless the method has a margin.
    """

    target: Array
    patches: Array
    inside: Array | None = None


@dataclass(frozen=True)
class Statistics:
    """What is known of one layer of the original network, over all positions of all images.

    Attributes:
        outputs: moments of its responses.
        inputs: moments of its input channels; None unless a method needs them.
        gradients: mean squared derivative of the loss by each weight, shape (out_channels, in_channels,
            kernel height, kernel width); None unless a method needs it.
    """

    outputs: Moments
    inputs: Moments | None = None
    gradients: Array | None = None


@dataclass(frozen=True)
class Responses:
    """What a data-aware method knows about one layer.

    Attributes:
        statistics: of the original network.
        fit: samples to fit; without patches where ``moments`` stand for them.
        held_out: samples of other images, to judge.
        activation: what follows the layer.
        moments: of all samples to fit, patches with true responses; None unless the method needs them.
    """

    statistics: Statistics
    fit: Samples
    held_out: Samples
    activation: Activation
    moments: JointMoments | None = None
