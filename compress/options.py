"""The options of a run, all JSON-able."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from itertools import chain
from math import isfinite
from typing import Any, Literal

from cnncompress.decompositions import Decomposition, knows_option, make, options_of
from cnncompress.errors import OptionError, unknown_name
from cnncompress.ranks import RULES
from cnncompress.runtimes import check_runtime
from cnncompress.training.distill import Distillation
from cnncompress.training.recipe import Recipe
from cnncompress.training.recipes import recipe, usual_recipe

DEFAULT_METHOD = "gsvd3d"

AUTO = "auto"

AUTO_METHODS = ("gsvd3d", "gsvd", "gspatial", "gsvd-in", "gtucker")
"""What ``--method auto`` chooses from, layer by layer; all leave plain convolutions."""

BUDGETS = ("macs", "params", "latency")
DISTORTIONS = ("loss", "response", "energy")
KNAPSACK = "knapsack"


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
        speedup: original cost over compressed cost.
        budget: what the speedup refers to: ``"macs"`` or ``"params"`` of the convolutions, or
            ``"latency"``, measured time of the whole network.
        runtime: that the time is measured in, of `cnncompress.runtimes.RUNTIMES`.
        threads: compute threads of that runtime.
        batch: images at a time in that runtime.
        method: name of a decomposition, several with commas between them to choose from for each layer,
            ``"auto"`` among them for `AUTO_METHODS`; empty for `DEFAULT_METHOD`, or for none if there are
            ``methods``.
        method_options: for its fields.
        methods: decompositions of single layers, or their names, by patterns of layer names; other layers
            stay unless ``method`` is given too. Their options, seeds among them, are theirs.
        ranks: ``"knapsack"``, ``"greedy"`` (also ``"paper"``), ``"uniform"``, ``"joint"``, or ``"manual"`` to
            take them from a plan; empty for the knapsack where several methods or another budget than MACs
            are asked for, else greedy.
        distortion: by which the knapsack compares: ``"loss"`` of the network's output, ``"response"`` for
            the layers' relative errors, ``"energy"`` for the paper's product.
        probes: whether the distortions of each layer are calibrated by replacing it alone.
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
        repair: mend the compressed network in closed form, without labels; None does so before ``"all"`` is
            fine-tuned, where layers were solved on their weights alone or BatchNorms are left.
        finetune: ``"upper"`` trains the layers above the compressed ones, ``"all"`` these too; empty for
            nothing.
        recipe: of fine-tuning, a name of `cnncompress.training.recipes.RECIPES`; empty for the usual one of
            the layers that are trained.
        epochs: of fine-tuning, at most; None for the recipe's.
        learning_rate: of fine-tuning; None for the recipe's.
        distill: learn from the original network: ``"logits"``, ``"features"`` or ``"layers"``, see
            `cnncompress.training.distill.Distillation`; empty to learn from labels where there are some.
        measure: time both networks, and each replacement before it is solved.
        allow_slower: keep replacements that are slower than the layers they replace.
        compare: also run symmetric and asymmetric, linear and nonlinear solutions, each throughout the
            network, for the report.
        examples: show some of the images whose class changed in the report, with names and small pictures.
    """

    speedup: float = 4.0
    budget: str = "macs"
    runtime: str = "torch"
    threads: int = 1
    batch: int = 1
    method: str = ""
    method_options: Mapping[str, Any] = field(default_factory=dict)
    methods: Mapping[str, Decomposition] = field(default_factory=dict)
    ranks: str = ""
    distortion: str = "loss"
    probes: bool = True
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
    repair: bool | None = None
    finetune: str = ""
    recipe: str = ""
    epochs: int | None = None
    learning_rate: float | None = None
    distill: Literal["", "logits", "features", "layers"] = ""
    measure: bool = True
    allow_slower: bool = False
    compare: bool = False
    examples: bool = True

    def __post_init__(self) -> None:
        if not self.method and not self.methods:
            object.__setattr__(self, "method", DEFAULT_METHOD)
        described = {pattern: _described(pattern, method) for pattern, method in self.methods.items()}
        object.__setattr__(self, "methods", described)
        if self.method_options and not self.method:
            raise OptionError("options of a method were given, but no method; name it")
        if not (isfinite(self.speedup) and self.speedup > 1):
            raise OptionError(f"speedup must be greater than 1, got {self.speedup:g}; try 2x or 4x")
        self._check_rule()
        if (self.ranks == "manual") != (self.manual_plan is not None):
            raise OptionError("ranks 'manual' and a plan file belong together; give both or neither")
        if not 0 < self.holdout < 1:
            raise OptionError(f"holdout must lie between 0 and 1, got {self.holdout:g}")
        if self.finetune not in {"", "upper", "all"}:
            raise OptionError(f"finetune is upper, all or nothing, got {self.finetune!r}")
        if self.finetune:
            object.__setattr__(self, "recipe", self.recipe or usual_recipe(self.finetune))
            self.finetuning()  # says what is wrong with it
        if self.distill:
            Distillation(kind=self.distill)
        if self.distill and not self.finetune:
            raise OptionError("distill is a way to fine-tune; give finetune too, 'all' or 'upper'")
        if self.align != "auto" and self.align < 1:
            raise OptionError(f"align must be at least 1 or 'auto', got {self.align}")
        for name in ("images", "positions", "batch_size", "epochs", "threads", "batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(f"{name} must be at least 1, got {value}")

    def _check_rule(self) -> None:
        for name, known in (("budget", BUDGETS), ("distortion", DISTORTIONS)):
            if getattr(self, name) not in known:
                raise OptionError(unknown_name(name, getattr(self, name), known))
        chosen = {"": KNAPSACK if self._compares else "greedy", "paper": "greedy"}.get(self.ranks, self.ranks)
        rules = (KNAPSACK, *RULES, "paper", "manual")
        if chosen not in rules:
            raise OptionError(unknown_name("rank rule", chosen, rules))
        if self._compares and chosen not in {KNAPSACK, "manual"}:
            raise OptionError(
                f"rank rule {chosen} knows neither a choice of methods nor a budget of {self.budget}; "
                f"take {KNAPSACK}, or one method and the budget macs"
            )
        object.__setattr__(self, "ranks", chosen)
        if self.budget == "latency":
            if not self.measure:
                raise OptionError(
                    "the budget latency is a measured one; leave out --no-measure, or budget macs"
                )
            check_runtime(self.runtime)

    def finetuning(self) -> Recipe:
        """How to fine-tune.

        Returns:
            The recipe, seeded as the run.
        """
        return recipe(self.recipe, epochs=self.epochs, learning_rate=self.learning_rate, seed=self.seed)

    @property
    def _compares(self) -> bool:
        return self.budget != "macs" or len(self.method_names) > 1

    @property
    def method_names(self) -> tuple[str, ...]:
        """Names of the methods that layers without one of their own choose from."""
        named = [name for part in self.method.split(",") if (name := part.strip())]
        each = (AUTO_METHODS if name == AUTO else (name,) for name in named)
        return tuple(dict.fromkeys(chain.from_iterable(each)))

    def default_methods(self) -> tuple[Decomposition, ...]:
        """The methods that layers without one of their own choose from.

        Returns:
            The methods, seeded as the run, with those of the options that they know; empty if such layers
            stay.
        """
        names = self.method_names
        if len(names) == 1:
            seeded = {"seed": self.seed} if knows_option(names[0], "seed") else {}
            return (make(names[0], seeded | dict(self.method_options)),)
        for key in self.method_options:
            if names and not any(knows_option(name, key) for name in names):
                make(names[0], {key: self.method_options[key]})  # says which options there are
        given = {"seed": self.seed} | dict(self.method_options)
        return tuple(
            make(name, {key: value for key, value in given.items() if knows_option(name, key)})
            for name in names
        )

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
