"""The group of commands; a model's name alone means ``compress``."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from cnncompress import __version__
from cnncompress.cli.bench import bench
from cnncompress.cli.check import check
from cnncompress.cli.completion import models as network_items
from cnncompress.cli.compress import compress
from cnncompress.cli.explain import explain
from cnncompress.cli.finetune import finetune
from cnncompress.cli.inspect import inspect
from cnncompress.cli.models import models
from cnncompress.cli.processes import is_first, leave_together
from cnncompress.cli.profile import profile
from cnncompress.cli.train import train
from cnncompress.errors import CompressError

DEFAULT = "compress"
INTERRUPTED = 130  # what shells report after Ctrl-C
FAILED = 2


class DefaultGroup(click.Group):
    """Takes an unknown first word for an argument of the default command, and errors for one line."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run the program; one of several processes ends at once when it is done.

        Args:
            *args: as click's.
            **extra: as click's.

        Returns:
            What click returns outside of a program.

        Raises:
            SystemExit: the program has ended.
        """
        _find_own_code(extra.get("args") or (args[0] if args else None) or sys.argv[1:])
        try:
            return super().main(*args, **extra)
        except SystemExit as end:
            leave_together(end.code)
            raise

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the default command's name in front where no command is named.

        Args:
            ctx: of this group.
            args: the command line.

        Returns:
            What is left for the command.
        """
        own = {name for parameter in self.get_params(ctx) for name in parameter.opts}
        if args and args[0] not in self.commands and args[0] not in own:
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Offer commands, and networks to compress once a letter was typed.

        Args:
            ctx: of this group.
            incomplete: what was typed of the word.

        Returns:
            Commands, options and names of networks.
        """
        return [*super().shell_complete(ctx, incomplete), *network_items(incomplete)]

    def invoke(self, ctx: click.Context) -> None:
        """Run the command; what a user can mend becomes one line and an exit code.

        Args:
            ctx: of this group.
        """
        try:
            super().invoke(ctx)
        except CompressError as error:
            click.echo("error: " + " ".join(str(error).split()), err=True)
            ctx.exit(FAILED)
        except KeyboardInterrupt:
            if is_first():
                click.echo("interrupted; what was not finished was not written", err=True)
            ctx.exit(INTERRUPTED)


def _find_own_code(words: Sequence[str]) -> None:
    """Let ``package.module:factory`` name a module in the working folder, as ``python -m`` does.

    Only where one is named, and after all that is installed: no other file there shall ever be run.
    """
    named = any(re.fullmatch(r"(--\w+=)?(?!timm:)[^\W\d][\w.]*:[\w.]+", word) for word in words)
    if named and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))


HELP = """Make a trained convolutional network cheaper and faster.

\b
cnncompress vgg16 --speedup 4x
cnncompress vgg16 --speedup 4x --data photos/ --eval val/
cnncompress my_pkg.nets:build --checkpoint best.safetensors --speedup 3x --data calib/

Errors you can mend are one line on stderr and exit code 2.
"""  # the first line of the examples is click's mark for text that isn't to be filled


@click.group(
    cls=DefaultGroup,
    help=HELP,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="`cnncompress MODEL …` is short for `cnncompress compress MODEL …`. Completion in bash: "
    '`eval "$(_CNNCOMPRESS_COMPLETE=bash_source cnncompress)"`.',
)
@click.version_option(__version__, "-V", "--version", prog_name="cnncompress", message="%(prog)s %(version)s")
def main() -> None:
    """Run the command line."""


for command in (compress, finetune, check, bench, explain, inspect, models, profile, train):
    main.add_command(command)
