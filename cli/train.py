"""``cnncompress train NAME``: a network on a folder of images."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cnncompress.cli import values
from cnncompress.cli.completion import folders, one_of
from cnncompress.cli.compress import file_name
from cnncompress.cli.compress_options import OUTPUT
from cnncompress.cli.names import DEVICES, MODELS, RECIPES, check_names
from cnncompress.cli.processes import processes

if TYPE_CHECKING:  # torch takes seconds, --help shall not
    from cnncompress.distributed import World

INTERRUPTED = 130  # what shells report after Ctrl-C


@click.command()
@click.argument("name", shell_complete=one_of(MODELS))
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    shell_complete=folders,
    required=True,
    help="Folder with train/CLASS/* and test/CLASS/*, or with one folder for each class.",
)
@click.option(
    "--eval",
    "evaluation",
    type=click.Path(path_type=Path),
    shell_complete=folders,
    help="Folder with test images in class folders.",
)
@click.option(
    "--recipe",
    default="short",
    show_default=True,
    metavar="RECIPE",
    shell_complete=one_of(RECIPES),
    help="How it learns: short, sic, nin, recover, upper or finetune.",
)
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    help="Weights to start from, .pth or .safetensors.  [default: random ones]",
)
@click.option("--epochs", type=click.IntRange(1), help="Passes over the images.  [default: the recipe's]")
@click.option("--lr", type=float, help="Highest learning rate.  [default: the recipe's]")
@click.option("--batch-size", type=click.IntRange(1), help="Images of one step.  [default: the recipe's]")
@click.option(
    "--accumulate",
    type=click.IntRange(1),
    help="Parts that a step's images are run in, to save memory.  [default: the recipe's]",
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of everything random."
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    help="Numbers of the arithmetic while training.  [default: the recipe's]",
)
@click.option("--input-size", type=click.IntRange(1), metavar="PIXELS", help="Height and width of the input.")
@click.option(
    "--device",
    default="cpu",
    show_default=True,
    shell_complete=one_of(DEVICES),
    help="Where it trains, for example cuda.",
)
@click.option(
    "--memory",
    type=values.size,
    metavar="SIZE",
    default="1GB",
    show_default=True,
    help="Memory for decoded images, which are then not decoded again in each epoch.",
)
@click.option(
    "--max-bad",
    type=click.FloatRange(0, 1),
    default=0.01,
    show_default=True,
    help="Largest share of images that may be unreadable.",
)
@click.option(
    "-o",
    "--out",
    "--output",
    "output",
    type=click.Path(path_type=Path),
    shell_complete=folders,
    help=f"Folder for the results.  [default: {OUTPUT}/NAME-trained]",
)
@click.option("--resume", is_flag=True, help="Go on with an interrupted training in the --out folder.")
@click.option("--overwrite", is_flag=True, help="Replace earlier results in the --out folder.")
@click.option("--json", "as_json", is_flag=True, help="Print train.json to stdout, and nothing else.")
@click.option("-q", "--quiet", is_flag=True, help="No progress and no table, only the verdict.")
@click.pass_context
def train(context: click.Context, /, **given: Any) -> None:
    """Train NAME on a folder of images.

    NAME is one that `cnncompress models` lists; it starts from random weights or a checkpoint. The --out
    folder gets model.safetensors, which `--checkpoint` of the other commands reads, and train.json:
    recipe, history, accuracy, MACs, versions. After each epoch the state is kept, so that an interrupted
    training goes on with --resume to the same result.
    """
    check_names("recipe", (given["recipe"],), RECIPES)
    job = _job(given)
    with processes(job.device) as world:
        given["quiet"] = given["quiet"] or not world.is_first
        trained = _run(context, job, world, quiet=given["quiet"])
    if not world.is_first:
        return
    if given["as_json"]:
        click.echo(json.dumps(json.loads((job.output / "train.json").read_text(encoding="utf-8")), indent=2))
        return
    if not given["quiet"]:
        _print_history(trained.summary)
    click.echo(f"{_verdict(trained.summary)} -> {job.output}")


def _run(context: click.Context, job: Any, world: "World", *, quiet: bool) -> Any:
    from cnncompress.cli.progress import Progress
    from cnncompress.training.job import run_job

    try:
        with Progress(quiet=quiet) as report:
            return run_job(job, report, world)
    except KeyboardInterrupt:
        from cnncompress.training.folders import STATE

        kept = (job.output / STATE).exists()
        if world.is_first:
            click.echo("interrupted; " + ("--resume goes on" if kept else "no epoch was complete"), err=True)
        context.exit(INTERRUPTED)


def _job(given: dict[str, Any]) -> Any:
    from cnncompress.training.job import Job
    from cnncompress.training.recipes import recipe

    chosen = recipe(
        given["recipe"],
        epochs=given["epochs"],
        learning_rate=given["lr"],
        batch_size=given["batch_size"],
        accumulate=given["accumulate"],
        precision=given["precision"],
        seed=given["seed"],
    )
    return Job(
        name=given["name"],
        data=given["data"],
        evaluation=given["evaluation"],
        recipe=chosen,
        output=given["output"] or Path(OUTPUT) / f"{file_name(given['name'])}-trained",
        checkpoint=given["checkpoint"],
        input_size=given["input_size"],
        device=given["device"],
        cache_bytes=given["memory"],
        max_bad=given["max_bad"],
        resume=given["resume"],
        overwrite=given["overwrite"],
    )


def _print_history(summary: dict[str, Any]) -> None:
    from cnncompress.cli.tables import print_table
    from cnncompress.formats import format_number

    columns = ("epoch", "loss", "test loss", "right", "seconds")
    rows = [
        (
            str(entry["epoch"]),
            format_number(entry["loss"]),
            format_number(entry["test_loss"]),
            f"{entry['accuracy']:.2f} %",
            f"{entry['seconds']:.1f}",
        )
        for entry in summary["history"]
    ]
    print_table(columns, rows, right=columns)


def _verdict(summary: dict[str, Any]) -> str:
    from cnncompress.formats import format_count

    epochs = len(summary["history"])
    return (
        f"{summary['name']}: {summary['accuracy']:.2f} % of {summary['data']['test']['images']} test images "
        f"right after {epochs} epoch{'s' if epochs > 1 else ''}; "
        f"{format_count(summary['macs'])} MACs an image, {format_count(summary['params'])} params"
    )
