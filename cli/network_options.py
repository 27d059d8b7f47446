"""Options that say which weights a network has and how it is fed, shared by several commands."""

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


def network_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options to a command.

    Args:
        function: the command's function; it receives them by name.

    Returns:
        The function.
    """
    for decorate in reversed(_OPTIONS):
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
