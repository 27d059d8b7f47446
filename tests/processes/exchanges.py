"""Every exchange between processes, checked in each of them."""

import torch

from cnncompress import World, joined
from cnncompress.distributed import Shard, require_same
from cnncompress.distributed.sums import add_up
from cnncompress.errors import DataError, RankError
from cnncompress.image_source import Batch
from cnncompress.solvers.moments import Moments


class Numbers:
    """Eleven images, of which the sixth is bad; who finds out is told."""

    has_labels, description, hash = False, "numbers", "0"

    def __init__(self) -> None:
        self.keys = [str(number) for number in range(11)]
        self.bad: tuple = ()

    def __len__(self) -> int:
        return 11

    def note_bad(self, found: list) -> None:
        self.bad = tuple(found)

    def batches(self, batch_size: int, order: list[int]):
        for part in torch.tensor([number for number in order if number != 5]).split(batch_size):
            if any(number == 5 for number in order):
                self.bad = (("5", "broken"),)
            yield Batch(part[:, None, None, None].double(), part, None)


def other_images(world: World) -> None:
    require_same([Numbers(), None], world)
    other = Numbers()
    other.hash = str(world.rank)
    for different in ([Numbers(), other], [other if world.rank else None]):
        try:
            require_same(different, world)
        except DataError as error:
            assert "process 1 was given other images" in str(error)
        else:
            raise AssertionError("other images in one process are an error in all")


def main(world: World) -> None:
    own = world.rank
    assert world.gather(own) == list(range(world.size))
    assert world.share(own, of=1) == 1
    assert world.sum(torch.tensor([1.0, own])).tolist() == [world.size, sum(range(world.size))]
    total = world.sum_each([torch.ones(2)] if own == 1 else None, torch.device("cpu"))
    assert total is not None
    assert total[0].tolist() == [1, 1]
    assert world.sum_each(None, torch.device("cpu")) is None
    assert world.each(range(5), lambda item: (item, own)) == [(i, i % world.size) for i in range(5)]
    assert world.each([], lambda item: item) == []
    assert world.first(lambda: own) == 0

    def fail(item: int) -> int:
        if item == 3:
            raise RankError("conv", item, 2)
        return item

    try:
        world.each(range(6), fail)
    except RankError as error:
        assert str(error) == "conv: rank must be between 1 and 2, got 3"
    else:
        raise AssertionError("an error of one process is raised in all")

    # columns come home in the order of the images, whoever had them; one process has none
    count = 0 if own == world.size - 1 else own + 2
    order = torch.arange(count) * world.size + own
    part = order[None].double().expand(3, -1) if count else torch.empty(0, 0)
    whole = world.columns(part, order)
    everywhere = world.share_columns(part > 2, order)
    wanted = sorted(number for one in world.gather(order.tolist()) for number in one)
    assert whole.shape[1] == (len(wanted) if own == 0 else 0)
    assert own or whole[2].tolist() == wanted
    assert everywhere.dtype is torch.bool
    assert everywhere[0].tolist() == [number > 2 for number in wanted]

    samples = torch.randn(4, 37, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mine = samples[:, own :: world.size] if own else samples[:, :: world.size]
    moments = add_up(Moments.of(mine), Moments, world, torch.device("cpu"))
    assert moments is not None
    assert moments.count == 37
    torch.testing.assert_close(moments.covariance, Moments.of(samples).covariance, rtol=1e-12, atol=1e-12)

    # every image is read once, and all processes learn which one is bad
    source = Numbers()
    shard = Shard(source, world)
    for _ in range(2):
        read = [number for batch in shard.batches(2) for number in batch.indices.tolist()]
        assert sorted(n for one in world.gather(read) for n in one) == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]
    assert shard.bad == ()
    keys = [image[0] for image in source.bad]
    assert sum(len(one) for one in world.gather(keys)) == 1
    assert len(shard) == 11

    with world.first_goes():
        pass
    try:
        world.first(lambda: (_ for _ in ()).throw(DataError("gone")))
    except DataError as error:
        assert str(error) == "gone"


if __name__ == "__main__":
    with joined() as world:
        main(world)
        other_images(world)
        if world.is_first:
            print("all exchanges agree")
