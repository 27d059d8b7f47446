"""What ``cnncompress bench`` measured, as tables."""

from collections.abc import Iterator, Mapping
from typing import Any

import click

from cnncompress.cli.tables import print_latencies, print_table
from cnncompress.formats import format_number, format_times

_WAYS = {"network": "run as a network of its own"}
"""How a replacement was timed, where the table should say it."""

_NOISE = 1.1  # of sums of medians


def print_bench(found: Mapping[str, Any]) -> None:
    """Print the table of the networks, then a table of layers for each setting where there are some.

    Args:
        found: what ``bench --json`` prints.
    """
    repeats = found["settings"]["repeats"]
    click.echo(f"{found['network']} on {found['environment']['cpu']}, {repeats} pairs of runs, medians")
    print_latencies(found["latency"])
    for network, setting in zip(found["latency"], found["layers"] or (), strict=False):
        click.echo()
        _print_layers(network, setting)


def _print_layers(network: Mapping[str, Any], setting: Mapping[str, Any]) -> None:
    place = "" if setting["device"] == "cpu" else f" {setting['device']}"
    click.echo(
        f"replaced layers in {setting['runtime']}{place}, threads: {setting['threads']}, "
        f"batch: {setting['batch']}"
    )
    if not setting["layers"]:
        click.echo("none: the network is the original")
        return
    columns = ("layer", "method", "ranks", "fewer MACs", "before ms", "IQR", "after ms", "IQR ", "speed", "")
    rows = [*map(_row, setting["layers"]), *_sums(network, setting)]
    print_table(columns, rows, right=columns[3:9])
    if any(setting[when] > _NOISE * network[when] for when in ("ms_before", "ms_after")):
        click.echo(
            "the layers together took longer than the network: the machine was busier while they were timed, "
            "so compare within lines alone, or run again"
        )


def _row(layer: Mapping[str, Any]) -> tuple[str, ...]:
    notes = ("slower" if layer["slower"] else "", _WAYS.get(layer["timed"], ""))
    return (
        layer["name"],
        layer["method"],
        ",".join(map(str, layer["ranks"])),
        format_times(layer["macs_before"] / layer["macs_after"]) if layer["macs_after"] else "-",
        *(format_number(layer[name], 3) for name in ("ms_before", "iqr_before", "ms_after", "iqr_after")),
        format_times(layer["speedup"]),
        ", ".join(filter(None, notes)),
    )


def _sums(network: Mapping[str, Any], setting: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """The layers together, what is left of the network's time, and that."""
    layers = setting["layers"]
    before, after = setting["ms_before"], setting["ms_after"]
    macs = sum(layer["macs_before"] for layer in layers) / max(
        sum(layer["macs_after"] for layer in layers), 1
    )
    yield _line("these together", format_times(macs), before, after, before / after)
    # no ratio: differences of two measured times may come out as nothing, or less
    yield _line("all the rest", "", network["ms_before"] - before, network["ms_after"] - after, None)
    yield _line("whole network", "", network["ms_before"], network["ms_after"], network["speedup"])


def _line(name: str, macs: str, before: float, after: float, speedup: float | None) -> tuple[str, ...]:
    speed = "" if speedup is None else format_times(speedup)
    return (name, "", "", macs, format_number(before, 3), "", format_number(after, 3), "", speed, "")
