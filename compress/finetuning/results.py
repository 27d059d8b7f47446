"""What a fine-tuning changed, as figures, in the report, and in the plan."""

from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from torch import nn

from cnncompress.changed import changed_answers
from cnncompress.clock import Clock
from cnncompress.distributed import World
from cnncompress.environment import environment
from cnncompress.evaluate import Comparison, OriginalOutputs, compare
from cnncompress.events import Reporter
from cnncompress.finetuning.finetune import Finetuned
from cnncompress.finetuning.inputs import Inputs
from cnncompress.finetuning.options import FinetuneJob
from cnncompress.image_source import ImageSource
from cnncompress.paired import paired_drop
from cnncompress.plan import Plan

_BATCH = 10  # images run at a time where the plan says nothing


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Before and after, on the same images.

    Attributes:
        before: original and compressed network before; None without the original.
        after: original and compressed network after; None without the original.
        both: compressed network before and after; None without evaluation images.
        evaluation: images with labels, if any.
        changed: what the network answers differently from the original after, see `changed_answers`; None
            without the original.
    """

    before: Comparison | None
    after: Comparison | None
    both: Comparison | None
    evaluation: ImageSource | None
    changed: dict[str, Any] | None = None

    def gain(self) -> dict[str, Any] | None:
        """Top-1 accuracy of the compressed network before and after, in percent.

        Returns:
            Entries of the report with the paired interval of the gain; None without labels.
        """
        if self.evaluation is None:
            return None
        if self.before is not None and self.after is not None:
            old, new = self.before.correct_after, self.after.correct_after
        else:
            assert self.both is not None  # measured where there are evaluation images
            old, new = self.both.correct_before, self.both.correct_after
        if old is None or new is None:
            return None
        found = paired_drop(old, new)
        return {
            "dataset": self.evaluation.description,
            "n": len(old),
            "top1_before": 100 * float(old.mean()),
            "top1_after": 100 * float(new.mean()),
            "gain_top1": -found.drop,
            "ci95_paired": [-found.high, -found.low],
        }

    def accuracy(self, comparison: Comparison | None) -> dict[str, Any] | None:
        """The report's entries of an accuracy.

        Args:
            comparison: one of those before and after.

        Returns:
            None without labels.
        """
        if comparison is None or self.evaluation is None:
            return None
        return comparison.accuracy(self.evaluation.description)


def measure(
    inputs: Inputs,
    tuned: nn.Module,
    held_out: frozenset[int] | None,
    *,
    memory: int,
    world: World,
    report: Reporter,
) -> Figures:
    """Compare the networks on the evaluation images, or on those training images that judged.

    Args:
        inputs: of the fine-tuning.
        tuned: the result.
        held_out: positions of the training images that judged; None where the training images are of
            another size than the network's.
        memory: bytes for the original's answers.
        world: processes that share the work.
        report: receives the progress.

    Returns:
        The figures.
    """
    source = inputs.evaluation if inputs.evaluation is not None else inputs.training
    only = None if inputs.evaluation is not None else held_out
    options: dict[str, Any] = {
        "features": inputs.network.features,
        "batch_size": int(inputs.plan.options.get("batch_size", _BATCH)),
        "only": only,
        "world": world,
        "report": report,
    }
    before = after = both = changed = None
    shown = bool(inputs.plan.options.get("examples", True))
    if inputs.evaluation is not None and inputs.original is None:
        both = compare(inputs.compressed, tuned, source, **options)
    elif inputs.original is not None and (inputs.evaluation is not None or held_out is not None):
        answers = OriginalOutputs(inputs.original, inputs.network.features, memory=memory)
        before = compare(answers, inputs.compressed, source, **options)
        last = after = compare(answers, tuned, source, **options)
        changed = world.first(lambda: changed_answers(last, source, inputs.network, examples=shown))
    return Figures(before=before, after=after, both=both, evaluation=inputs.evaluation, changed=changed)


def changed_plan(inputs: Inputs, job: FinetuneJob, done: Finetuned) -> Plan:
    """The plan with a record of the fine-tuning.

    Args:
        inputs: of the fine-tuning.
        job: that was done.
        done: what it did.

    Returns:
        A plan that builds the same architecture.
    """
    record = {
        "created": _now(),
        "layers": job.layers,
        "objective": done.objective,
        "recipe": done.recipe.to_json(),
        "distill": None if done.distill is None else asdict(done.distill),
        "seed": done.recipe.seed,
        "epochs": done.epochs,
        "kept": done.kept,
        "data": inputs.training.description,
        "data_hash": inputs.training.hash,
        "images": done.images,
        "holdout": job.holdout,
        "processes": done.processes,
        "environment": environment(),
    }
    return replace(inputs.plan, finetuned=(*inputs.plan.finetuned, record))


def changed_report(inputs: Inputs, done: Finetuned, figures: Figures, clock: Clock) -> dict[str, Any]:
    """The folder's report, its figures replaced by those after the fine-tuning.

    Speed stays as it was measured: no shape changes.

    Args:
        inputs: of the fine-tuning.
        done: what it did.
        figures: before and after.
        clock: of this run; its seconds are added to those of the compression.

    Returns:
        What report.json shall hold.
    """
    earlier = inputs.report
    measured = figures.before is not None
    old = {
        "accuracy": figures.accuracy(figures.before) if measured else earlier.get("accuracy"),
        "fidelity": figures.before.fidelity() if figures.before is not None else earlier.get("fidelity"),
    }
    data = {
        "description": inputs.training.description,
        "hash": inputs.training.hash,
        "bad": [[bad.key, bad.reason] for bad in inputs.training.bad],
    }
    spent, timing = earlier.get("timing") or {}, clock.seconds
    return {
        **earlier,
        "created": _now(),
        "accuracy": figures.accuracy(figures.after),
        "fidelity": figures.after.fidelity() if figures.after is not None else None,
        "changed": figures.changed,
        "finetune": {**done.to_json(), "evaluation": figures.gain(), "data": data},
        "before_finetune": old,
        # what keeps a format out is found out anew when the results are written
        "notes": [note for note in earlier.get("notes") or [] if not note.startswith("no model.")],
        "throughput": {**(earlier.get("throughput") or {}), **clock.throughput},
        "timing": {key: spent.get(key, 0.0) + timing.get(key, 0.0) for key in {**spent, **timing}},
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
