"""What a replaced layer should have answered, beside what its last factor read, at sampled positions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cnncompress.distributed import World
from cnncompress.inspect import LayerInfo
from cnncompress.repair.factor import LastFactor, run
from cnncompress.repair.walk import Walk
from cnncompress.sampling import Sampler, enough_positions
from cnncompress.solvers.joint_moments import JointMoments


@dataclass(frozen=True)
class Seen:
    """Samples of some images; channels in the order of the last factor's outputs.

    Attributes:
        target: the original network's response, shape (channels, samples).
        added: what is added to the last factor's output, shape (channels, samples).
        given: output of the last factor, shape (channels, samples).
        read: patches of its input by group, shape (groups, patch entries, samples); None if its weights
            can't be refitted.
    """

    target: Tensor
    added: Tensor
    given: Tensor
    read: Tensor | None

    def of(self, wanted: Tensor) -> "Seen":
        """Some of the samples.

        Args:
            wanted: truth values, shape (samples,).

        Returns:
            Those samples.
        """
        here = wanted.to(self.target.device)
        read = None if self.read is None else self.read[:, :, here]
        return Seen(self.target[:, here], self.added[:, here], self.given[:, here], read)


@dataclass(frozen=True)
class Gathered:
    """What one layer's repair needs to know.

    Attributes:
        count: samples that are fitted, of all processes.
        shortfall: mean over them of what the last factor's output lacks, shape (channels,), float64.
        moments: of what it reads with what it should give, for each of its groups; none if its weights can't
            be refitted. Of all processes.
        held_out: samples that judge, of this process, a part for each batch.
    """

    count: int
    shortfall: Tensor
    moments: tuple[JointMoments, ...]
    held_out: tuple[Seen, ...]


@dataclass(frozen=True, kw_only=True)
class Judges:
    """How images are split and sampled.

    Attributes:
        held_out: positions of the images that judge.
        fitted: how many are fitted.
        seed: draws the places that are sampled.
    """

    held_out: frozenset[int]
    fitted: int
    seed: int


def gather(
    layer: LayerInfo,
    original: nn.Module,
    replacement: nn.Module,
    factor: LastFactor,
    walk: Walk,
    judges: Judges,
    world: World,
) -> Gathered:
    """Run a layer and its replacement on what each of them reads in its own network.

    Args:
        layer: the layer.
        original: the layer in the original network.
        replacement: the layer's in the compressed network.
        factor: last of the replacement.
        walk: has not yet been asked for the layer.
        judges: how images are split and sampled.
        world: the processes.

    Returns:
        Sums over the fitted images, samples of the others.
    """
    sums, held_out = _Sums(factor), []
    for indices, seen in _samples(layer, original, replacement, factor, walk, judges):
        judging = torch.tensor([index in judges.held_out for index in indices])
        each = judging.repeat_interleave(seen.target.shape[1] // len(indices))
        sums.add(seen.of(~each))
        if bool(each.any()):
            held_out.append(seen.of(each))
    return sums.gathered(tuple(held_out), world)


def _samples(
    layer: LayerInfo,
    original: nn.Module,
    replacement: nn.Module,
    factor: LastFactor,
    walk: Walk,
    judges: Judges,
) -> Iterator[tuple[Sequence[int], Seen]]:
    count = max(
        enough_positions(factor.layer or layer, images=judges.fitted, samples_per_entry=20),
        enough_positions(layer, images=len(judges.held_out)),
    )
    whole = Sampler(layer, count, judges.seed)
    read_at = Sampler(factor.layer, count, judges.seed) if factor.layer is not None else None
    axis, place = (-1 if layer.kind == "linear" else 1), torch.argsort(factor.order)
    for indices, before, after in walk.inputs_of(layer.name):
        found = run(replacement, factor, after)
        with torch.inference_mode():
            target = whole.outputs(original(before), indices)
            added = whole.outputs(found.response - found.given.index_select(axis, factor.order), indices)
            given = whole.outputs(found.given, indices)
            patches = None if read_at is None else read_at.patches(found.read, indices)
        if patches is not None and factor.layer is not None:
            patches = patches.reshape(factor.layer.groups, -1, patches.shape[1])
        yield indices, Seen(target[place], added[place], given, patches)


class _Sums:
    """Adds up float64 sums of the samples of this process, which may have none."""

    def __init__(self, factor: LastFactor) -> None:
        bias = factor.module.bias
        assert isinstance(bias, Tensor)
        self._missing = torch.zeros(len(bias), dtype=torch.float64, device=bias.device)
        self._count = 0
        layer = factor.layer
        self._moments = [] if layer is None else [_nothing(layer, bias)] * layer.groups

    def add(self, seen: Seen) -> None:
        """Add those of a batch."""
        self._count += seen.target.shape[1]
        wanted = seen.target.double() - seen.added.double()
        self._missing = self._missing + (wanted - seen.given.double()).sum(1)
        if seen.read is not None:
            targets = wanted.reshape(len(seen.read), -1, wanted.shape[1])
            pairs = zip(self._moments, seen.read, targets, strict=True)
            self._moments = [sums + JointMoments.of(read.double(), target) for sums, read, target in pairs]

    def gathered(self, held_out: tuple[Seen, ...], world: World) -> Gathered:
        """The sums of all processes."""
        count = int(world.sum(torch.tensor([self._count], device=self._missing.device)))
        return Gathered(
            count,
            world.sum(self._missing) / max(count, 1),
            tuple(JointMoments(count, *_fields(sums.map(world.sum))) for sums in self._moments),
            held_out,
        )


def _nothing(layer: LayerInfo, like: Tensor) -> JointMoments:
    """Sums over no samples, for one group."""
    inputs, outputs = layer.patch_size, layer.out_channels // layer.groups
    shapes = ((inputs,), (outputs,), (inputs, inputs), (outputs, inputs), (outputs,))
    return JointMoments(0, *(torch.zeros(shape, dtype=torch.float64, device=like.device) for shape in shapes))


def _fields(sums: JointMoments) -> tuple[Tensor, ...]:
    return (
        sums.regressor_total,
        sums.target_total,
        sums.regressor_outer,
        sums.cross_outer,
        sums.target_square,
    )
