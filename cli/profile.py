"""``cnncompress profile MODEL``: measured times of layers and of what may replace them."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from cnncompress.cli import values
from cnncompress.cli.completion import one_of, some_of
from cnncompress.cli.names import AUTO, METHODS, MODELS, RUNTIMES, check_methods, check_names
from cnncompress.cli.network_options import load, network_options
from cnncompress.cli.values import words

if TYPE_CHECKING:  # torch takes seconds, --help shall not
    from cnncompress.latency import Setting
    from cnncompress.latency.profile import Fastest, LayerProfile


@click.command()
@click.argument("model", shell_complete=one_of(MODELS))
@network_options
@click.option(
    "--runtime",
    default="torch",
    show_default=True,
    metavar="NAME",
    shell_complete=one_of(RUNTIMES),
    help="What the times are measured in: torch, torch.compile, onnxruntime, openvino, cuda or cuda-graphs.",
)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Compute threads.")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Images at a time.")
@click.option(
    "--method",
    default="auto",
    show_default=True,
    metavar="M[,M…]|auto",
    shell_complete=some_of((AUTO, *METHODS)),
    help="What may replace the layers: one decomposition, several, or auto for the usual ones.",
)
@click.option(
    "--align",
    type=values.align,
    metavar="N|auto",
    default="auto",
    show_default=True,
    help="Make ranks multiples of N.",
)
@click.option("--remeasure", is_flag=True, help="Measure what is known from before, too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON to stdout, and nothing else.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def profile(**given: Any) -> None:
    """Time the layers of MODEL and what may replace them.

    The table tells what fewer multiply-accumulates would really save on this machine. For half and for a
    quarter of a layer's MACs, each method is shown at its fastest ranks. The times are kept, and
    `--budget latency` plans with the same ones. Nothing is downloaded: unless --weights or --checkpoint
    say otherwise, the weights are random, on which times don't depend.
    """
    check_names("runtime", (given["runtime"],), RUNTIMES)
    check_methods(words(given["method"]))
    from cnncompress.cli.progress import Progress
    from cnncompress.inspect import inspect_layers
    from cnncompress.latency import Setting
    from cnncompress.latency.profile import profile as measured
    from cnncompress.memory_layout import faster_layout
    from cnncompress.options import Options
    from cnncompress.runtimes import check_runtime

    check_runtime(given["runtime"])
    if given["weights"] == "default" and given["checkpoint"] is None:
        given["weights"] = "none"
    options = Options(method=given["method"], align=given["align"])
    with Progress(quiet=given["quiet"]) as report:
        network = load(given, report)
        setting = Setting(
            runtime=given["runtime"],
            threads=given["threads"],
            batch=given["batch"],
            channels_last="channels_last" in str(faster_layout(network.model, network.input_size)),
        )
        layers = inspect_layers(network.model, network.input_size)
        found = measured(layers, options, setting, remeasure=given["remeasure"], report=report)
    if given["as_json"]:
        lines = [one.to_json() for one in found]
        click.echo(json.dumps({"setting": asdict(setting), "layers": lines}, indent=2))
        return
    _print(given["model"], setting, found)


def _print(model: str, setting: "Setting", found: "Sequence[LayerProfile]") -> None:
    from cnncompress.cli.tables import print_table

    columns = ("layer", "MACs", "ms", "share", "method", "ranks", "fewer MACs", "ms then", "speed", "")
    print_table(columns, _rows(found), right=("MACs", "ms", "share", "fewer MACs", "ms then", "speed"))
    total = sum(one.ms for one in found)
    click.echo(
        f"{model} in {setting.runtime}, threads: {setting.threads}, batch: {setting.batch}: "
        f"{total:.3g} ms in convolutions and linear layers; at each method's fastest ranks"
    )


def _rows(found: "Sequence[LayerProfile]") -> Iterator[tuple[str, ...]]:
    from cnncompress.formats import format_count, format_number, format_percent

    for one in found:
        own = (
            one.layer.name,
            format_count(one.layer.macs),
            format_number(one.ms),
            format_percent(one.share),
        )
        if not one.fastest:
            yield (*own, "-", "-", "-", "-", "-", one.layer.reason)
        for place, fastest in enumerate(one.fastest):
            yield (*(own if place == 0 else ("",) * len(own)), *_columns(fastest))


def _columns(fastest: "Fastest") -> tuple[str, ...]:
    from cnncompress.formats import format_number, format_times

    return (
        fastest.method,
        ",".join(map(str, fastest.ranks)),
        format_times(fastest.macs),
        format_number(fastest.ms),
        format_times(fastest.speedup),
        "slower than the layer" if fastest.speedup < 1 else "",
    )
