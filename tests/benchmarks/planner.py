"""Whether the planner delivers the speed that was asked, and what it is worth at equal time.

    python tests/benchmarks/planner.py delivered vgg16 --speedups 2,3,4 --runtimes torch,onnxruntime
    python tests/benchmarks/planner.py quality vgg16 --speedup 3 --runtime torch --images 100

`delivered` saves every network and times its exported files against the original, interleaved. `quality`
brings every strategy to the same measured time and compares the errors of the networks' outputs on held-out
images: the knapsack over all methods and over each alone, and, at the multiply-accumulates at which they take
that time, the paper's greedy ranks and uniform ones.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from math import sqrt
from pathlib import Path
from typing import Any

from torch import nn

from cnncompress import api
from cnncompress.errors import CompressError
from cnncompress.events import Event, Note, StageDone
from cnncompress.measure import latencies, latency
from cnncompress.models import load_network
from cnncompress.options import AUTO_METHODS, Options
from cnncompress.session import Session
from cnncompress.worthwhile import untrained

PAIRS = 30


def say(event: Event) -> None:
    """Notes and finished stages on stderr."""
    if isinstance(event, Note):
        print(f"  note: {event.message}", file=sys.stderr, flush=True)
    if isinstance(event, StageDone) and event.seconds > 5:
        print(f"  {event.stage}: {event.seconds:.0f} s", file=sys.stderr, flush=True)


def session_of(given: argparse.Namespace, options: Options, speedups: list[float]) -> Session:
    network = load_network(given.model, report=say)
    return Session(network, None, None, options, say, speedups=speedups)


def delivered(given: argparse.Namespace) -> None:
    """Asked against delivered speed, of the files that a user would deploy."""
    speedups = [float(text) for text in given.speedups.split(",")]
    lines = []
    for runtime in given.runtimes.split(","):
        options = Options(
            method=given.method, budget="latency", runtime=runtime, images=given.images, probes=given.probes
        )
        session = session_of(given, options, speedups)
        for speedup in speedups:
            try:
                result = session.run(replace(options, speedup=speedup))
            except CompressError as problem:
                print(f"{given.model} {runtime} {speedup:g}x: {problem}", flush=True)
                continue
            with tempfile.TemporaryDirectory() as folder:
                saved = result.save(Path(folder) / "out")
                (measured,) = latencies(
                    session.original,
                    api.load(saved, result.network.model),
                    result.network.input_size,
                    runtimes=(runtime,),
                    repeats=PAIRS,
                    onnx=(None, saved / "model.onnx"),
                )
            planner = result.report["planner"]
            line = {
                "model": given.model,
                "runtime": runtime,
                "asked": speedup,
                "delivered": measured.speedup,
                "of_asked": measured.speedup / speedup,
                "macs": result.report["macs"]["conv_speedup"],
                "rounds": [one["measured_speedup"] for one in planner["rounds"]],
                "output_error": result.report["fidelity"]["output_relative_error"],
                "methods": sorted({layer.method for layer in result.plan.layers}),
            }
            lines.append(line)
            print(json.dumps(line), flush=True)


def quality(given: argparse.Namespace) -> None:
    """Errors of all strategies at one measured time."""
    base = Options(
        method="auto",
        budget="latency",
        runtime=given.runtime,
        images=given.images,
        speedup=given.speedup,
        allow_slower=True,
    )
    chosen = ["auto", *(name for name in given.singles.split(",") if name)]
    strategies = [(name, replace(base, method=name)) for name in chosen]
    for rule in ("greedy", "uniform"):
        paper = replace(base, method="gsvd3d", budget="macs", ranks=rule)
        strategies.append((f"gsvd3d {rule}", paper))
    shared = session_of(given, base, [given.speedup] * len(chosen))
    for name, options in strategies:
        try:
            counted = options.budget == "macs"
            session = session_of(given, options, [given.speedup]) if counted else shared
            speedup = macs_at(session, options, given) if counted else given.speedup
            result = session.run(replace(options, speedup=speedup))
        except CompressError as problem:
            print(json.dumps({"strategy": name, "problem": str(problem)}), flush=True)
            continue
        measured = latency(
            session.original,
            result.model,
            result.network.input_size,
            runtime=given.runtime,
            repeats=PAIRS,
        )
        fidelity = result.report["fidelity"]
        line: dict[str, Any] = {
            "strategy": name,
            "delivered": round(measured.speedup, 3),
            "macs": round(result.report["macs"]["conv_speedup"], 3),
            "output_error": round(fidelity["output_relative_error"], 4),
            "predicted": (result.report["planner"] or {}).get("loss"),
            "layers": [[layer.name, layer.method, *layer.ranks] for layer in result.plan.layers],
        }
        print(json.dumps(line), flush=True)


def macs_at(session: Session, options: Options, given: argparse.Namespace) -> float:
    """The speedup in MACs at which a rule that knows no time takes the time that was asked."""
    low, high = 1.05, 3 * given.speedup
    for _ in range(8):
        middle = sqrt(low * high)
        reached = _measured(session, replace(options, speedup=middle), given.runtime)
        low, high = (middle, high) if reached < given.speedup else (low, middle)
    return sqrt(low * high)


def _measured(session: Session, options: Options, runtime: str) -> float:
    plans = session.settle(replace(options, measure=False), say).plans
    changed: nn.Module = untrained(session.layers, plans, session.original)
    return latency(
        session.original, changed, session.network.input_size, runtime=runtime, repeats=PAIRS // 2
    ).speedup


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    for command in (delivered, quality):
        one = commands.add_parser(command.__name__)
        one.add_argument("model")
        one.add_argument("--images", type=int, default=100)
        one.set_defaults(run=command)
        if command is delivered:
            one.add_argument("--speedups", default="2,3,4")
            one.add_argument("--runtimes", default="torch,onnxruntime")
            one.add_argument("--method", default="auto")
            one.add_argument("--probes", action="store_true")
        else:
            one.add_argument("--speedup", type=float, default=3.0)
            one.add_argument("--runtime", default="torch")
            one.add_argument("--singles", default=",".join(AUTO_METHODS))
    given = parser.parse_args()
    given.run(given)


if __name__ == "__main__":
    main()
