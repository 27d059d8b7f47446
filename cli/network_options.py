"""Options that say which network is meant, with which weights, and how it is fed."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cnncompress.cli import values
from cnncompress.cli.completion import one_of
from cnncompress.cli.names import WEIGHTS

if TYPE_CHECKING:  # torch takes seconds, --help shall not
    from cnncompress.events import Reporter
    from cnncompress.network import Network

_OPTIONS = (
    click.option(
        "--weights",
        default="default",
        show_default=True,
        shell_complete=one_of(WEIGHTS),
        metavar="NAME",
        help="Pretrained weights: a name of torchvision's, for example IMAGENET1K_V2, 'backbone' for the "
        "convolutions alone, 'none' for random ones.",
    ),
    click.option(
        "--checkpoint", type=click.Path(path_type=Path), help="Your own weights, .pth or .safetensors."
    ),
    click.option("--num-classes", type=click.IntRange(1), help="Outputs of a network with random weights."),
    click.option(
        "--input-size",
        type=click.IntRange(1),
        metavar="PIXELS",
        help="Height and width of the input.  [default: as the weights were trained]",
    ),
    click.option(
        "--mean",
        type=values.numbers,
        metavar="R,G,B",
        help="Subtracted from pixels on the scale 0 to 1.  [default: as the weights were trained]",
    ),
    click.option(
        "--std",
        type=values.numbers,
        metavar="R,G,B",
        help="What the result is divided by.  [default: as the weights were trained]",
    ),
)


_ORIGINAL_OPTIONS = (
    click.option(
        "--network",
        "--model",
        "network",
        metavar="NAME",
        help="The original network, where it is your own package.module:factory.",
    ),
    click.option(
        "--checkpoint",
        type=click.Path(path_type=Path),
        help="The original's weights, where they were a file.",
    ),
    click.option(
        "--weights",
        default="default",
        shell_complete=one_of(WEIGHTS),
        help="The original's weights by name.  [default: as compressed]",
    ),
)


def network_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a network that is named first on the command line.

    Args:
        function: the command's function; it receives them by name.

    Returns:
        The function.
    """
    for decorate in reversed(_OPTIONS):
        function = decorate(function)
    return function


def original_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options that find the original of a folder of results.

    Args:
        function: the command's function; it receives ``network``, ``checkpoint`` and ``weights``.

    Returns:
        The function.
    """
    for decorate in reversed(_ORIGINAL_OPTIONS):
        function = decorate(function)
    return function


def load(given: Mapping[str, Any], report: "Reporter") -> "Network":
    """Load the network that the command line describes.

    Args:
        given: the options above and ``model``.
        report: receives the progress of downloads.

    Returns:
        The network.
    """
    from cnncompress.models import load_network

    return load_network(
        given["model"],
        weights=given["weights"],
        checkpoint=given["checkpoint"],
        num_classes=given["num_classes"],
        input_size=given["input_size"],
        mean=given["mean"],
        std=given["std"],
        report=report,
    )
