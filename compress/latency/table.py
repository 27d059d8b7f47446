"""Times of layers and of the chains that may replace them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cnncompress.decompositions.chains import Step
from cnncompress.errors import OptionError
from cnncompress.inspect import LayerInfo
from cnncompress.latency.knots import Channels, interpolated, scaled
from cnncompress.latency.parts import Part, Placed, layer_part, placed_steps, step_part
from cnncompress.latency.setting import Setting


class LatencyTable:
    """Looks times up; between measured numbers of channels they are interpolated.

    Args:
        setting: the conditions.
        times: milliseconds of each part for a batch.
    """

    def __init__(self, setting: Setting, times: Mapping[Part, float]) -> None:
        self.setting = setting
        self._times = dict(times)
        self._families: dict[Part, dict[Channels, float]] = {}
        for part, ms in self._times.items():
            self._families.setdefault(part.family, {})[part.in_channels, part.out_channels] = ms
        self._layers: dict[LayerInfo, float] = {}
        self._steps: dict[tuple[LayerInfo, Placed], float] = {}

    def layer_ms(self, layer: LayerInfo) -> float:
        """The time of a layer as it is.

        Args:
            layer: one that was measured, or one of the same shape.

        Returns:
            Milliseconds for a batch.

        Raises:
            OptionError: no layer of its shape was measured.
        """
        if layer not in self._layers:
            part = layer_part(layer)
            if part not in self._times:
                raise OptionError(
                    f"{layer.name}: its time is not in the table of {self.setting.runtime}; "
                    "name the layer in a request when the table is made"
                )
            self._layers[layer] = self._times[part]
        return self._layers[layer]

    def chain_ms(self, layer: LayerInfo, steps: Sequence[Step]) -> float:
        """The time of a replacement: the sum of its steps' times.

        What was never asked for when the table was made is estimated in proportion to multiply-accumulates:
        numbers of channels beyond the measured ones, and geometries that are missing, from the layer's time.
        A module that is missing counts nothing.

        Args:
            layer: the layer that is replaced; a layer of another shape is an `OptionError`.
            steps: of the chain.

        Returns:
            Milliseconds for a batch.
        """
        return sum(self._step_ms(layer, placed) for placed in placed_steps(layer, steps))

    def _step_ms(self, layer: LayerInfo, placed: Placed) -> float:
        key = (layer, placed)
        if key not in self._steps:
            self._steps[key] = self._part_ms(layer, step_part(layer, *placed))
        return self._steps[key]

    def _part_ms(self, layer: LayerInfo, part: Part) -> float:
        known = self._families.get(part.family)
        if part.kind == "module":
            return self._times.get(part, 0.0)
        if known is None:
            return self.layer_ms(layer) * part.macs / max(layer.macs, 1)
        at = (part.in_channels, part.out_channels)
        between = interpolated(known, at)
        return scaled(known, at) if between is None else between

    def rows(self) -> Iterator[tuple[Part, float]]:
        """All that was measured.

        Yields:
            Parts and their milliseconds.
        """
        yield from self._times.items()

    def to_json(self) -> list[dict[str, Any]]:
        """All that was measured, as JSON-able values.

        Returns:
            The fields of each part, and ``ms``.
        """
        return [{**part.to_json(), "ms": ms} for part, ms in self.rows()]
