"""A few of every layer's inputs and responses in the original network, kept from the calibration pass."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from cnncompress.arrays import to_array
from cnncompress.distributed.world import World
from cnncompress.inspect import LayerInfo
from cnncompress.responses import Samples
from cnncompress.sampling import Sampler

PER_CHANNEL, FEWEST, MOST = 4, 600, 2000
"""Samples of a layer: enough to tell replacements from each other, too few to solve for one."""

_BYTES = 4


class PatchSamples:
    """Watches the original network and keeps patches with responses at few positions.

    Args:
        layers: to watch.
        images: how many will be read.
        seed: of the positions.
        memory: bytes that all samples together may take.
    """

    def __init__(self, layers: Iterable[LayerInfo], *, images: int, seed: int, memory: int) -> None:
        watched = list(layers)
        wanted = {layer.name: min(max(PER_CHANNEL * layer.out_channels, FEWEST), MOST) for layer in watched}
        size = sum(_BYTES * wanted[layer.name] * (layer.patch_size + layer.out_channels) for layer in watched)
        share = min(1.0, memory / max(size, 1))
        self._samplers = {
            layer.name: Sampler(layer, max(1, round(share * wanted[layer.name] / images)), seed)
            for layer in watched
        }
        self._kept: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in self._samplers}
        self._images: dict[str, list[int]] = {name: [] for name in self._samplers}
        self._indices: Sequence[int] = ()

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[Callable[[Sequence[int]], None]]:
        """Hooks on all layers, removed on leaving.

        Args:
            model: the original network.

        Yields:
            A function to call before each batch with the positions of its images in the list of all.
        """
        handles = [
            model.get_submodule(name).register_forward_hook(self._hook(name)) for name in self._samplers
        ]
        try:
            yield self._begin
        finally:
            for handle in handles:
                handle.remove()

    def _begin(self, indices: Sequence[int]) -> None:
        self._indices = indices

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        sampler = self._samplers[name]

        def collect(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            del module
            answers = sampler.outputs(output, self._indices)
            patches = sampler.patches(inputs[0], self._indices)
            self._kept[name].append((answers, patches))
            count = answers.shape[1] // len(self._indices)
            self._images[name] += [image for image in self._indices for _ in range(count)]

        return collect

    def share(self, world: World, device: torch.device) -> None:
        """Give all processes the samples of all, images in the order of the list.

        Args:
            world: the processes.
            device: of the network.
        """
        if world.is_alone:
            return
        for name, sampler in self._samplers.items():
            layer = sampler.layer
            parts = self._kept[name] or [
                (torch.empty(layer.out_channels, 0), torch.empty(layer.patch_size, 0))
            ]
            order = torch.tensor(self._images[name], dtype=torch.int64)
            own = [torch.cat(part, dim=1).to(device) for part in zip(*parts, strict=True)]
            answers, patches = (world.share_columns(part, order) for part in own)
            self._kept[name] = [(answers, patches)]
            self._images[name] = sorted(image for part in world.gather(self._images[name]) for image in part)

    def of(self, name: str, judges: Collection[int]) -> tuple[Samples, Samples]:
        """The samples of one layer.

        Args:
            name: of the layer.
            judges: positions of the images that judge and are not fitted.

        Returns:
            Those to fit and those that judge, as NumPy arrays.
        """
        answers, patches = (torch.cat(parts, dim=1) for parts in zip(*self._kept[name], strict=True))
        judging = torch.tensor([image in judges for image in self._images[name]])
        there = judging.to(answers.device)
        return tuple(  # type: ignore[return-value]  # two of them
            Samples(to_array(answers[:, which], "numpy"), to_array(patches[:, which], "numpy"))
            for which in (~there, there)
        )
