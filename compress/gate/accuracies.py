"""The networks run over the images."""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cnncompress.answers import answers_of
from cnncompress.errors import DataError
from cnncompress.events import Reporter
from cnncompress.gate.baseline import Baseline
from cnncompress.gate.outcomes import Outcomes
from cnncompress.gate.paired_accuracy import paired_accuracy
from cnncompress.gate.reference import Reference, original
from cnncompress.image_source import ImageSource
from cnncompress.originals import weights_described
from cnncompress.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Accuracies:
    """What was found on the images.

    Attributes:
        paired: what `paired_accuracy` returns.
        against: what the network is compared with, one line.
        doubts: what makes the accuracies less worth, one line each.
        baseline: for `Baseline.write`; None where the original wasn't run.
    """

    paired: Mapping[str, Any]
    against: str
    doubts: tuple[str, ...]
    baseline: Baseline | None


@dataclass(frozen=True)
class Run:
    """How networks are run over the images.

    Attributes:
        source: images with labels.
        device: where the networks run.
        layout: memory format in which they run.
        batch_size: images at a time.
        report: receives the progress.
    """

    source: ImageSource
    device: torch.device
    layout: torch.memory_format
    batch_size: int
    report: Reporter

    def outcomes(self, model: nn.Module, stage: str) -> Outcomes:
        """Right and wrong answers of a network.

        Args:
            model: left as it was; a copy runs.
            stage: name under which the progress is reported.

        Returns:
            One entry for each image.
        """
        placed = deepcopy(model).eval().to(self.device).to(memory_format=self.layout)
        answers = answers_of(
            placed,
            self.source,
            layout=self.layout,
            batch_size=self.batch_size,
            stage=stage,
            report=self.report,
        )
        return Outcomes.of(answers, len(self.source))


def accuracies(
    folder: Path,
    plan: Plan,
    compressed: nn.Module,
    reference: Reference,
    kept: Baseline | None,
    run: Run,
) -> Accuracies:
    """Measure the network and what it is compared with.

    Args:
        folder: of the results.
        plan: of the folder.
        compressed: the network.
        reference: what it is compared with.
        kept: what is known of that; None where the original has to be run.
        run: how.

    Returns:
        The accuracies.

    Raises:
        DataError: the network that is compared with is no better than guessing.
    """  # noqa: DOC502  # raised by what is called
    source = run.source
    if kept is not None:  # before the work: the images may be others
        before = kept.outcomes(source, plan.preprocess, reference.against)
        weights, baseline = kept.weights, None
        after = run.outcomes(compressed, "evaluate the compressed network")
    else:
        network = original(folder, plan, reference, run.report)
        before, weights = run.outcomes(network.model, "evaluate the original"), network.weights
        after = run.outcomes(compressed, "evaluate the compressed network")
        baseline = Baseline(
            network=plan.network,
            weights=weights,
            data_hash=source.hash,
            description=source.description,
            images=len(source),
            preprocess=plan.preprocess,
            original=before,
            compressed=after,
        )
    paired = paired_accuracy(before, after)
    _check_beyond_guessing(plan, compressed, paired)
    against = f"the {reference.against} network" + (f" ({weights})" if weights else "")
    if kept is not None:
        against += f" as {reference.baseline} has it"
    return Accuracies(
        paired=paired,
        against=against,
        doubts=(
            *_doubts(source, paired, before, after),
            *_doubts_of_weights(folder, reference, weights, from_baseline=kept is not None),
        ),
        baseline=baseline,
    )


def _check_beyond_guessing(plan: Plan, compressed: nn.Module, paired: Mapping[str, Any]) -> None:
    """Refuse labels that don't fit, with which a network that got worse would even seem to gain."""
    right, classes = paired["top1"]["before"], len(plan.categories)
    if not classes:
        like = next(compressed.parameters())
        with torch.inference_mode():
            classes = compressed(like.new_zeros((1, *plan.input_size))).shape[-1]
    if right <= 100 / classes:
        raise DataError(
            f"the network that is compared with is right on {right:.1f} % of the images, no more than "
            f"guessing among {classes} classes, so a drop would mean nothing: do the labels number the "
            f"classes as {plan.network} does, and does plan.json prepare the images as it needs? name the "
            "class folders by output number, or give --labels"
        )


def _doubts_of_weights(
    folder: Path, reference: Reference, weights: str, *, from_baseline: bool
) -> Iterator[str]:
    """Whether the original is the one that was compressed."""
    if reference.model is not None or reference.against != "original":
        return
    described = weights_described(folder)
    chosen = reference.checkpoint is not None or reference.weights != "default"
    if described and weights and weights != described:
        yield f"{folder} was compressed from {described}, but is compared with {weights}"
    if not described and not from_baseline and not chosen:
        yield (
            f"{folder} has no report.json that names the weights it was compressed from; it is compared with "
            f"{weights}"
        )


def _doubts(
    source: ImageSource, paired: Mapping[str, Any], before: Outcomes, after: Outcomes
) -> Iterator[str]:
    """What makes the accuracies less worth."""
    unread, was_unread = int((~after.read).sum()), int((~before.read).sum())
    if unread or was_unread:
        names = ", ".join(bad.key for bad in source.bad[:3])
        yield (
            f"{max(unread, was_unread)} of {len(source)} images could not be read"
            + (f" ({names})" if names else "")
            + f"; {paired['n']} are compared"
        )
