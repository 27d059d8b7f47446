"""Options of ``inspect`` that ask for pictures instead of the list of layers."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from cnncompress.cli.completion import folders

_OPTIONS = (
    click.option(
        "--covariance",
        is_flag=True,
        help="Measure how channels within and between convolutions vary together.",
    ),
    click.option(
        "--filters", metavar="LAYER", help="Draw the filters of one layer that work within a channel."
    ),
    click.option(
        "-o",
        "--out",
        "--output",
        "out",
        type=click.Path(path_type=Path),
        shell_complete=folders,
        help="Folder for the pictures; new or empty.",
    ),
    click.option(
        "--data",
        type=click.Path(path_type=Path),
        help="For --covariance: images, no labels needed: a folder, .npz or .pt.  [default: as for compress]",
    ),
    click.option(
        "--images",
        type=click.IntRange(2),
        default=100,
        show_default=True,
        help="Images of --covariance, at most.",
    ),
    click.option(
        "--pairs",
        multiple=True,
        metavar="PATTERN",
        help="For --covariance: only pairs whose first layer has such a name, for example 'features.1*'; "
        "may be repeated.",
    ),
    click.option(
        "--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of all random choices."
    ),
)


def picture_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options to a command.

    Args:
        function: the command's function; it receives them by name.

    Returns:
        The function.
    """
    for decorate in reversed(_OPTIONS):
        function = decorate(function)
    return function


def make_pictures(given: Mapping[str, Any]) -> bool:
    """Make the pictures that were asked for, if any.

    Args:
        given: the options of ``inspect``.

    Returns:
        Whether there were any.

    Raises:
        UsageError: options that don't go together, or a folder is missing.
    """
    asked = [name for name in ("covariance", "filters") if given[name]]
    if len(asked) > 1:
        raise click.UsageError("give --covariance or --filters, not both")
    if asked and given["out"] is None:
        raise click.UsageError(f"--{asked[0]} needs --out FOLDER for its pictures")
    if not asked and given["out"] is not None:
        raise click.UsageError("--out goes with --covariance or --filters")
    if asked != ["covariance"] and (given["data"] is not None or given["pairs"]):
        raise click.UsageError("--data and --pairs go with --covariance")
    if asked == ["covariance"]:
        from cnncompress.cli.inspect_covariance import inspect_covariance

        inspect_covariance(given)
    elif asked == ["filters"]:
        from cnncompress.cli.inspect_filters import inspect_filters

        inspect_filters(given)
    return bool(asked)
