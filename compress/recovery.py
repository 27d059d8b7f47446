"""After the replacement: repair in closed form, then fine-tuning, as far as the options ask for them."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from cnncompress.decompositions import make
from cnncompress.distributed import World, sharded
from cnncompress.events import Reporter
from cnncompress.finetuning.choice import trained_layers
from cnncompress.finetuning.finetune import Finetuned, finetune_layers
from cnncompress.image_source import ImageSource
from cnncompress.inspect import LayerInfo
from cnncompress.options import Options
from cnncompress.plan import LayerPlan
from cnncompress.repair import Repaired, repair_network
from cnncompress.training.distill import Distillation
from cnncompress.training.parts import in_parts


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """What is wanted after the replacement, and of whom.

    Attributes:
        original: the network, BatchNorm folded.
        layers: of the network.
        plans: what happened to each layer.
        options: of the run.
        world: the processes that share the work.
        report: receives the progress.
    """

    original: nn.Module
    layers: Sequence[LayerInfo]
    plans: Sequence[LayerPlan]
    options: Options
    world: World
    report: Reporter

    def repaired(self, compressed: nn.Module, source: ImageSource) -> tuple[nn.Module, Repaired | None]:
        """Mend what was replaced in closed form, if that is wanted.

        Args:
            compressed: left as it was, its channels in the original's order.
            source: images, the same in all processes.

        Returns:
            The network, and what was done.
        """
        options = self.options
        if not (self._promising(compressed) if options.repair is None else options.repair):
            return compressed, None
        return repair_network(
            self.original,
            compressed,
            self.layers,
            self._replaced,
            sharded(source, self.world),
            holdout=options.holdout,
            seed=options.seed,
            batch_size=options.batch_size,
            memory=options.memory,
            world=self.world,
            report=self.report,
        )

    def finetuned(
        self, compressed: nn.Module, source: ImageSource, input_size: tuple[int, int, int]
    ) -> tuple[nn.Module, Finetuned | None]:
        """Train the layers above the compressed ones or all of them, if the user wants it.

        Args:
            compressed: left as it was.
            source: images, the same in all processes.
            input_size: channels, height and width.

        Returns:
            The network, and what was done.
        """
        options = self.options
        if not options.finetune:
            return compressed, None
        return finetune_layers(
            self.original,
            compressed,
            chosen=trained_layers(options.finetune, self._replaced, self.layers),
            source=source,
            recipe=in_parts(options.finetuning(), input_size),
            holdout=options.holdout,
            distill=Distillation(kind=options.distill) if options.distill else None,
            replaced=self._replaced,
            world=self.world,
            report=self.report,
        )

    def _promising(self, compressed: nn.Module) -> bool:
        """Whether a repair before fine-tuning is worth its time: layers solved on responses gain nothing."""
        if self.options.finetune != "all":
            return False
        on_responses = all(
            make(plan.method, plan.options).needs_data for plan in self.plans if plan.method != "none"
        )
        return not on_responses or any(isinstance(part, nn.BatchNorm2d) for part in compressed.modules())

    @property
    def _replaced(self) -> list[str]:
        return [plan.name for plan in self.plans if plan.method != "none"]
