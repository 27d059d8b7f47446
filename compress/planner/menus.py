"""What each layer may become, with what it loses and costs."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import numpy as np

from cnncompress.decompositions import Decomposition, Ranks
from cnncompress.inspect import LayerInfo
from cnncompress.solvers.knapsack import Choices


@dataclass(frozen=True)
class Entry:
    """One thing that a layer may become.

    Attributes:
        method: replaces it; None if it stays.
        ranks: of the replacement; empty if it stays.
        loss: that the network suffers from it.
        macs: multiply-accumulates.
        params: weights and biases.
    """

    method: Decomposition | None
    ranks: Ranks
    loss: float
    macs: int
    params: int = 0

    @classmethod
    def staying(cls, layer: LayerInfo) -> "Entry":
        """A layer as it is.

        Args:
            layer: the layer.

        Returns:
            Its entry, without a loss.
        """
        return cls(None, (), 0.0, layer.macs, layer.params)

    @classmethod
    def of(cls, layer: LayerInfo, method: Decomposition, ranks: Ranks, loss: float) -> "Entry":
        """A layer's replacement.

        Args:
            layer: the layer.
            method: replaces it.
            ranks: of the replacement.
            loss: that the network suffers from it.

        Returns:
            Its entry with what it costs.
        """
        return cls(method, ranks, loss, method.macs(layer, ranks), method.params(layer, ranks))

    @property
    def label(self) -> str:
        """The method's name, or ``"none"``."""
        return "none" if self.method is None else self.method.name


@dataclass(frozen=True)
class Probe:
    """A layer replaced alone in the original network.

    Attributes:
        method: name of the method.
        ranks: of the replacement.
        predicted: loss that the metric had foretold.
        real: loss of the network's output on held-out images.
    """

    method: str
    ranks: Ranks
    predicted: float
    real: float


@dataclass(frozen=True)
class LayerMenu:
    """Everything that a layer may become.

    Attributes:
        layer: the layer.
        entries: the layer as it is among them, unless the user settled the ranks.
        weight: by which the losses were multiplied after the probe and for what later layers mend.
        probe: of the layer, if one was made.
        settled: whether the user chose the only entry.
    """

    layer: LayerInfo
    entries: tuple[Entry, ...]
    weight: float = 1.0
    probe: Probe | None = None
    settled: bool = False

    def calibrated(self, probe: Probe, limits: tuple[float, float]) -> "LayerMenu":
        """The menu with its losses scaled so that the probe's comes true.

        Args:
            probe: of the layer.
            limits: least and greatest factor; a probe is a sample too.

        Returns:
            The menu.
        """
        ratio = probe.real / probe.predicted if probe.predicted > 0 and np.isfinite(probe.real) else 1.0
        weight = float(np.clip(ratio, *limits))
        entries = tuple(replace(entry, loss=entry.loss * weight) for entry in self.entries)
        return replace(self, entries=entries, weight=weight, probe=probe)

    def without(self, unwanted: Callable[[Entry], bool]) -> "LayerMenu":
        """The menu without some entries.

        Args:
            unwanted: tells them; the layer as it is always stays.

        Returns:
            The menu.
        """
        kept = tuple(entry for entry in self.entries if entry.method is None or not unwanted(entry))
        return replace(self, entries=kept)

    def among(self, names: Collection[str]) -> "LayerMenu":
        """The menu of fewer methods.

        Args:
            names: of the methods; a layer that none of them fits keeps its menu.

        Returns:
            The menu.
        """
        if not any(entry.label in names for entry in self.entries):
            return self
        return self.without(lambda entry: entry.label not in names)

    def choices(self, cost: Callable[[LayerInfo, Entry], float]) -> Choices:
        """The menu as the solver reads it.

        Args:
            cost: of an entry.

        Returns:
            Costs and losses.
        """
        return Choices(
            np.array([cost(self.layer, entry) for entry in self.entries], dtype=np.float64),
            np.array([entry.loss for entry in self.entries], dtype=np.float64),
        )
