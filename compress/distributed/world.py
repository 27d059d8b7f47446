"""The processes of one run, and what they tell each other.

All processes run the same code and must ask for the same exchanges in the same order. Where a process asks
for one that another has died before, it raises a `WorkerError`.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from cnncompress.errors import CompressError, WorkerError

T = TypeVar("T")
Item = TypeVar("Item")

_WHERE = re.compile(r"^\[[^\]]*\]\s*")  # the line of torch's source that a message of gloo begins with
_SENT = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8)


class _Failed(NamedTuple):
    """An error of one process, on its way to the others."""

    kind: type[CompressError]
    message: str

    def again(self) -> CompressError:
        error = self.kind.__new__(self.kind)
        error.args = (self.message,)
        return error


class _Shape(NamedTuple):
    """What a process is about to send."""

    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class World:
    """The processes of one run; one alone exchanges nothing.

    Attributes:
        rank: number of this process, from 0.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process reports and writes."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """Whether there is no other process."""
        return self.size == 1

    def sum(self, tensor: Tensor) -> Tensor:
        """Add up a tensor over the processes.

        Args:
            tensor: of one shape and type in all processes.

        Returns:
            The sum, the same in all processes; the tensor itself where there is one process.
        """
        if self.is_alone:
            return tensor
        total = tensor.detach().clone().contiguous()
        with _linked():
            dist.all_reduce(total)
        return total

    def sum_each(self, parts: Sequence[Tensor] | None, device: torch.device) -> list[Tensor] | None:
        """Add up several tensors of which a process may have none, because it had no image to read.

        Args:
            parts: of the same shapes and types wherever there are some.
            device: of the tensors.

        Returns:
            The sums, the same in all processes; None if no process has any.
        """
        if self.is_alone:
            return None if parts is None else list(parts)
        told = self.gather(None if parts is None else [_Shape(tuple(p.shape), p.dtype) for p in parts])
        shapes = next((one for one in told if one is not None), None)
        if shapes is None:
            return None
        mine = parts or [torch.zeros(shape, dtype=dtype, device=device) for shape, dtype in shapes]
        return [self.sum(part) for part in mine]

    def gather(self, value: T) -> list[T]:
        """Show a value to all processes.

        Args:
            value: small, and able to be pickled.

        Returns:
            Those of all processes, in the order of their ranks.
        """
        if self.is_alone:
            return [value]
        found: list[Any] = [None] * self.size
        with _linked():
            dist.all_gather_object(found, value)
        return found

    def share(self, value: T, *, of: int = 0) -> T:
        """Give all processes the value of one.

        Args:
            value: able to be pickled; what the other processes give isn't used.
            of: rank of the process that has it.

        Returns:
            The value.
        """
        if self.is_alone:
            return value
        parcel: list[Any] = [value if self.rank == of else None]
        with _linked():
            dist.broadcast_object_list(parcel, src=of)
        found: T = parcel[0]
        return found

    def first(self, function: Callable[[], T]) -> T:
        """Let the first process alone do something, and give all of them its result or its error.

        Args:
            function: makes no exchange; its result is able to be pickled.

        Returns:
            What it returned in the first process.
        """
        return self.each([0], lambda _: function())[0]

    def each(self, items: Sequence[Item], function: Callable[[Item], T]) -> list[T]:
        """Spread independent work over the processes; an error of one of them is raised in all.

        Args:
            items: the same in all processes.
            function: makes no exchange; what it returns is able to be pickled.

        Returns:
            Its results, in the order of the items, in all processes.

        Raises:
            CompressError: of the first item that failed.
        """  # noqa: DOC502  # raised again by name
        if self.is_alone:
            return [function(item) for item in items]
        mine: list[Any] = []
        broken: Exception | None = None
        for item in items[self.rank :: self.size]:
            try:
                mine.append(function(item))
            except CompressError as error:
                mine.append(_Failed(type(error), str(error)))
            except Exception as error:  # a bug or a full memory: the others must not wait for ever
                mine.append(_Failed(WorkerError, f"process {self.rank} failed: {error!r}"))
                broken = error
                break
        parts = self.gather(mine)
        if broken is not None:
            raise broken
        found = [
            parts[place % self.size][place // self.size]
            for place in range(len(items))
            if place // self.size < len(parts[place % self.size])
        ]
        for one in found:
            if isinstance(one, _Failed):
                raise one.again()
        return found

    def columns(self, part: Tensor, order: Tensor) -> Tensor:
        """Bring columns that lie spread over the processes to the first one.

        Args:
            part: columns of this process, shape (rows, own columns), as many rows in each process.
            order: a number for each of them, shape (own columns,), int64: the columns of all processes are
                sorted by it, equal ones by their order here.

        Returns:
            In the first process shape (rows, columns of all), elsewhere no column.
        """
        if self.is_alone:
            return part
        parts, orders = self._to_first(part), self._to_first(order)
        if not self.is_first:
            return part[:, :0]
        _, places = torch.sort(torch.cat(orders), stable=True)
        # a process without images doesn't know how many rows there are
        filled = [one for one in parts if one.shape[1]] or parts[:1]
        return torch.cat(filled, dim=1)[:, places.to(part.device)].contiguous()

    def share_columns(self, part: Tensor, order: Tensor) -> Tensor:
        """Bring columns that lie spread over the processes to all of them.

        Args:
            part: as in `columns`.
            order: as in `columns`.

        Returns:
            Shape (rows, columns of all) in all processes.
        """
        if self.is_alone:
            return part
        whole = self.columns(part, order)
        shape, dtype = self.share(_Shape(tuple(whole.shape), whole.dtype))
        if not self.is_first:
            whole = torch.empty(shape, dtype=dtype, device=part.device)
        with _linked():
            dist.broadcast(whole, src=0)
        return whole

    def _to_first(self, part: Tensor) -> list[Tensor]:
        """The tensors of all processes in the first one; nothing elsewhere."""
        shapes = self.gather(_Shape(tuple(part.shape), part.dtype))
        sent = part.contiguous().to(_sent_as(part.dtype))
        with _linked():
            if not self.is_first:
                if sent.numel():
                    dist.send(sent, dst=0)
                return []
            found = [part]
            for rank, (shape, dtype) in enumerate(shapes[1:], start=1):
                received = torch.empty(shape, dtype=_sent_as(dtype), device=part.device)
                if received.numel():
                    dist.recv(received, src=rank)
                found.append(received.to(dtype))
            return found

    def wait(self) -> None:
        """Go on when all processes have come here."""
        if not self.is_alone:
            self.gather(None)

    @contextmanager
    def first_goes(self) -> Iterator[None]:
        """The first process runs the block before the others do, for example to download a file once.

        Yields:
            Nothing.
        """
        if self.is_first:
            try:
                yield
            finally:
                self.wait()
        else:
            self.wait()
            yield


ALONE = World()


def _sent_as(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype in _SENT else torch.uint8  # truth values have no type of their own on the way


@contextmanager
def _linked() -> Iterator[None]:
    """Turns what torch raises when the connection breaks into an error that says so."""
    try:
        yield
    except RuntimeError as error:  # also dist.DistError and its kinds
        reason = (str(error).splitlines() or [type(error).__name__])[-1]
        reason = _WHERE.sub("", reason).split(". ")[0][:200]
        raise WorkerError(
            f"another process of this run has died or can't be reached ({reason}); its own message says why; "
            "start the run again, with --resume where a state was kept"
        ) from None
