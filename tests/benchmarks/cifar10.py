"""Do the papers' structures learn as well as what they replace? Narrow networks, trained on CIFAR-10.

Run ``python tests/benchmarks/cifar10.py FOLDER RESULTS.json [--epochs N] [--networks NAME ...]``; the folder
holds train/CLASS/* and test/CLASS/*. All networks of `cnncompress.zoo.cifar_networks` follow recipe
``short``, in bfloat16 where that is faster: a schedule for one CPU core, far from the papers' hundred epochs.
Each ends with its accuracy on the test images, its multiply-accumulates and parameters, and milliseconds an
image, timed in turn with the network it is compared with. RESULTS.json is written after each network, and a
second run goes on where the first was interrupted. The table is Markdown.
"""

import argparse
import json
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cnncompress.data import open_source
from cnncompress.environment import environment
from cnncompress.events import EpochDone, Event
from cnncompress.image_source import ImageSource
from cnncompress.interleave import alternate, ratio_of_neighbours, torch_run
from cnncompress.layers import TopologicalConv2d
from cnncompress.network import Network
from cnncompress.output import write_json
from cnncompress.training import Recipe
from cnncompress.training.costs import outputs_of
from cnncompress.training.recipes import recipe
from cnncompress.training.whole import train_network
from cnncompress.zoo import registry
from cnncompress.zoo.cifar_networks import INPUT_SIZE

PREPROCESS = registry.entry("cifar-plain").preprocess
EPOCHS = 5
REPEATS, WARMUP = 200, 20
BATCHES = (1, 32)
NOT_FASTER = ("cifar-sic-tps", "cifar-spatial-bottleneck")
"""Networks that bfloat16 doesn't speed up on the CPU, or slows down sevenfold, and that train in float32."""


@dataclass(frozen=True)
class Claim:
    """What a paper says of the structure at full size: percent right, and complexity of the stages."""

    network: str
    against: str
    right: float
    complexity: str


IMAGENET = "ImageNet top-1 of models "
CLAIMS = {
    "cifar-plain": Claim("A", "cifar-plain", 69.33, "1"),
    "cifar-sic": Claim("D (first version: C)", "cifar-plain", 70.22, "2/9"),
    "cifar-sic-half": Claim("C", "cifar-plain", 68.00, "1/9"),
    "cifar-sic-tps": Claim("J (first version: I)", "cifar-plain", 69.22, "1/9"),
    "cifar-spatial-bottleneck": Claim("first version's K", "cifar-plain", 69.22, "1/9"),
    "cifar-groups": Claim("I (first version: H)", "cifar-plain", 68.77, "1/2"),
    "cifar-nin-orig": Claim("NiN", "cifar-nin-orig", 92.11, "1"),
    "cifar-nin-root-4": Claim("NiN root-4", "cifar-nin-orig", 92.02, ".55"),
    "cifar-nin-root-8": Claim("NiN root-8", "cifar-nin-orig", 92.15, ".46"),
}
ORDER = (
    "cifar-plain",
    "cifar-sic",
    "cifar-sic-tps",
    "cifar-spatial-bottleneck",
    "cifar-groups",
    "cifar-sic-half",
    "cifar-nin-orig",
    "cifar-nin-root-8",
    "cifar-nin-root-4",
)


def network(name: str, seed: int) -> Network:
    """A network with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = registry.build(name)
    return Network(name=name, model=model, preprocess=PREPROCESS)


def train(name: str, sources: tuple[ImageSource, ImageSource], chosen: Recipe, state: Path) -> dict[str, Any]:
    """One network from its random start to its row of results."""

    def report(event: Event) -> None:
        if isinstance(event, EpochDone):
            print(f"{name}: epoch {event.epoch} of {event.epochs}, {event.accuracy:.2f} % right", flush=True)

    trained = train_network(
        network(name, chosen.seed), *sources, chosen, keep=state, resume=state.exists(), report=report
    )
    summary = trained.summary
    kept = ("accuracy", "macs", "params", "history", "memory_format", "threads", "recipe")
    claim = CLAIMS[name]
    times = timings(claim.against, name)
    connected = summary["macs"] - unconnected(trained.network.model)
    return {
        **{key: summary[key] for key in kept},
        "theoretical_macs": connected,
        "claim": asdict(claim),
        "timings": times,
    }


def unconnected(model: nn.Module) -> int:
    """Executed multiply-accumulates of topological layers with zeros."""
    found = []

    def look(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        assert isinstance(module, TopologicalConv2d)
        size = (inputs[0].shape[2], inputs[0].shape[3])
        found.append(module.macs(*size) - module.theoretical_macs(*size))

    watched = [module for module in model.modules() if isinstance(module, TopologicalConv2d)]
    handles = [module.register_forward_hook(look) for module in watched]
    outputs_of(model, INPUT_SIZE)
    for handle in handles:
        handle.remove()
    return sum(found)


def timings(plain: str, variant: str) -> list[dict[str, float]]:
    """Milliseconds an image of both, one thread, BatchNorm not folded, in turn."""
    models = (for_inference(network(name, 0).model) for name in (plain, variant))
    runs = tuple(torch_run(model, torch.device("cpu")) for model in models)
    found = []
    for batch in BATCHES:
        images = torch.randn(batch, 3, 32, 32).contiguous(memory_format=torch.channels_last)
        times = alternate((runs[0], runs[1]), images, repeats=REPEATS, warmup=WARMUP)
        before, after = np.median(times, axis=0) / batch
        found.append(
            {
                "batch": batch,
                "ms_plain": float(before),
                "ms": float(after),
                "speedup": ratio_of_neighbours(times),
            }
        )
    return found


def for_inference(model: nn.Module) -> nn.Module:
    """Topological layers as torch's own, which copy no weights in each pass."""
    copy = deepcopy(model).eval()
    for name, module in list(copy.named_modules()):
        if isinstance(module, TopologicalConv2d):
            copy.set_submodule(name, module.grouped())
    return copy


def table(results: dict[str, Any]) -> str:
    """Results in Markdown, beside what the papers say."""
    lines = [
        "| network | right % | MACs executed | of plain | MACs counted | of plain | params "
        "| ms, batch 1 | speed | ms, batch 32 | speed "
        "| paper's model | right % | of plain |",
        "| --- |" + " ---: |" * 10 + " --- |" + " ---: |" * 2,
    ]
    rows = results["networks"]
    for name in ORDER:
        if name not in rows:
            continue
        row, claim = rows[name], CLAIMS[name]
        plain = rows.get(claim.against, {}).get("macs")
        shares = [f"{row[kind] / plain:.2f}" if plain else "-" for kind in ("macs", "theoretical_macs")]
        one, many = row["timings"]
        lines.append(
            f"| {name} | {row['accuracy']:.2f} | {row['macs'] / 1e6:.2f} M | {shares[0]} "
            f"| {row['theoretical_macs'] / 1e6:.2f} M | {shares[1]} | {row['params']:,} "
            f"| {one['ms']:.2f} | {one['speedup']:.2f}x | {many['ms']:.3f} | {many['speedup']:.2f}x "
            f"| {claim.network} | {claim.right:.2f} | {claim.complexity} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Train what isn't in the results yet, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--networks", nargs="+", choices=ORDER, default=ORDER)
    given = parser.parse_args()
    chosen = recipe("short", epochs=given.epochs, seed=given.seed)
    sources = tuple(
        open_source(given.data / part, preprocess=PREPROCESS, need_labels=True) for part in ("train", "test")
    )
    results: dict[str, Any] = {
        "recipe": chosen.to_json(),
        "data": [{"description": source.description, "hash": source.hash} for source in sources],
        "environment": environment(),
        "networks": {},
    }
    if given.results.exists():
        before = json.loads(given.results.read_text(encoding="utf-8"))
        if Recipe.from_json(before["recipe"]) != chosen:
            raise SystemExit(f"{given.results}: holds results of another recipe; choose another file")
        results["networks"] = before["networks"]
    for name in given.networks:
        if name in results["networks"]:
            continue
        state = given.results.with_suffix(f".{name}.pt")
        own = replace(chosen, precision="float32" if name in NOT_FASTER else "bfloat16")
        results["networks"][name] = train(name, (sources[0], sources[1]), own, state)
        save(given.results, results)
        state.unlink()
        print(table(results), flush=True)
    for name, row in results["networks"].items():  # once more, now that nothing of ours runs beside them
        row["timings"] = timings(CLAIMS[name].against, name)
    save(given.results, results)
    print(table(results))


def save(file: Path, results: dict[str, Any]) -> None:
    """Write the results; the file is replaced as a whole."""
    temporary = file.with_suffix(".tmp")
    write_json(temporary, results)
    temporary.replace(file)


if __name__ == "__main__":
    main()
