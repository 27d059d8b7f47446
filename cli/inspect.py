"""``cnncompress inspect MODEL``: what every layer costs and whether it can be decomposed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import click

from cnncompress.cli.completion import one_of
from cnncompress.cli.names import MODELS
from cnncompress.cli.network_options import load, network_options
from cnncompress.cli.picture_options import make_pictures, picture_options


@click.command()
@click.argument("model", shell_complete=one_of(MODELS))
@network_options
@click.option("--methods/--no-methods", default=True, help="Whether to list which methods fit each layer.")
@picture_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON to stdout, and nothing else.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def inspect(**given: Any) -> None:
    """List the layers of MODEL and the methods that fit each.

    Of every layer its shape, multiply-accumulates (MACs), what follows it, and whether it can be decomposed.
    Methods come with the values that their options may take, the greatest ranks, and the ranks that need
    half the multiply-accumulates. Nothing is downloaded: unless --weights or --checkpoint say otherwise, the
    weights are random.

    With --covariance or --filters, pictures of the trained network are made instead, and its weights are
    downloaded where need be: `cnncompress inspect vgg16 --covariance --out study/`.
    """
    if make_pictures(given):
        return
    from cnncompress.cli.progress import Progress
    from cnncompress.inspect import inspect_layers

    if given["weights"] == "default" and given["checkpoint"] is None:
        given["weights"] = "none"
    with Progress(quiet=given["quiet"]) as report:
        network = load(given, report)
        layers = inspect_layers(network.model, network.input_size)
    if given["as_json"]:
        click.echo(json.dumps([_entry(layer) for layer in layers], indent=2))
        return
    if given["methods"]:
        _print_methods([layer for layer in layers if layer.eligible])
        click.echo()
    _print(given["model"], network.input_size, layers)


def _entry(layer: Any) -> dict[str, Any]:
    from cnncompress.applicability import applicability

    methods = [found.to_json() for found in applicability(layer)] if layer.eligible else []
    return {**asdict(layer), "macs": layer.macs, "params": layer.params, "methods": methods}


def _print_methods(layers: Sequence[Any]) -> None:
    from cnncompress.applicability import applicability
    from cnncompress.cli.tables import print_table
    from cnncompress.formats import format_count

    columns = ("layer", "method", "fits", "ranks up to", "MACs then", "half the MACs at", "option values")
    rows = [
        (
            layer.name if position == 0 else "",
            found.method,
            f"no: {found.obstacle}" if found.obstacle else "yes",
            _assignments(found.limits),
            format_count(found.macs_full) if found.macs_full is not None else "-",
            _assignments(found.half),
            "; ".join(f"{key}: {','.join(map(str, values))}" for key, values in (found.options or {}).items())
            or "-",
        )
        for layer in layers
        for position, found in enumerate(applicability(layer))
    ]
    print_table(columns, rows, right=("MACs then",), wrap=("fits", "option values"))


def _assignments(values: Mapping[str, int] | None) -> str:
    return ", ".join(f"{key}={value}" for key, value in (values or {}).items()) or "-"


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
