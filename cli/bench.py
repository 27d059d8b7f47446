"""``cnncompress bench OUT``: measured speed, original against compressed."""

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cnncompress.cli import values

if TYPE_CHECKING:  # torch takes seconds, --help shall not
    from torch import nn

    from cnncompress.events import Reporter
    from cnncompress.plan import Plan


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--model", help="The original, where the folder can't tell: package.module:factory, or a name.")
@click.option(
    "--runtimes",
    type=values.words,
    metavar="R[,R]",
    default="torch,onnxruntime",
    show_default=True,
    help="torch (channels_last where the network runs in it), torch.compile, onnxruntime, openvino "
    "(pip install 'cnncompress[openvino]'), cuda and cuda-graphs.",
)
@click.option(
    "--threads", type=values.counts, metavar="N[,N]", default="1", show_default=True, help="Compute threads."
)
@click.option(
    "--batch",
    "batches",
    type=values.counts,
    metavar="N[,N]",
    default="1",
    show_default=True,
    help="Images at a time.",
)
@click.option("--repeats", type=click.IntRange(1), default=20, show_default=True, help="Timed pairs of runs.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON to stdout.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def bench(
    out: Path,
    model: str | None,
    runtimes: tuple[str, ...],
    threads: tuple[int, ...],
    batches: tuple[int, ...],
    repeats: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Time the network in folder OUT against its original.

    The two take turns, and the speedup is the median of the ratios of neighbouring runs. Times don't
    depend on the original's weights, so nothing is downloaded. All runtimes compute in float32; compiling
    is no part of the times.
    """
    _check(runtimes)
    from cnncompress import api
    from cnncompress.cli.progress import Progress
    from cnncompress.cli.tables import print_latencies
    from cnncompress.environment import environment
    from cnncompress.measure import latencies
    from cnncompress.plan import Plan

    plan = Plan.read(out / "plan.json")
    onnx = out / "model.onnx"
    with redirect_stdout(sys.stderr), Progress(quiet=quiet) as report:
        original = _original(plan, model, report)
        compressed = api.load(out, original)
        found = latencies(
            original,
            compressed,
            plan.input_size,
            runtimes=runtimes,
            threads=threads,
            batches=batches,
            repeats=repeats,
            onnx=(None, onnx if onnx.exists() else None),
            report=report,
        )
    lines = [one.to_json() for one in found]
    if as_json:
        click.echo(
            json.dumps({"network": plan.network, "latency": lines, "environment": environment()}, indent=2)
        )
        return
    click.echo(f"{plan.network} on {environment()['cpu']}, {repeats} pairs of runs, medians")
    print_latencies(lines)


def _check(runtimes: tuple[str, ...]) -> None:
    from cnncompress.runtimes import check_runtime

    for name in runtimes:
        check_runtime(name)


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
