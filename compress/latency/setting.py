"""What times are asked for, and under which conditions."""

from dataclasses import dataclass

from cnncompress.decompositions.chains import Step
from cnncompress.errors import OptionError
from cnncompress.inspect import LayerInfo


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The conditions that all times of a table share.

    Attributes:
        runtime: of `cnncompress.runtimes.RUNTIMES`.
        threads: compute threads on the CPU.
        batch: images at a time.
        device: where torch runs, for example ``"cpu"`` or ``"cuda:0"``; onnxruntime and OpenVINO run on the
            CPU whatever it says.
        channels_last: whether torch keeps images and weights in that memory format.
        dtype: of torch's numbers; onnxruntime and OpenVINO compute in float32.
    """

    runtime: str = "torch"
    threads: int = 1
    batch: int = 1
    device: str = "cpu"
    channels_last: bool = True
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name, value in (("threads", self.threads), ("batch", self.batch)):
            if value < 1:
                raise OptionError(f"{name} must be at least 1, got {value}")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What may stand in one layer's place.

    Attributes:
        layer: the layer; its own time is measured too.
        chains: replacements, hundreds of them for a method with two ranks.
    """

    layer: LayerInfo
    chains: tuple[tuple[Step, ...], ...] = ()
