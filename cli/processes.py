"""Several processes under one command: who speaks, and what is said when one of them dies."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:  # torch takes seconds, --help shall not
    from cnncompress.distributed import World

STOPPED = 143  # what shells report after SIGTERM
FAILED = 2


def is_first() -> bool:
    """Whether this process speaks for the run, before the processes have joined.

    Returns:
        True without torchrun, and in its first process.
    """
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def processes(device: str) -> Iterator["World"]:
    """Join the processes of the run; of an error that several of them meet one tells the user.

    Args:
        device: torch device that the run asks for.

    Yields:
        The processes.

    Raises:
        CompressError: of the block, in the process that tells the user.
        Exit: another process tells it.
    """
    from cnncompress.distributed import joined
    from cnncompress.distributed.joining import is_first_to_fail
    from cnncompress.errors import CompressError

    with joined(device) as world:
        if world.is_alone:
            yield world
            return
        before = signal.signal(signal.SIGTERM, _stopped)  # torchrun sends it when a process has died
        try:
            yield world
        except CompressError:
            if not is_first_to_fail():
                raise click.exceptions.Exit(FAILED) from None
            raise
        finally:
            signal.signal(signal.SIGTERM, before)


def leave_together(code: object) -> None:
    """End one of several processes at once; without torchrun nothing happens.

    torch's threads for gloo, taken down by a normal end, now and then abort the process.

    Args:
        code: for the shell.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def _stopped(number: int, frame: FrameType | None) -> None:
    del number, frame
    from cnncompress.distributed.joining import is_first_to_fail

    if is_first() and is_first_to_fail():
        click.echo(
            "error: another process of this run has died, so it was stopped; what was not finished was not "
            "written; start again, with --resume where a state was kept",
            err=True,
        )
    sys.stderr.flush()
    os._exit(STOPPED)  # the processes that are gone can't be waited for
