"""The options of a run, all JSON-able."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from math import isfinite
from typing import Any, Literal

from cnncompress.decompositions import Decomposition, knows_option, make, options_of
from cnncompress.errors import OptionError, unknown_name
from cnncompress.ranks import RULES

DEFAULT_METHOD = "gsvd3d"


def _described(pattern: str, method: Any) -> Decomposition:
    if isinstance(method, str):
        return make(method)
    if isinstance(method, Decomposition) and not isinstance(method, type):
        return method
    raise OptionError(
        f"methods[{pattern!r}] is a decomposition, as cnncompress.SVDIn(), or the name of one; got {method!r}"
    )


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the user may choose.

    Attributes:
        speedup: original cost over compressed cost, in multiply-accumulates of the convolutions.
        method: name of a decomposition; empty for `DEFAULT_METHOD`, or for none if there are ``methods``.
        method_options: for its fields.
        methods: decompositions of single layers, or their names, by patterns of layer names; other layers
            stay unless ``method`` is given too. Their options, seeds among them, are theirs.
        ranks: ``"greedy"``, ``"uniform"``, ``"joint"``, or ``"manual"`` to take them from a plan.
        manual_plan: path of that plan.json.
        align: ranks are multiples of this; ``"auto"`` lets the device decide.
        skip: patterns of layer names that stay as they are.
        only: patterns of the layer names that may change; all if empty.
        layer_ranks: ranks of single layers.
        include_linear: count and compress linear layers too.
        images: calibration images, at most.
        positions: sampled positions an image and layer; None takes as many as each layer needs.
        holdout: share of the calibration images that judge the solutions.
        batch_size: images run at a time.
        memory: bytes that cached activations may take.
        solver: ``"auto"``, ``"numpy"`` or ``"cupy"``.
        device: torch device that runs the network.
        seed: of everything that is drawn.
        finetune: ``"upper"`` trains the layers above the compressed ones, ``"all"`` these too; empty for
            nothing.
        epochs: of fine-tuning, at most.
        learning_rate: of fine-tuning.
        measure: time both networks, and each replacement before it is solved.
        allow_slower: keep replacements that are slower than the layers they replace.
        compare: also run symmetric and asymmetric, linear and nonlinear solutions, each throughout the
            network, for the report.
    """

    speedup: float = 4.0
    method: str = ""
    method_options: Mapping[str, Any] = field(default_factory=dict)
    methods: Mapping[str, Decomposition] = field(default_factory=dict)
    ranks: str = "greedy"
    manual_plan: str | None = None
    align: int | Literal["auto"] = "auto"
    skip: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    layer_ranks: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    include_linear: bool = False
    images: int = 300
    positions: int | None = None
    holdout: float = 0.2
    batch_size: int = 10
    memory: int = 1_000_000_000
    solver: str = "auto"
    device: str = "cpu"
    seed: int = 0
    finetune: str = ""
    epochs: int = 5
    learning_rate: float = 1e-3
    measure: bool = True
    allow_slower: bool = False
    compare: bool = False

    def __post_init__(self) -> None:
        if not self.method and not self.methods:
            object.__setattr__(self, "method", DEFAULT_METHOD)
        described = {pattern: _described(pattern, method) for pattern, method in self.methods.items()}
        object.__setattr__(self, "methods", described)
        if self.method_options and not self.method:
            raise OptionError("options of a method were given, but no method; name it")
        if not (isfinite(self.speedup) and self.speedup > 1):
            raise OptionError(f"speedup must be greater than 1, got {self.speedup:g}; try 2x or 4x")
        if self.ranks not in (*RULES, "manual"):
            raise OptionError(unknown_name("rank rule", self.ranks, (*RULES, "manual")))
        if (self.ranks == "manual") != (self.manual_plan is not None):
            raise OptionError("ranks 'manual' and a plan file belong together; give both or neither")
        if not 0 < self.holdout < 1:
            raise OptionError(f"holdout must lie between 0 and 1, got {self.holdout:g}")
        if self.finetune not in {"", "upper", "all"}:
            raise OptionError(f"finetune is upper, all or nothing, got {self.finetune!r}")
        if not (isfinite(self.learning_rate) and self.learning_rate > 0):
            raise OptionError(f"learning_rate must be above 0, got {self.learning_rate:g}; try 0.001")
        if self.align != "auto" and self.align < 1:
            raise OptionError(f"align must be at least 1 or 'auto', got {self.align}")
        for name in ("images", "positions", "batch_size", "epochs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(f"{name} must be at least 1, got {value}")

    def default_method(self) -> Decomposition | None:
        """The method of all layers that have none of their own.

        Returns:
            The method, seeded as the run; None if such layers stay.
        """
        if not self.method:
            return None
        seeded = {"seed": self.seed} if knows_option(self.method, "seed") else {}
        return make(self.method, seeded | dict(self.method_options))

    def step(self, channels: int) -> int:
        """What the ranks of a layer are multiples of.

        Vector units work on 16 float32 at a time, and on VGG-16 at 4x, timed once on a busy CPU, such ranks
        ran a tenth faster than unaligned ones in torch and a third in onnxruntime. Where a layer has few
        channels, steps of 16 would be too coarse.

        Args:
            channels: the layer's outputs.

        Returns:
            1, 2, 4, 8 or 16, or what the user chose.
        """
        if self.align != "auto":
            return self.align
        return max(step for step in (1, 2, 4, 8, 16) if step == 1 or 4 * step <= channels)

    def to_json(self) -> dict[str, Any]:
        """The resolved options.

        Returns:
            JSON-able values.
        """
        plain = {known.name: getattr(self, known.name) for known in fields(self)}
        methods = {
            pattern: {"method": method.name, "options": options_of(method)}
            for pattern, method in self.methods.items()
        }
        return plain | {"methods": methods}
