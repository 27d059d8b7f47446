"""Results on stdout: tables that keep every name whole, and the verdict in one line."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from cnncompress.cli.terminal import console as terminal
from cnncompress.formats import format_bytes, format_count, format_number, format_percent, format_times

UNLIMITED = 10_000  # columns; rich otherwise takes a pipe for 80 columns wide


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: Sequence[str] = (),
    wrap: Sequence[str] = (),
) -> None:
    """Print a table to stdout.

    In a pipe every row is one line however long; in a terminal only the columns named in ``wrap`` give way.

    Args:
        columns: headers.
        rows: one text for each column.
        right: headers of columns that are aligned to the right.
        wrap: headers of columns that may break into several lines.
    """
    console = terminal()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(
            column,
            justify="right" if column in right else "left",
            no_wrap=column not in wrap,
            overflow="fold",
            min_width=20 if column in wrap else len(column),
        )
    for row in rows:
        table.add_row(*map(Text, row))
    wide = terminal(width=UNLIMITED)
    if console.is_terminal:
        # a terminal that is too narrow breaks lines itself; names must not be cut for it
        console.width = max(console.width, Measurement.get(wide, wide.options, table).minimum)
        console.print(table)
        return
    with wide.capture() as captured:
        wide.print(table)
    # rich fills the last column with blanks
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def print_layers(report: Mapping[str, Any]) -> None:
    """Print the report's lines of layers.

    Args:
        report: schema 1.
    """
    columns = ("layer", "method", "ranks", "MACs", "after", "ratio", "speed", "energy", "error", "why")
    rows = [
        (
            layer["name"],
            layer["method"] if layer["ranks"] else "-",
            ",".join(map(str, layer["ranks"])) or "-",
            format_count(layer["macs_before"]),
            format_count(layer["macs_after"]),
            format_times(layer["macs_before"] / layer["macs_after"]) if layer["macs_after"] else "-",
            _speed(layer.get("layer_speedup")),
            format_percent(layer["energy_kept"]),
            format_number(layer["error_heldout"]),
            "; ".join(filter(None, (layer.get("chosen"), layer["reason"]))),
        )
        for layer in report["layers"]
    ]
    print_table(columns, rows, right=columns[2:9], wrap=("why",))


def _speed(ratio: float | None) -> str:
    from cnncompress.layer_timing import is_slower

    # the word stands in front, so that the numbers of a column stay aligned
    return ("slower " if is_slower(ratio) else "") + format_times(ratio)


def print_latencies(lines: Iterable[Mapping[str, Any]]) -> None:
    """Print measured times.

    Args:
        lines: the report's lines of latency.
    """
    columns = ("runtime", "threads", "batch", "before ms", "IQR", "after ms", "IQR ", "speedup")
    rows = [
        (
            line["runtime"] + ("" if line.get("device", "cpu") == "cpu" else f" {line['device']}"),
            str(line["threads"]),
            str(line["batch"]),
            format_number(line["ms_before"], 2),
            format_number(line["iqr_before"], 2),
            format_number(line["ms_after"], 2),
            format_number(line["iqr_after"], 2),
            format_times(line["speedup"]),
        )
        for line in lines
    ]
    print_table(columns, rows, right=columns[1:])


def verdict(report: Mapping[str, Any]) -> str:
    """The outcome in one line.

    Args:
        report: schema 1.

    Returns:
        What was asked and delivered, the loss of quality, and the measured speed.
    """
    macs = report["macs"]
    asked = report["asked"]
    aim = "ranks as asked" if asked["speedup"] is None else f"asked {format_times(asked['speedup'])}"
    if asked["budget"] == "latency":
        parts = [f"{_measured(report)} ({aim}), {format_times(macs['conv_speedup'])} fewer conv MACs"]
    elif asked["budget"] == "parameters":
        planner = report["planner"]
        parts = [f"{format_times(planner['total'] / planner['spent'])} fewer parameters ({aim})"]
    else:
        delivered = macs["conv_speedup"] if asked["budget"] == "conv MACs" else macs["speedup"]
        parts = [f"{format_times(delivered)} fewer {asked['budget']} ({aim})"]
    accuracy, fidelity = report.get("accuracy"), report.get("fidelity")
    if accuracy:
        before, after, drop = (
            format_number(accuracy[key], 1) for key in ("top1_before", "top1_after", "drop_top1")
        )
        parts.append(f"top-1 {before} -> {after} % (drop {drop} points, {accuracy['n']} images)")
    elif fidelity:
        parts.append(
            f"output error {format_number(fidelity['output_relative_error'])} on "
            f"{fidelity['heldout_images']} held-out images"
        )
    if report.get("latency") and asked["budget"] != "latency":
        parts.append(_measured(report))
    size = report["bytes"]
    parts.append(f"{format_bytes(size['before'])} -> {format_bytes(size['after'])}")
    return f"{report['name']}: " + "; ".join(parts)


def _measured(report: Mapping[str, Any]) -> str:
    if not report.get("latency"):
        return "not measured"
    first = report["latency"][0]
    threads = "1 thread" if first["threads"] == 1 else f"{first['threads']} threads"
    return f"measured speed {format_times(first['speedup'])} ({first['runtime']}, {threads})"


def print_front(front: Mapping[str, Any]) -> None:
    """Print a line for each network of a front.

    Args:
        front: what ``front.json`` holds.
    """
    columns = (
        "asked",
        "measured",
        "ms",
        "fewer MACs",
        "drop",
        "output error",
        "same top-1",
        "size",
        "folder",
    )
    rows = [
        (
            format_times(point["asked"]),
            format_times(point["latency_speedup"]),
            format_number(point["ms_after"], 2),
            format_times(point["macs_speedup"]),
            format_number(point["drop"], 2),
            format_number(point["output_error"]),
            format_percent(point["top1_agreement"]),
            format_bytes(point["bytes"]),
            point["folder"],
        )
        for point in front["points"]
    ]
    print_table(columns, rows, right=columns[:8])
