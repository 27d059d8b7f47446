"""``cnncompress MODEL``: the whole run."""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cnncompress.cli.compress_checks import check
from cnncompress.cli.compress_options import OUTPUT, compress_options
from cnncompress.cli.network_options import load
from cnncompress.cli.processes import processes

if TYPE_CHECKING:  # torch takes seconds, --help shall not
    from cnncompress.distributed import World
    from cnncompress.result import Result

DEFAULT_SPEEDUP = 4.0


@click.command()
@compress_options
def compress(**given: Any) -> None:
    """Compress MODEL and write the result, with a report, to a folder.

    MODEL is a name that `cnncompress models` lists, timm:NAME, or package.module:factory of your own.
    The folder gets report.html, report.json, plan.json, model.safetensors, model.onnx and model.py, which
    loads the weights without cnncompress.
    """
    check(click.get_current_context(), given)
    speedups = given["speedup"] or ()
    given["speedup"] = speedups[0] if speedups else None
    with processes(given["device"]) as world:
        given["quiet"] = given["quiet"] or not world.is_first
        if len(speedups) > 1:
            _front(given, speedups, world)
        else:
            _single(given, world)


def _single(given: dict[str, Any], world: "World") -> None:
    from cnncompress.cli.progress import Progress
    from cnncompress.cli.tables import print_layers, verdict
    from cnncompress.folder import check_folder

    folder = given["output"] or _default_folder(given)
    overwrite = given["overwrite"] or given["output"] is None
    world.first(lambda: check_folder(folder, overwrite=overwrite))
    with Progress(quiet=given["quiet"]) as report:
        result = _run(given, report, world)
        world.first(lambda: result.save(folder, overwrite=overwrite, report=report))
    if not world.is_first:
        return
    text = (folder / "report.json").read_text(encoding="utf-8")
    if given["as_json"]:
        click.echo(text, nl=False)
        return
    written = json.loads(text)
    if written["asked"]["speedup"] is None and given["speedup"] is not None and not given["quiet"]:
        click.echo("note: --speedup was not used: other options settle all ranks", err=True)
    if not given["quiet"]:
        print_layers(written)
    click.echo(f"{verdict(written)} -> {folder}")


def _front(given: dict[str, Any], speedups: tuple[float, ...], world: "World") -> None:
    """A folder for each speedup, and a page over all of them."""
    from cnncompress import api
    from cnncompress.cli.progress import Progress
    from cnncompress.cli.tables import print_front, verdict
    from cnncompress.errors import CompressError
    from cnncompress.folder import check_folder
    from cnncompress.front import Point, front_json, point_of, write_front

    together = given["output"] or Path(OUTPUT) / f"{file_name(given['model'])}-front"
    overwrite = given["overwrite"] or given["output"] is None
    names = [f"{speedup:g}x" for speedup in speedups]
    for name in names:
        world.first(partial(check_folder, together / name, overwrite=overwrite))
    points: list[Point] = []
    lines: list[str] = []
    with Progress(quiet=given["quiet"]) as report:
        network, sources, options, training = _prepared(given, report, world)
        results = api.compress_speedups(
            network, *sources, options, speedups, report, training=training, world=world
        )

        def write(name: str, result: "Result") -> None:
            folder = result.save(together / name, overwrite=overwrite, report=report)
            written = json.loads((folder / "report.json").read_text(encoding="utf-8"))
            points.append(point_of(written, name))
            lines.append(f"{verdict(written)} -> {folder}")
            write_front(together, network.name, points)

        try:
            for name, result in zip(names, results, strict=True):
                world.first(partial(write, name, result))
        except CompressError:
            for line in lines:  # these are there, whatever became of the others
                click.echo(line, err=True)
            raise
    if not world.is_first:
        return
    front = front_json(network.name, points)
    if given["as_json"]:
        click.echo(json.dumps(front, indent=2))
        return
    if not given["quiet"]:
        print_front(front)
    for line in lines:
        click.echo(line)
    click.echo(f"{network.name}: {len(points)} networks side by side -> {together / 'front.html'}")


def _default_folder(given: dict[str, Any]) -> Path:
    if given["max_drop"] is not None:
        return Path(OUTPUT) / f"{file_name(given['model'])}-drop-{given['max_drop']:g}"
    return default_folder(given["model"], given["speedup"], given["method"])


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
        if not any(knows_option(name, key) for name in _names(given["method"])):
            names = ", ".join(name for name in available() if knows_option(name, key))
            raise click.UsageError(f"--{flag} is for --method {names}, not for {given['method']}")
        options[key] = value
    return options


def _names(method: str) -> list[str]:
    from cnncompress.options import AUTO, AUTO_METHODS

    named = [name.strip() for name in method.split(",")]
    return [*named, *(AUTO_METHODS if AUTO in named else ())]


def _run(given: dict[str, Any], report: Callable[[Any], None], world: "World") -> Any:
    from cnncompress import api

    network, sources, options, training = _prepared(given, report, world)
    if given["max_drop"] is not None:
        return api.compress_within_drop(
            network, *sources, options, given["max_drop"], report, training=training, world=world
        )
    return api.compress(network, *sources, options, report, training=training, world=world)


def _prepared(
    given: dict[str, Any], report: Callable[[Any], None], world: "World"
) -> tuple[Any, tuple[Any, Any], Any, Any]:
    """Network, calibration and evaluation images, options, and training images."""
    from cnncompress import api
    from cnncompress.data import open_source

    layers, epochs = given["finetune"] or ("", None)
    options = api.Options(
        speedup=given["speedup"] or DEFAULT_SPEEDUP,
        budget=given["budget"],
        runtime=given["runtime"],
        threads=given["threads"],
        batch=given["batch"],
        distortion=given["distortion"],
        probes=not given["no_probes"],
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
        repair=given["repair"],
        finetune=layers,
        recipe=given["recipe"] or "",
        epochs=given["epochs"] if epochs is None else epochs,
        learning_rate=given["lr"],
        distill=given["distill"] or "",
        measure=not given["no_measure"],
        allow_slower=given["allow_slower"],
        compare=given["compare"],
        examples=given["examples"],
    )
    with world.first_goes():  # what must be downloaded is downloaded once
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
    return network, (calibration, evaluation), options, training
