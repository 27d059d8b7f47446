"""The part of an image source that one process reads."""

from collections.abc import Iterable, Iterator, Sequence

from cnncompress.distributed.world import World
from cnncompress.errors import DataError
from cnncompress.image_source import BadImage, Batch, FindsBad, ImageSource, View, check_batch_size


class Shard(View):
    """Every n-th batch of a source, of n processes; as a list it is still the whole source.

    Whole batches rather than single images are dealt out, so that each process computes to the bit what one
    process alone would have computed on them. Nothing is padded or left out.

    Args:
        source: the same in all processes.
        world: the processes.
    """

    def __init__(self, source: ImageSource, world: World) -> None:
        super().__init__(source)
        self._world = world
        self._bad = source.bad

    @property
    def bad(self) -> tuple[BadImage, ...]:
        """Images that some process could not read; `settle` brings it up to date."""
        return self._bad

    def batches(self, batch_size: int, order: Sequence[int] | None = None) -> Iterator[Batch]:
        """Read this process's images.

        Args:
            batch_size: images in a batch; the last one may hold fewer.
            order: positions in the list; None for all in that of the list.

        Yields:
            Batches of the readable images; none where there are fewer batches than processes.
        """
        check_batch_size(batch_size)
        wanted = range(len(self._source)) if order is None else order
        step = batch_size * self._world.size
        starts = range(batch_size * self._world.rank, len(wanted), step)
        mine = [position for start in starts for position in wanted[start : start + batch_size]]
        if mine:
            yield from self._source.batches(batch_size, mine)

    def settle(self) -> None:
        """Tell all processes after a pass which images could not be read; too many of them are an error."""
        found = {bad.key: bad for part in self._world.gather(self._source.bad) for bad in part}
        if found and isinstance(self._source, FindsBad):
            self._source.note_bad(list(found.values()))
            self._bad = self._source.bad
        else:
            self._bad = tuple(found.values())


def sharded(source: ImageSource, world: World) -> ImageSource:
    """Deal a source out to the processes.

    Args:
        source: the same in all processes.
        world: the processes.

    Returns:
        A `Shard`, or the source itself where there is one process.
    """
    return source if world.is_alone else Shard(source, world)


def require_same(sources: Iterable[ImageSource | None], world: World) -> None:
    """Refuse images that aren't the same in all processes: each would read its part of another list.

    Args:
        sources: in the same order in all processes; None counts as a source without images.
        world: the processes.

    Raises:
        DataError: a process has other images, in all processes.
    """
    if world.is_alone:
        return
    own = list(sources)
    hashes = world.gather([None if source is None else source.hash for source in own])
    for place, source in enumerate(own):
        others = [rank for rank, found in enumerate(hashes) if found[place] != hashes[0][place]]
        if others:
            shown = "images" if source is None else source.description
            raise DataError(
                f"{shown}: process {others[0]} was given other images than the first one; all processes must "
                "get the same ones in the same order, so seed what is random and copy folders whole"
            )


def settle(source: ImageSource) -> None:
    """Call `Shard.settle` after a pass, if the source is dealt out.

    Args:
        source: that was read.
    """
    if isinstance(source, Shard):
        source.settle()
