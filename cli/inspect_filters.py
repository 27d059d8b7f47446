"""``cnncompress inspect MODEL --filters LAYER``: what a layer's spatial filters look like."""

import json
from collections.abc import Mapping
from typing import Any

import click

from cnncompress.cli.network_options import load


def inspect_filters(given: Mapping[str, Any]) -> None:
    """Draw the filters, write the picture and say where it is.

    Args:
        given: the options of ``inspect``.
    """
    from cnncompress.cli.progress import Progress
    from cnncompress.folder import check_folder
    from cnncompress.intra_channel import intra_channel_kernels, write_kernels

    check_folder(given["out"], overwrite=False)
    with Progress(quiet=given["quiet"]) as report:
        network = load(given, report)
        kernels = intra_channel_kernels(network.model, given["filters"])
        path = write_kernels(given["out"], kernels)
    if given["as_json"]:
        click.echo(json.dumps(kernels.to_json(), indent=2))
        return
    click.echo(f"{kernels.caption}\n{path}")
