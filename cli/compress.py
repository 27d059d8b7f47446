"""``cnncompress MODEL``: the whole run."""

import json
import re
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import click

from cnncompress.cli import values
from cnncompress.cli.network_options import load, network_options

OUTPUT = "cnncompress-out"
DEFAULT_SPEEDUP = 4.0

_PARAMETERS: tuple[Callable[[Any], Any], ...] = (
    click.argument("model"),
    click.option(
        "--speedup",
        type=values.speedup,
        metavar="N[x]",
        help="How many times fewer multiply-accumulates all convolutions together shall need.  "
        "[default: 4x; none where options settle all ranks]",
    ),
    click.option(
        "--data",
        type=click.Path(path_type=Path),
        help="Images to calibrate on, no labels needed: a folder (of class folders or flat), .npz or .pt.  "
        "[default: the demo's own, else crops of two photographs]",
    ),
    click.option(
        "--eval",
        "evaluation",
        type=click.Path(path_type=Path),
        help="Labelled images to measure the accuracy on: class folders, a flat folder and --labels, "
        ".npz or .pt.",
    ),
    click.option(
        "--labels", type=click.Path(path_type=Path), help="Lines `filename,label` for a flat --eval folder."
    ),
    click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path),
        help=f"Folder for the results.  [default: {OUTPUT}/MODEL-Nx, replaced if it holds earlier results]",
    ),
    click.option("--overwrite", is_flag=True, help="Replace earlier results in the --output folder."),
    network_options,
    click.option("--method", default="gsvd3d", show_default=True, help="Decomposition of the convolutions."),
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
        help="An option of the method; may be repeated.",
    ),
    click.option(
        "--ranks",
        metavar="RULE",
        help="How ranks are chosen: greedy, uniform, joint or manual.  [default: greedy; manual with --plan]",
    ),
    click.option("--plan", type=click.Path(path_type=Path), help="A plan.json whose ranks are used again."),
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
        help="For activations that are kept instead of being computed again.",
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
        "--device", default="cpu", show_default=True, help="Where the network runs, for example cuda."
    ),
    click.option(
        "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of everything random."
    ),
    click.option(
        "--compare",
        is_flag=True,
        help="Also run symmetric and asymmetric, linear and nonlinear solutions throughout, for the report.",
    ),
    click.option(
        "--finetune",
        type=click.Choice(["upper", "all"]),
        help="Then train the layers above the compressed ones until the drop is recovered.",
    ),
    click.option(
        "--train",
        type=click.Path(path_type=Path),
        help="Images to fine-tune on, labelled or not.  [default: those of the calibration]",
    ),
    click.option(
        "--epochs",
        type=click.IntRange(1),
        default=5,
        show_default=True,
        help="Passes over the training images, at most.",
    ),
    click.option("--lr", type=float, default=1e-3, show_default=True, help="Learning rate of fine-tuning."),
    click.option(
        "--allow-slower",
        is_flag=True,
        help="Keep replacements that take longer than the layers that they replace.",
    ),
    click.option("--no-measure", is_flag=True, help="Don't time the two networks, nor their layers."),
    click.option("--json", "as_json", is_flag=True, help="Print report.json to stdout, and nothing else."),
    click.option("-q", "--quiet", is_flag=True, help="No progress and no table, only the verdict."),
)


def _all_options(function: Callable[..., None]) -> Callable[..., None]:
    for decorate in reversed(_PARAMETERS):
        function = decorate(function)
    return function


@click.command()
@_all_options
def compress(**given: Any) -> None:
    """Compress MODEL and write the result, with a report, to a folder.

    MODEL is a torchvision name (`cnncompress models` lists them), timm:NAME, or package.module:factory.
    The folder gets model.safetensors, plan.json, model.onnx, report.json and report.html.
    """
    _check(given)
    from cnncompress.cli.progress import Progress
    from cnncompress.cli.tables import print_layers, verdict
    from cnncompress.folder import check_folder

    folder = given["output"] or default_folder(given["model"], given["speedup"], given["method"])
    overwrite = given["overwrite"] or given["output"] is None
    check_folder(folder, overwrite=overwrite)
    # whatever a library prints must not end up between the braces
    with redirect_stdout(sys.stderr), Progress(quiet=given["quiet"]) as report:
        result = _run(given, report)
        result.save(folder, overwrite=overwrite, report=report)
    text = (folder / "report.json").read_text(encoding="utf-8")
    if given["as_json"]:
        click.echo(text, nl=False)
        return
    written = json.loads(text)
    if written["asked"]["speedup"] is None and given["speedup"] is not None:
        click.echo("note: --speedup was not used: other options settle all ranks", err=True)
    if not given["quiet"]:
        print_layers(written)
    click.echo(f"{verdict(written)} -> {folder}")


def default_folder(model: str, speedup: float | None, method: str = "gsvd3d") -> Path:
    """Where results go when no folder is given.

    Args:
        model: as typed.
        speedup: as asked, or None.
        method: as asked.

    Returns:
        For example ``cnncompress-out/vgg16-4x``, below the working folder.
    """
    name = file_name(model)
    if speedup is None and method != "gsvd3d":
        return Path(OUTPUT) / f"{name}-{method}"
    return Path(OUTPUT) / f"{name}-{speedup or DEFAULT_SPEEDUP:g}x"


def file_name(model: str) -> str:
    """A model's name as part of a path.

    Args:
        model: as typed.

    Returns:
        Without what paths don't take.
    """
    return re.sub(r"[^\w.-]+", "-", model).strip("-.") or "model"


def _check(given: dict[str, Any]) -> None:
    if given["ranks"] is None:
        given["ranks"] = "manual" if given["plan"] else "greedy"
    if (given["ranks"] == "manual") != (given["plan"] is not None):
        raise click.UsageError("--ranks manual and --plan FILE go together")
    if given["labels"] is not None and given["evaluation"] is None:
        raise click.UsageError("--labels needs --eval")
    if given["train"] is not None and given["finetune"] is None:
        raise click.UsageError("--train needs --finetune upper or all")


# flags that stand for an option of the method
_SHORTHANDS = {"colors": "colors", "bases": "bases", "groups": "groups", "metric-weights": "metric"}


def _method_options(given: dict[str, Any]) -> dict[str, Any]:
    from cnncompress.decompositions import available, knows_option

    options: dict[str, Any] = {}
    for key, value in given["method_options"]:
        if key in options:
            raise click.UsageError(f"--option {key} is given twice")
        options[key] = value
    for flag, key in _SHORTHANDS.items():
        value = given[flag.replace("-", "_")]
        if value is None:
            continue
        if key in options:
            raise click.UsageError(f"{key} is given twice, also as --option {key}=…")
        if not knows_option(given["method"], key):
            names = ", ".join(name for name in available() if knows_option(name, key))
            raise click.UsageError(f"--{flag} is for --method {names}, not for {given['method']}")
        options[key] = value
    return options


def _run(given: dict[str, Any], report: Callable[[Any], None]) -> Any:
    from cnncompress import api
    from cnncompress.data import open_source

    options = api.Options(
        speedup=given["speedup"] or DEFAULT_SPEEDUP,
        method=given["method"],
        method_options=_method_options(given),
        ranks=given["ranks"],
        manual_plan=str(given["plan"]) if given["plan"] else None,
        align=given["align"],
        skip=given["skip"],
        only=given["only"],
        layer_ranks=dict(given["layer_ranks"]),
        include_linear=given["include_linear"],
        images=given["images"],
        positions=given["positions"],
        batch_size=given["batch_size"],
        memory=given["memory"],
        solver=given["solver"],
        device=given["device"],
        seed=given["seed"],
        finetune=given["finetune"] or "",
        epochs=given["epochs"],
        learning_rate=given["lr"],
        measure=not given["no_measure"],
        allow_slower=given["allow_slower"],
        compare=given["compare"],
    )
    network = load(given, report)
    common = {"preprocess": network.preprocess, "seed": options.seed, "max_bad": given["max_bad"]}
    # labels that train must be numbered as the network's outputs are, not by the alphabet
    trained = network.categories if options.finetune else ()
    calibration = evaluation = None
    if given["data"] is not None:
        calibration = open_source(given["data"], limit=options.images, categories=trained, **common)
    if given["evaluation"] is not None:
        evaluation = open_source(
            given["evaluation"],
            labels=given["labels"],
            categories=network.categories,
            need_labels=True,
            **common,
        )
    training = (
        open_source(given["train"], categories=trained, cache_bytes=given["memory"], **common)
        if given["train"] is not None
        else None
    )
    return api.compress(network, calibration, evaluation, options, report, training=training)
