"""``cnncompress inspect MODEL``: what every layer costs and whether it can be decomposed."""

import json
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from typing import Any

import click

from cnncompress.cli.network_options import load, network_options


@click.command()
@click.argument("model")
@network_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON to stdout.")
def inspect(**given: Any) -> None:
    """List the layers of MODEL: shape, MACs, what follows, and which can be decomposed.

    Nothing is downloaded: unless --weights or --checkpoint say otherwise, the weights are random.
    """
    from cnncompress.cli.progress import Progress
    from cnncompress.inspect import inspect_layers

    if given["weights"] == "default" and given["checkpoint"] is None:
        given["weights"] = "none"
    with redirect_stdout(sys.stderr), Progress() as report:
        network = load(given, report)
        layers = inspect_layers(network.model, network.input_size)
    if given["as_json"]:
        click.echo(json.dumps([_entry(layer) for layer in layers], indent=2))
    else:
        _print(given["model"], network.input_size, layers)


def _entry(layer: Any) -> dict[str, Any]:
    return {**asdict(layer), "macs": layer.macs, "params": layer.params}


def _print(model: str, input_size: tuple[int, ...], layers: tuple[Any, ...]) -> None:
    from cnncompress.cli.tables import print_table
    from cnncompress.formats import format_count, format_percent

    total = sum(layer.macs for layer in layers)
    columns = (
        "layer",
        "kind",
        "channels",
        "kernel",
        "stride",
        "groups",
        "output",
        "MACs",
        "share",
        "then",
        "decomposable",
    )
    rows = [
        (
            layer.name,
            layer.kind,
            f"{layer.in_channels}->{layer.out_channels}",
            "x".join(map(str, layer.kernel_size)),
            "x".join(map(str, layer.stride)),
            str(layer.groups),
            "x".join(map(str, layer.output_size)),
            format_count(layer.macs),
            format_percent(layer.macs / total if total else None),
            ", ".join(layer.followed_by) or "-",
            "yes" if layer.eligible else f"no: {layer.reason}",
        )
        for layer in layers
    ]
    print_table(columns, rows, right=("MACs", "share", "groups"), wrap=("then", "decomposable"))
    eligible = [layer for layer in layers if layer.eligible]
    share = sum(layer.macs for layer in eligible) / total if total else 0.0
    click.echo(
        f"{model} at {'x'.join(map(str, input_size))}: {format_count(total)} MACs an image; "
        f"{len(eligible)} of {len(layers)} layers can be decomposed, {format_percent(share)} of the MACs"
    )
