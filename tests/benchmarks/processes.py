"""How much faster do several processes calibrate than one, a thread each?

Run ``python tests/benchmarks/processes.py [--model vgg16] [--images 120] [--processes 2] [--rounds 3]`` on an
idle machine. Runs of one process and of several take turns, each in new processes under torchrun; what counts
is the calibration pass as the report states it: images a second of all processes, and the share of the time
that the first one waited for images. Ratios are those of neighbouring runs.
"""

import argparse
import json
import subprocess
import sys
from os import environ
from pathlib import Path
from statistics import median

from cnncompress import joined, load_network
from cnncompress.calibration import calibrate
from cnncompress.clock import Clock
from cnncompress.default_data import default_data
from cnncompress.folding import fold_batchnorms, foldable
from cnncompress.inspect import inspect_layers
from cnncompress.memory_layout import faster_layout
from cnncompress.options import Options
from cnncompress.planning import outline

import torch  # isort: skip  # after the toolkit, as a user's script would


def worker(model: str, images: int) -> None:
    """Calibrate once with the other processes; the first prints the stage's figures."""
    torch.set_num_threads(1)
    with joined() as world:
        network = load_network(model)
        source, _, _ = default_data(network, images, 0)
        for _ in source.batches(10):
            pass  # decoded once: the pass that is timed reads what it would read on a fast disk
        folded = fold_batchnorms(network.model, foldable(inspect_layers(network.model, network.input_size)))
        folded = folded.to(memory_format=faster_layout(network.model, network.input_size))
        layers = inspect_layers(folded, network.input_size)
        found = outline(layers, Options())
        clock = Clock(lambda event: None)
        world.wait()
        calibrate(folded, found.observed, found.menus, source, Options(), clock, world=world)
        if world.is_first:
            print(json.dumps(clock.throughput["calibrate"]))


def launch(processes: int, model: str, images: int) -> dict[str, float]:
    """The figures of one run."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    command += [str(processes), str(Path(__file__)), "--worker", "--model", model, "--images", str(images)]
    done = subprocess.run(  # noqa: S603  # our own words
        command, capture_output=True, text=True, check=True, env={**environ, "OMP_NUM_THREADS": "1"}
    )
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="vgg16")
    parser.add_argument("--images", type=int, default=120)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        worker(given.model, given.images)
        return
    ratios = []
    print("| processes | images | seconds | images/s | waiting |\n|---|---|---|---|---|")
    for _ in range(given.rounds):
        pair = [launch(count, given.model, given.images) for count in (1, given.processes)]
        for count, one in zip((1, given.processes), pair, strict=True):
            waiting = one["waited"] / one["seconds"]
            print(
                f"| {count} | {one['images']} | {one['seconds']:.1f} | {one['images_per_second']:.2f} | "
                f"{waiting:.1%} |",
                flush=True,
            )
        ratios.append(pair[1]["images_per_second"] / pair[0]["images_per_second"])
    print(f"\n{given.processes} processes over one: {median(ratios):.2f}x (median of {sorted(ratios)})")


if __name__ == "__main__":
    main()
