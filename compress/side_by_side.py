"""The original beside the networks that a session makes, on the images that judge."""

from typing import Any

from torch import nn

from cnncompress.changed import changed_answers
from cnncompress.distributed import World
from cnncompress.evaluate import Comparison, OriginalOutputs, compare
from cnncompress.events import Reporter
from cnncompress.gather import held_out_images
from cnncompress.image_source import ImageSource
from cnncompress.network import Network
from cnncompress.options import Options


class SideBySide:
    """Compares on the evaluation images, or on those calibration images that were not fitted.

    Args:
        original: the network before, BatchNorm folded.
        network: where it came from.
        calibration: images that were calibrated on.
        evaluation: images with labels, if any.
        memory: bytes that the original's answers may take.
        world: the processes that share the work.
    """

    def __init__(
        self,
        original: nn.Module,
        network: Network,
        calibration: ImageSource,
        evaluation: ImageSource | None,
        *,
        memory: int,
        world: World,
    ) -> None:
        self._answers = OriginalOutputs(original, network.features, memory=memory)
        self._network, self._world = network, world
        self._calibration, self._evaluation = calibration, evaluation

    def compare(self, compressed: nn.Module, options: Options, report: Reporter) -> Comparison:
        """Run both networks.

        Args:
            compressed: in evaluation mode.
            options: of the run.
            report: receives the progress.

        Returns:
            The comparison, the same in all processes.
        """
        only = None
        if self._evaluation is None:
            unreadable = {bad.key for bad in self._calibration.bad}
            readable = [i for i, key in enumerate(self._calibration.keys) if key not in unreadable]
            only = held_out_images(readable, share=options.holdout, seed=options.seed)
        return compare(
            self._answers,
            compressed,
            self._judging,
            features=self._network.features,
            batch_size=options.batch_size,
            only=only,
            world=self._world,
            report=report,
        )

    def changed(self, comparison: Comparison, *, examples: bool) -> dict[str, Any] | None:
        """What is answered differently.

        Args:
            comparison: that `compare` returned.
            examples: whether some of the images are shown.

        Returns:
            What `changed_answers` returns; the first process reads the examples.
        """
        return self._world.first(
            lambda: changed_answers(comparison, self._judging, self._network, examples=examples)
        )

    @property
    def _judging(self) -> ImageSource:
        return self._evaluation if self._evaluation is not None else self._calibration
