"""What a shell offers for the word that is being typed; nothing here imports torch.

bash: ``eval "$(_CNNCOMPRESS_COMPLETE=bash_source cnncompress)"``, zsh and fish accordingly; see
https://click.palletsprojects.com/en/stable/shell-completion/.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from cnncompress.cli import names

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def one_of(known: Sequence[str]) -> Completer:
    """Offer names.

    Args:
        known: in the order in which they are offered.

    Returns:
        For ``shell_complete`` of an option or argument.
    """

    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        del context, parameter
        return _beginning(known, incomplete)

    return complete


def some_of(known: Sequence[str]) -> Completer:
    """Offer names of which several may be typed with commas between them.

    Args:
        known: in the order in which they are offered; what was typed already is not offered again.

    Returns:
        For ``shell_complete`` of an option or argument.
    """

    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        del context, parameter
        typed, comma, last = incomplete.rpartition(",")
        left = [name for name in known if name not in typed.split(",")]
        return [CompletionItem(typed + comma + item.value) for item in _beginning(left, last)]

    return complete


def folders(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer folders.

    Args:
        context: of the command.
        parameter: that is completed.
        incomplete: what was typed of it.

    Returns:
        One item, which tells the shell to look for folders itself.
    """
    del context, parameter
    return [CompletionItem(incomplete, type="dir")]


def layers_of_out(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Offer the layers of the network in folder OUT.

    Args:
        context: of the command, whose OUT was typed before.
        parameter: that is completed.
        incomplete: what was typed of it.

    Returns:
        The layers that OUT/report.json names; none where it can't be read.
    """
    del parameter
    out = context.params.get("out")
    try:
        report = json.loads((Path(out or "") / "report.json").read_text(encoding="utf-8"))
        return _beginning([str(layer["name"]) for layer in report["layers"]], incomplete)
    except (OSError, ValueError, KeyError, TypeError):  # a shell has no place for complaints
        return []


def models(incomplete: str) -> list[CompletionItem]:
    """Offer networks, for a command line whose first word may be one.

    Args:
        incomplete: what was typed of the word.

    Returns:
        Names that begin so; with nothing typed none, since they would bury the commands.
    """
    return _beginning(names.MODELS, incomplete) if incomplete else []


def _beginning(known: Sequence[str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in known if name.startswith(incomplete)]
