"""What ``cnncompress MODEL`` may be told."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from cnncompress.cli import values
from cnncompress.cli.completion import folders, one_of, some_of
from cnncompress.cli.names import AUTO, DEVICES, METHODS, MODELS, RECIPES, RULES, RUNTIMES
from cnncompress.cli.network_options import network_options

OUTPUT = "cnncompress-out"
DEFAULT_METHOD = "gsvd3d"  # as in cnncompress.options, whose import would take seconds

_PARAMETERS: tuple[Callable[[Any], Any], ...] = (
    click.argument("model", shell_complete=one_of(MODELS)),
    click.option(
        "--speedup",
        type=values.speedups,
        metavar="N[x][,N…]",
        help="How many times less the network shall need of what --budget names, for example 4x; several, "
        "as 2x,3x,4x, for a network each and a page that compares them.  [default: 4x; none where options "
        "settle all ranks]",
    ),
    click.option(
        "--budget",
        type=click.Choice(["macs", "params", "latency"]),
        default="macs",
        show_default=True,
        help="What the speedup refers to: multiply-accumulates or parameters of the convolutions, or "
        "measured time of the whole network.",
    ),
    click.option(
        "--runtime",
        default="torch",
        show_default=True,
        metavar="NAME",
        shell_complete=one_of(RUNTIMES),
        help="What --budget latency is measured in: torch, torch.compile, onnxruntime, openvino, cuda or "
        "cuda-graphs.",
    ),
    click.option(
        "--threads",
        type=click.IntRange(1),
        default=1,
        show_default=True,
        help="Compute threads of --runtime.",
    ),
    click.option(
        "--batch", type=click.IntRange(1), default=1, show_default=True, help="Images at a time in --runtime."
    ),
    click.option(
        "--max-drop",
        type=float,
        metavar="POINTS",
        help="Find the fastest network that loses at most so much top-1 accuracy on the --eval images; "
        "--speedup is where the search begins.",
    ),
    click.option(
        "--data",
        type=click.Path(path_type=Path),
        help="Images to calibrate on, no labels needed: a folder (of class folders or flat), .npz, .pt, or "
        "tar shards ('train-{000..146}.tar').  "
        "[default: the demo's own, else crops of two photographs]",
    ),
    click.option(
        "--eval",
        "evaluation",
        type=click.Path(path_type=Path),
        help="Labelled images to measure the accuracy on: class folders, a flat folder and --labels, "
        ".npz, .pt or tar shards.",
    ),
    click.option(
        "--labels",
        type=click.Path(path_type=Path),
        help="File of lines `filename,label` for a flat --eval folder.",
    ),
    click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path),
        shell_complete=folders,
        help=f"Folder for the results.  [default: {OUTPUT}/MODEL-Nx, replaced if it holds earlier results]",
    ),
    click.option("--overwrite", is_flag=True, help="Replace earlier results in the --output folder."),
    network_options,
    click.option(
        "--method",
        default=DEFAULT_METHOD,
        show_default=True,
        metavar="M[,M…]|auto",
        shell_complete=some_of((AUTO, *METHODS)),
        help="Decomposition of the convolutions; of several, or with auto, each layer gets the one that "
        "suits it. `cnncompress inspect MODEL` lists those that fit.",
    ),
    click.option(
        "--colors", type=click.IntRange(1), help="Colours of the monochromatic method: --option colors=N."
    ),
    click.option(
        "--bases",
        type=click.IntRange(1),
        help="Depthwise filters of each channel, or layers of a SIC stack: --option bases=N.",
    ),
    click.option("--groups", type=click.IntRange(1), help="Filter groups: --option groups=N."),
    click.option(
        "--metric-weights",
        type=click.Choice(["frobenius", "data", "gradient"]),
        help="What counts in methods that solve on the weight: --option metric=NAME.  [default: frobenius]",
    ),
    click.option(
        "--option",
        "method_options",
        type=values.key_value,
        multiple=True,
        metavar="KEY=VALUE",
        help="An option of the method, for example iterations=50; may be repeated.",
    ),
    click.option(
        "--ranks",
        metavar="RULE",
        shell_complete=one_of(RULES),
        help="How ranks are chosen: knapsack, greedy (or paper), uniform, joint or manual.  [default: "
        "knapsack with several methods or another budget than macs, manual with --plan, else greedy]",
    ),
    click.option(
        "--distortion",
        type=click.Choice(["loss", "response", "energy"]),
        default="loss",
        show_default=True,
        help="What the knapsack spends the budget by: estimated loss of the network's output, relative "
        "errors of responses, or the paper's product of energies.",
    ),
    click.option(
        "--no-probes",
        is_flag=True,
        help="Don't calibrate the distortions by replacing each layer alone.",
    ),
    click.option(
        "--plan", type=click.Path(path_type=Path), help="A plan.json whose methods and ranks are used again."
    ),
    click.option(
        "--rank",
        "layer_ranks",
        type=values.layer_ranks,
        multiple=True,
        metavar="LAYER=R[,R]",
        help="Ranks of one layer; may be repeated.",
    ),
    click.option(
        "--align",
        type=values.align,
        metavar="N|auto",
        default="auto",
        show_default=True,
        help="Make ranks multiples of N.",
    ),
    click.option(
        "--skip",
        multiple=True,
        metavar="PATTERN",
        help="Leave layers of these names alone, for example 'layer1.*'; may be repeated.",
    ),
    click.option(
        "--only",
        "--layer",
        "only",
        multiple=True,
        metavar="PATTERN",
        help="Touch only layers of these names; may be repeated.",
    ),
    click.option("--include-linear", is_flag=True, help="Decompose linear layers too, and count all MACs."),
    click.option(
        "--images",
        type=click.IntRange(2),
        default=300,
        show_default=True,
        help="Images to calibrate on, at most.",
    ),
    click.option(
        "--positions",
        type=click.IntRange(1),
        help="Positions sampled from an image.  [default: as many as each layer needs]",
    ),
    click.option(
        "--batch-size", type=click.IntRange(1), default=10, show_default=True, help="Images run at a time."
    ),
    click.option(
        "--memory",
        type=values.size,
        metavar="SIZE",
        default="1GB",
        show_default=True,
        help="Memory for activations that are kept instead of being computed again.",
    ),
    click.option(
        "--max-bad",
        type=click.FloatRange(0, 1),
        default=0.01,
        show_default=True,
        help="Largest share of images that may be unreadable.",
    ),
    click.option(
        "--solver",
        type=click.Choice(["auto", "numpy", "cupy"]),
        default="auto",
        show_default=True,
        help="Where the linear algebra runs.",
    ),
    click.option(
        "--device",
        default="cpu",
        show_default=True,
        shell_complete=one_of(DEVICES),
        help="Where the network runs, for example cuda.",
    ),
    click.option(
        "--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of everything random."
    ),
    click.option(
        "--compare",
        is_flag=True,
        help="Also run symmetric and asymmetric, linear and nonlinear solutions throughout, for the report.",
    ),
    click.option(
        "--examples/--no-examples",
        default=True,
        help="Show some of the images whose class changed in the report: small pictures and file names.  "
        "[default: examples]",
    ),
    click.option(
        "--repair/--no-repair",
        default=None,
        help="Then mend the network in closed form: BatchNorm statistics, biases, last factors.  "
        "[default: before --finetune EPOCHS and --finetune all, unless layers were solved on responses]",
    ),
    click.option(
        "--finetune",
        type=values.finetune,
        metavar="EPOCHS|all|upper",
        help="Then train all layers for so many epochs at most, or only those above the compressed ones, "
        "until the drop is recovered.",
    ),
    click.option(
        "--recipe",
        metavar="NAME",
        shell_complete=one_of(RECIPES),
        help="Recipe of fine-tuning: finetune, recover, upper, short, sic or nin.  "
        "[default: finetune; upper with --finetune upper]",
    ),
    click.option(
        "--distill",
        is_flag=False,
        flag_value="logits",
        type=click.Choice(["logits", "features", "layers"]),
        help="Learn from the original network: its outputs, its layers' too, or each layer alone.  "
        "[alone: logits]",
    ),
    click.option(
        "--train",
        type=click.Path(path_type=Path),
        help="Images to fine-tune on, labelled or not.  [default: those of the calibration]",
    ),
    click.option(
        "--epochs",
        type=click.IntRange(1),
        help="Passes over the training images, at most.  [default: the recipe's]",
    ),
    click.option("--lr", type=float, help="Learning rate of fine-tuning.  [default: the recipe's]"),
    click.option(
        "--allow-slower",
        is_flag=True,
        help="Keep replacements that take longer than the layers that they replace.",
    ),
    click.option("--no-measure", is_flag=True, help="Don't time the two networks, nor their layers."),
    click.option("--json", "as_json", is_flag=True, help="Print report.json to stdout, and nothing else."),
    click.option("-q", "--quiet", is_flag=True, help="No progress and no table, only the verdict."),
)


def compress_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command everything that a run may be told.

    Args:
        function: the command's.

    Returns:
        The same with its parameters.
    """
    for decorate in reversed(_PARAMETERS):
        function = decorate(function)
    return function
