"""``cnncompress bench OUT``: measured speed, original against compressed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cnncompress.cli import values
from cnncompress.cli.completion import folders, one_of, some_of
from cnncompress.cli.names import MODELS, RUNTIMES, check_names

if TYPE_CHECKING:  # torch takes seconds, --help shall not
    from torch import nn

    from cnncompress.events import Reporter
    from cnncompress.plan import Plan


@click.command()
@click.argument("out", type=click.Path(path_type=Path), shell_complete=folders)
@click.option(
    "--model",
    "--network",
    "model",
    metavar="NAME",
    shell_complete=one_of(MODELS),
    help="The original, where the folder can't tell: package.module:factory, or a name.",
)
@click.option(
    "--runtimes",
    type=values.words,
    metavar="R[,R…]",
    default="torch,onnxruntime",
    show_default=True,
    shell_complete=some_of(RUNTIMES),
    help="torch (channels_last where the network runs in it), torch.compile, onnxruntime, openvino "
    "(pip install 'cnncompress[openvino]'), cuda and cuda-graphs.",
)
@click.option(
    "--threads", type=values.counts, metavar="N[,N…]", default="1", show_default=True, help="Compute threads."
)
@click.option(
    "--batch",
    "batches",
    type=values.counts,
    metavar="N[,N…]",
    default="1",
    show_default=True,
    help="Images at a time.",
)
@click.option(
    "--repeats",
    type=click.IntRange(1),
    default=20,
    show_default=True,
    help="Timed pairs of runs for each setting.",
)
@click.option(
    "--per-layer",
    is_flag=True,
    help="Time every replaced layer against its replacement too, in each runtime; torch.compile takes some "
    "seconds for each.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write what --json prints to FILE too; an earlier one is replaced.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON to stdout, and nothing else.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def bench(**given: Any) -> None:
    """Time the network in folder OUT against its original.

    The two take turns, and the speedup is the median of the ratios of neighbouring runs. Times don't
    depend on the original's weights, so nothing is downloaded. All runtimes compute in float32; compiling
    is no part of the times. However slow the network turns out, the exit code is 0.

    With --per-layer the layers' times add up to less than the network's: what is left is in pooling,
    rectifiers and layers that were not replaced. Layers are measured apart from the network, so within the
    noise of the machine the rest may even come out below 0.
    """
    check_names("runtime", given["runtimes"], RUNTIMES)
    _check(given)
    from cnncompress.text_file import write_text

    found = _measured(given)
    text = json.dumps(found, indent=2)
    if given["output"] is not None:
        write_text(given["output"], text + "\n")
    if given["as_json"]:
        click.echo(text)
        return
    from cnncompress.cli.bench_tables import print_bench

    print_bench(found)


def _check(given: Mapping[str, Any]) -> None:
    """Refuse what could only fail after the measurements."""
    from cnncompress.runtimes import check_runtime
    from cnncompress.text_file import check_file

    for name in given["runtimes"]:
        check_runtime(name)
    if given["output"] is not None:
        check_file(given["output"])


def _measured(given: Mapping[str, Any]) -> dict[str, Any]:
    """What ``--json`` prints."""
    from cnncompress import api
    from cnncompress.cli.progress import Progress
    from cnncompress.environment import environment
    from cnncompress.measure import latencies
    from cnncompress.per_layer import layer_latencies
    from cnncompress.plan import Plan

    out = given["out"]
    plan = Plan.read(out / "plan.json")
    settings = {name: given[name] for name in ("runtimes", "threads", "batches", "repeats")}
    with Progress(quiet=given["quiet"]) as report:
        original = _original(plan, given["model"], report)
        compressed = api.load(out, original)
        files = (None, out / "model.onnx")
        networks = latencies(original, compressed, plan.input_size, onnx=files, report=report, **settings)
        layers = (
            layer_latencies(original, compressed, plan, report=report, **settings)
            if given["per_layer"]
            else None
        )
    return {
        "network": plan.network,
        "settings": {name: value if name == "repeats" else list(value) for name, value in settings.items()},
        "environment": environment(),
        "latency": [one.to_json() for one in networks],
        "layers": None if layers is None else [one.to_json() for one in layers],
    }


def _original(plan: "Plan", model: str | None, report: "Reporter") -> "nn.Module":
    from cnncompress.errors import ModelError
    from cnncompress.models import load_network, rebuild

    if model is not None:
        return load_network(model, weights="none", report=report).model
    if plan.source.get("kind") in {"object", "factory"}:
        named = plan.source.get("factory") or "package.module:factory"
        raise ModelError(
            f"{plan.network}: the folder can't rebuild the original; name it with --model {named}"
        )
    return rebuild(plan.source)
