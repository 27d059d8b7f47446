"""Two networks walked layer by layer, side by side."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from torch import Tensor, nn

from cnncompress.image_source import ImageSource
from cnncompress.prefix import Prefix


@dataclass(frozen=True)
class Walked:
    """A network that is walked.

    Attributes:
        network: the walker's own; it may be replaced in place, layer by layer, between two stops.
        stand_ins: for each stop that torch's tracer would look into a module that it doesn't; the walk
            stops there and runs what is in the network.
    """

    network: nn.Module
    stand_ins: Mapping[str, nn.Module] = field(default_factory=dict)

    def prefix(self, source: ImageSource, *, batch_size: int, memory: int) -> Prefix:
        """What runs the network up to its stops.

        Args:
            source: the images.
            batch_size: images run at a time.
            memory: bytes that kept values may take.

        Returns:
            A prefix that stops at the stand-ins' places too.
        """
        with _swapped(self.network, self.stand_ins):
            return Prefix(self.network, source, batch_size=batch_size, memory=memory)


class Walk:
    """What the same layer reads in two networks, for the same images.

    Args:
        original: the network as it was.
        compressed: the network that is repaired.
        source: the images.
        batch_size: images run at a time.
        memory: bytes that kept values of both networks may take together.
    """

    def __init__(
        self, original: Walked, compressed: Walked, source: ImageSource, *, batch_size: int, memory: int
    ) -> None:
        self._original, self._compressed = (
            walked.prefix(source, batch_size=batch_size, memory=memory // 2)
            for walked in (original, compressed)
        )

    def inputs_of(self, name: str) -> Iterator[tuple[Sequence[int], Tensor, Tensor]]:
        """What a layer reads.

        Layers must be asked for in the order in which they run, each one once, to its end.

        Args:
            name: of the layer.

        Yields:
            Positions of a batch's images in the list of all, the layer's input in the original and in the
            compressed network.
        """
        pairs = zip(self._original.inputs_of(name), self._compressed.inputs_of(name), strict=True)
        for (indices, before), (_, after) in pairs:
            yield indices, before, after


@contextmanager
def _swapped(network: nn.Module, stand_ins: Mapping[str, nn.Module]) -> Iterator[None]:
    with ExitStack() as undo:
        for name, module in stand_ins.items():
            undo.callback(network.set_submodule, name, network.get_submodule(name))
            network.set_submodule(name, module)
        yield
