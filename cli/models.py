"""``cnncompress models``: the names that can be typed."""

import json
from fnmatch import fnmatch

import click

from cnncompress.errors import OptionError


@click.command()
@click.argument("pattern", default="*")
@click.option("--json", "as_json", is_flag=True, help="Print JSON to stdout.")
def models(pattern: str, as_json: bool) -> None:
    """List the known models, or those that match PATTERN, for example 'vgg*'.

    timm:NAME and package.module:factory can be given wherever a model is asked for.
    """
    names = _matching(pattern)
    click.echo(json.dumps(names, indent=2) if as_json else "\n".join(names))


def _matching(pattern: str) -> list[str]:
    from cnncompress.models import available_models

    names = [name for name in available_models() if fnmatch(name, pattern)]
    if not names:
        raise OptionError(f"no model matches {pattern!r}; `cnncompress models` lists all")
    return names
