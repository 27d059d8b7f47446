"""``cnncompress inspect MODEL --covariance``: how channels of neighbouring convolutions vary together."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import click

from cnncompress.cli.network_options import load

_COLUMNS = (2, 4, 8)  # numbers of groups that the table shows; the files tell of all


def inspect_covariance(given: Mapping[str, Any]) -> None:
    """Measure, write files and print the table.

    Args:
        given: the options of ``inspect``.
    """
    from cnncompress.cli.progress import Progress
    from cnncompress.covariance import study_covariance
    from cnncompress.covariance_output import study_to_json, write_study
    from cnncompress.events import Note
    from cnncompress.folder import check_folder

    check_folder(given["out"], overwrite=False)
    with Progress(quiet=given["quiet"]) as report:
        network = load(given, report)
        for note in network.notes:
            report(Note(note))
        study = study_covariance(
            network.model,
            network.input_size,
            _images(network, given, report),
            pairs=given["pairs"],
            seed=given["seed"],
            report=report,
        )
        for note in study.notes:
            report(Note(note))
        files = write_study(given["out"], study)
    if given["as_json"]:
        click.echo(json.dumps(study_to_json(study), indent=2))
        return
    _print_layers(study.layers)
    click.echo()
    _print_pairs(study.pairs)
    click.echo(
        f"{study.images} images; share of all strength within groups of equal size, in brackets by chance; "
        f"{len(files)} files in {given['out']}"
    )


def _images(network: Any, given: Mapping[str, Any], report: Any) -> Any:
    from cnncompress.data import open_source
    from cnncompress.default_data import default_data
    from cnncompress.events import Note

    if given["data"] is not None:
        return open_source(
            given["data"], preprocess=network.preprocess, limit=given["images"], seed=given["seed"]
        )
    source, _, notes = default_data(network, given["images"], given["seed"])
    for note in notes:
        report(Note(note))
    return source


def _print_layers(layers: Sequence[Any]) -> None:
    from cnncompress.cli.tables import print_table

    columns = ("layer", "channels", *(f"within, {g} groups" for g in _COLUMNS), "suggested groups")
    rows = [(layer.name, str(layer.channels), *_scores(layer), _suggestion(layer)) for layer in layers]
    print_table(columns, rows, right=columns[1:5])


def _print_pairs(pairs: Sequence[Any]) -> None:
    from cnncompress.cli.tables import print_table

    scores = (f"whitened, {g} groups" for g in _COLUMNS)
    columns = ("between", "and", *scores, "suggested groups", "within its own")
    rows = [(pair.first, pair.second, *_scores(pair), _suggestion(pair), _own(pair)) for pair in pairs]
    print_table(columns, rows, right=columns[2:5])


def _scores(one: Any) -> list[str]:
    known = {grouping.groups: grouping for grouping in one.groupings}
    return [
        f"{known[groups].score:.2f} ({known[groups].chance:.2f})" if groups in known else "-"
        for groups in _COLUMNS
    ]


def _own(pair: Any) -> str:
    """What channels as they stand score in the groups that the second convolution has."""
    for grouping in pair.groupings:
        if grouping.groups == pair.own_groups:
            return f"{grouping.groups}: {grouping.contiguous:.2f} ({1 / grouping.groups:.2f})"
    return "-"


def _suggestion(one: Any) -> str:
    for grouping in one.groupings:
        if grouping.groups == one.suggested:
            return f"{grouping.groups}: {grouping.score:.2f} ({grouping.chance:.2f})"
    return "none"
