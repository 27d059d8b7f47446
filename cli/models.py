"""``cnncompress models``: the names that can be typed, and what the networks cost."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from cnncompress.cli.completion import one_of
from cnncompress.cli.names import MODELS
from cnncompress.errors import OptionError

if TYPE_CHECKING:  # torch takes seconds, --help shall not
    from cnncompress.model_list import ListedModel


@click.command()
@click.argument("pattern", default="*", shell_complete=one_of(MODELS))
@click.option("--json", "as_json", is_flag=True, help="Print JSON to stdout, and nothing else.")
def models(pattern: str, as_json: bool) -> None:
    """List the known models, or those that match PATTERN.

    A pattern is for example 'vgg*'. MACs and parameters are those of convolutions and linear layers as
    they run after training; for torchvision's models they are torchvision's own figures. The papers'
    networks come without weights: they are random unless --checkpoint gives some. timm:NAME and
    package.module:factory can be given wherever a model is asked for.
    """
    found = _matching(pattern)
    if as_json:
        click.echo(json.dumps({model.name: asdict(model) for model in found}, indent=2))
    else:
        _print(found)


def _matching(pattern: str) -> "list[ListedModel]":
    from cnncompress.model_list import listed_models

    found = listed_models(pattern)
    if not found:
        raise OptionError(f"no model matches {pattern!r}; `cnncompress models` lists all")
    return found


def _print(found: "Sequence[ListedModel]") -> None:
    from cnncompress.cli.tables import print_table
    from cnncompress.formats import format_count

    columns = ("model", "input", "MACs", "params", "from")
    rows = [
        (
            model.name,
            "x".join(map(str, model.input_size)),
            format_count(model.macs),
            format_count(model.params),
            model.reference,
        )
        for model in found
    ]
    print_table(columns, rows, right=("MACs", "params"), wrap=("from",))
