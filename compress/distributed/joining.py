"""Joining the processes that torchrun has started."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from cnncompress.distributed.world import ALONE, World
from cnncompress.errors import OptionError, WorkerError

PATIENCE = timedelta(hours=2)
"""How long a process waits for the others; one that has died is noticed at once."""

_FAILED = "cnncompress/failed"


@contextmanager
def joined(device: str = "cpu") -> Iterator[World]:
    """Join the processes of one ``torchrun``; without it there is one process.

    Args:
        device: torch device that the run asks for. On CUDA each process takes the card of its local rank,
            and ``"cuda"`` means that one from here on.

    Yields:
        The processes.

    Raises:
        OptionError: there are fewer cards than processes, or a single card was named for all of them.
        WorkerError: the processes don't find each other.
    """  # noqa: DOC502  # some are raised by what is called
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    if dist.is_initialized():  # the caller has joined already
        yield World(dist.get_rank(), dist.get_world_size())
        return
    on_cuda = torch.device(device).type == "cuda"
    if on_cuda:
        _take_card(device)
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_cuda else "gloo", timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WorkerError(
            f"the processes of this run don't find each other ({reason}); start them with torchrun, on one "
            "machine with --standalone"
        ) from None
    world = World(dist.get_rank(), dist.get_world_size())
    try:
        yield world
    except BaseException:
        if not on_cuda:  # NCCL would wait for processes that are gone
            dist.destroy_process_group()
        raise
    world.wait()  # who ends first would break the others' last exchange
    dist.destroy_process_group()


def is_first_to_fail() -> bool:
    """Whether this process should tell the user of an error: of several that fail, one does.

    Returns:
        True where there is one process, and in the first of several that asks.
    """
    if not dist.is_initialized():
        return int(os.environ.get("RANK", "0")) == 0
    rank = str(dist.get_rank())
    try:
        store = dist.distributed_c10d._get_default_store()
        return bool(store.compare_set(_FAILED, "", rank).decode() == rank)
    except RuntimeError:  # the process that keeps the store is gone: nobody else can tell
        return True


def _take_card(device: str) -> None:
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if torch.device(device).index is not None:
        raise OptionError(f"device {device!r} names one card for all processes; give cuda")
    if local >= torch.cuda.device_count():
        raise OptionError(
            f"process {local} has no card of its own, this machine has {torch.cuda.device_count()}; "
            "lower --nproc-per-node"
        )
    torch.cuda.set_device(local)
