"""Many tensors of one shape with bounded memory: beyond a limit they lie on the disk."""

import tempfile
import threading
import weakref
from collections.abc import Sequence
from io import FileIO
from tempfile import TemporaryFile

import torch
from torch import Tensor

from cnncompress.errors import DataError


class Spool:
    """Tensors in memory, and from a limit on in a temporary file.

    The file lies in the system's folder for these (``TMPDIR`` decides) and has no name: it is gone with this
    object, even if the process is killed.

    Args:
        name: of what is kept, in messages.
        memory_bytes: most memory for them.
    """

    def __init__(self, *, name: str, memory_bytes: int) -> None:
        self._name, self._memory_bytes = name, memory_bytes
        self._kept: list[Tensor] = []
        self._file: FileIO | None = None
        self._lock = threading.Lock()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, tensor: Tensor) -> None:
        """Keep one more.

        Args:
            tensor: of the shape and type of all others; it isn't copied while there is memory for it.

        Raises:
            DataError: the shape is another one, or the disk is full.
        """
        if self._count == 0:
            self._shape, self._dtype = tuple(tensor.shape), tensor.dtype
        elif (tuple(tensor.shape), tensor.dtype) != (self._shape, self._dtype):
            shapes = sorted([self._shape, tuple(tensor.shape)])
            raise DataError(f"{self._name}: preprocessed images must be of one shape, got {shapes}")
        self._count += 1
        if self._file is None and self._count * tensor.nbytes <= self._memory_bytes:
            self._kept.append(tensor)
            return
        self._write([*self._kept, tensor])
        self._kept.clear()

    def read(self, positions: Sequence[int]) -> Tensor:
        """Some of those that were kept; any number of threads may ask at a time.

        Args:
            positions: in the order of keeping.

        Returns:
            Shape (n, ...), a copy.

        Raises:
            DataError: the disk fails.
        """
        if self._file is None:
            return torch.stack([self._kept[position] for position in positions])
        # read rather than mapped: a mapping of the whole file would count as memory of the process
        found = torch.empty(len(positions), *self._shape, dtype=self._dtype)
        with self._lock:
            for row, position in zip(found, positions, strict=True):
                self._file.seek(position * row.nbytes)
                if self._file.readinto(_bytes(row)) != row.nbytes:
                    raise DataError(f"{self._name}: the temporary file in {tempfile.gettempdir()} is cut off")
        return found

    def _write(self, tensors: Sequence[Tensor]) -> None:
        try:
            if self._file is None:
                # unbuffered: a full disk is noticed here and not when the file is closed
                self._file = TemporaryFile(buffering=0)  # noqa: SIM115  # it lives as long as the images
                weakref.finalize(self, self._file.close)
            for tensor in tensors:
                rest = _bytes(tensor.contiguous())
                while rest:
                    rest = rest[self._file.write(rest) :]
        except OSError as error:
            room = f"memory ({self._memory_bytes >> 20} MiB) nor in {tempfile.gettempdir()}"
            raise DataError(
                f"{self._name}: image {self._count} fits neither in {room} ({error.strerror or error}); "
                "give a limit or a folder of files, or let TMPDIR name a folder with more room"
            ) from None


def _bytes(tensor: Tensor) -> memoryview:
    return memoryview(tensor.numpy().data).cast("B")
