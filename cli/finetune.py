"""``cnncompress finetune OUT``: train what was compressed, on images with labels or without."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from cnncompress.cli import values
from cnncompress.cli.completion import folders, one_of
from cnncompress.cli.names import DEVICES, RECIPES, check_names
from cnncompress.cli.network_options import original_options
from cnncompress.cli.processes import processes

if TYPE_CHECKING:  # torch takes seconds, --help shall not
    from cnncompress.distributed import World
    from cnncompress.finetuning.job import FinetuneJob

INTERRUPTED = 130  # what shells report after Ctrl-C

# where a resumed run keeps what an option says
_KEPT: Mapping[str, tuple[str, ...]] = {
    "train": ("training",),
    "evaluation": ("evaluation",),
    "epochs": ("recipe", "epochs"),
    "lr": ("recipe", "learning_rate"),
    "batch_size": ("recipe", "batch_size"),
    "patience": ("recipe", "patience"),
    "accumulate": ("recipe", "accumulate"),
    "precision": ("recipe", "precision"),
    "seed": ("recipe", "seed"),
    "distill": ("distill", "kind"),
    "temperature": ("distill", "temperature"),
    "label_share": ("distill", "labels"),
    "layers": ("layers",),
    "holdout": ("holdout",),
    "images": ("images",),
    "max_bad": ("max_bad",),
    "memory": ("memory",),
    "device": ("device",),
    "network": ("network",),
    "checkpoint": ("checkpoint",),
    "weights": ("weights",),
}
_ALWAYS = {"folder", "output", "resume", "as_json", "quiet"}


@click.command()
@click.argument("folder", metavar="OUT", type=click.Path(path_type=Path), shell_complete=folders)
@click.option(
    "--train",
    type=click.Path(path_type=Path),
    help="Images to train on: class folders, .npz, .pt or tar shards ('train-{000..146}.tar'), or any folder "
    "where no labels are needed.  "
    "[default: the demo's own]",
)
@click.option(
    "--eval",
    "evaluation",
    type=click.Path(path_type=Path),
    help="Labelled images for the accuracies before and after.  [default: the demo's own, else none]",
)
@click.option(
    "--recipe",
    metavar="NAME",
    shell_complete=one_of(RECIPES),
    help="How it learns: finetune, recover, upper, short, sic or nin.  "
    "[default: finetune; upper with --layers upper]",
)
@click.option("--epochs", type=click.IntRange(1), help="Passes over the images.  [default: the recipe's]")
@click.option("--lr", type=float, help="Highest learning rate.  [default: the recipe's]")
@click.option("--batch-size", type=click.IntRange(1), help="Images of one step.  [default: the recipe's]")
@click.option(
    "--distill",
    type=click.Choice(["logits", "features", "layers"]),
    is_flag=False,
    flag_value="logits",
    help="Learn from the original network: from its outputs, from those of its layers too, or each layer by "
    "itself. Alone it means logits; labels then only judge.",
)
@click.option("--temperature", type=float, help="What --distill divides class scores by.  [default: 4]")
@click.option(
    "--label-share",
    type=click.FloatRange(0, 1, max_open=True),
    help="Share of the labels in what --distill learns from.  [default: 0]",
)
@click.option(
    "--layers",
    type=click.Choice(["all", "upper"]),
    default="all",
    show_default=True,
    help="What is trained: all layers, or those above the replaced ones.",
)
@click.option(
    "--holdout",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.2,
    show_default=True,
    help="Share of the training images that judge.",
)
@click.option(
    "--patience", type=click.IntRange(1), help="Epochs in a row that may bring nothing better before it ends."
)
@click.option("--accumulate", type=click.IntRange(1), help="Parts that a batch is run in, to save memory.")
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    help="Numbers of the arithmetic while training.  [default: the recipe's]",
)
@click.option("--images", type=click.IntRange(2), help="Training images, at most.  [default: all]")
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of everything random."
)
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
@original_options
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    shell_complete=folders,
    help="Folder for the result.  [default: OUT, replaced when all is done]",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Go on with an interrupted run; needs no other option but --network, if it was given.",
)
@click.option("--overwrite", is_flag=True, help="Replace earlier results, or forget an interrupted run.")
@click.option("--json", "as_json", is_flag=True, help="Print report.json to stdout, and nothing else.")
@click.option("-q", "--quiet", is_flag=True, help="No progress and no table, only the verdict.")
@click.pass_context
def finetune(context: click.Context, /, **given: Any) -> None:
    """Train the compressed network in folder OUT.

    OUT is a folder that `cnncompress MODEL` wrote. The weights that are best on held-out images are kept,
    those at the start included, so the result is never worse there. Model, ONNX file, plan and reports
    are written anew. The state is kept while it runs: an interrupted run goes on with --resume to the
    same result.
    """
    _check(given)
    job = _resumed(context, given) if given["resume"] else _job(given)
    with processes(job.device) as world:
        try:
            _run(job, given, world)
        except KeyboardInterrupt:
            if world.is_first:
                click.echo(f"interrupted; {_what_is_left(job)}", err=True)
            context.exit(INTERRUPTED)


def _run(job: "FinetuneJob", given: Mapping[str, Any], world: "World") -> None:
    from cnncompress.cli.finetune_words import held_out_gain, print_epochs
    from cnncompress.cli.progress import Progress
    from cnncompress.finetuning.job import finetune_folder

    quiet = given["quiet"] or not world.is_first
    with Progress(quiet=quiet) as report:
        finetune_folder(job, resume=given["resume"], world=world, report=report)
    if not world.is_first:
        return
    text = (job.target / "report.json").read_text(encoding="utf-8")
    if given["as_json"]:
        click.echo(text, nl=False)
        return
    written = json.loads(text)
    if not given["quiet"]:
        print_epochs(written["finetune"])
    click.echo(f"{held_out_gain(written)} -> {given['output'] or given['folder']}")


def _check(given: Mapping[str, Any]) -> None:
    if given["recipe"] is not None:
        check_names("recipe", (given["recipe"],), RECIPES)
    if given["resume"] or given["distill"] is not None:
        return
    for name, flag in (("temperature", "--temperature"), ("label_share", "--label-share")):
        if given[name] is not None:
            raise click.UsageError(f"{flag} is that of --distill; add it")


def _job(given: Mapping[str, Any]) -> "FinetuneJob":
    from cnncompress.finetuning.job import FinetuneJob
    from cnncompress.training.distill import Distillation
    from cnncompress.training.recipes import recipe, usual_recipe

    mixed = {"temperature": given["temperature"], "labels": given["label_share"]}
    mixed = {name: value for name, value in mixed.items() if value is not None}
    distill = None if given["distill"] is None else Distillation(kind=given["distill"], **mixed)
    chosen = recipe(
        given["recipe"] or usual_recipe(given["layers"]),
        epochs=given["epochs"],
        learning_rate=given["lr"],
        batch_size=given["batch_size"],
        patience=given["patience"],
        accumulate=given["accumulate"],
        precision=given["precision"],
        seed=given["seed"],
    )
    return FinetuneJob(
        folder=given["folder"],
        training=given["train"],
        evaluation=given["evaluation"],
        recipe=chosen,
        distill=distill,
        layers=given["layers"],
        holdout=given["holdout"],
        images=given["images"],
        max_bad=given["max_bad"],
        memory=given["memory"],
        device=given["device"],
        network=given["network"],
        checkpoint=given["checkpoint"],
        weights=given["weights"],
        output=given["output"],
        overwrite=given["overwrite"],
    )


def _resumed(context: click.Context, given: Mapping[str, Any]) -> "FinetuneJob":
    """The job of the interrupted run; options that say something else are refused."""
    from cnncompress.finetuning.job import resumed_job

    job = resumed_job(given["output"] or given["folder"], network=given["network"])
    kept = job.to_json()
    for name in given:
        if context.get_parameter_source(name) is not ParameterSource.COMMANDLINE or name in _ALWAYS:
            continue
        option = next(one.opts[0] for one in context.command.params if one.name == name)
        if name not in _KEPT:
            raise click.UsageError(f"{option} can't be given beside --resume, which goes on as the run began")
        value: Any = kept
        for key in _KEPT[name]:
            value = value[key] if value is not None else None
        asked = str(given[name].expanduser().resolve()) if isinstance(given[name], Path) else given[name]
        if asked != value:
            raise click.UsageError(
                f"{option} {given[name]} is not what the run began with ({value}); leave it out to go on, or "
                "leave out --resume and begin anew with --overwrite"
            )
    return job


def _what_is_left(job: "FinetuneJob") -> str:
    from cnncompress.folder import STATE

    kept = (job.target / STATE).exists()
    return "--resume goes on" if kept else "no state was kept yet, and nothing has changed"
