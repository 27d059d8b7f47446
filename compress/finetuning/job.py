"""The whole of ``cnncompress finetune``: read a folder of results, train its network, write all anew."""

from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import file_digest
from pathlib import Path
from typing import Any

from torch import nn

from cnncompress.clock import Clock
from cnncompress.distributed import ALONE, World, require_same
from cnncompress.errors import OptionError, OutputError
from cnncompress.events import Reporter, silent
from cnncompress.finetuning.choice import trained_layers
from cnncompress.finetuning.finetune import Finetuned, finetune_layers
from cnncompress.finetuning.inputs import Given, Inputs, open_inputs
from cnncompress.finetuning.options import FinetuneJob, is_own_code
from cnncompress.finetuning.results import changed_plan, changed_report, measure
from cnncompress.finetuning.state import Keep, damaged, read_job, temporary_of
from cnncompress.folder import STATE, check_folder
from cnncompress.gather import held_out_images
from cnncompress.output import write_results
from cnncompress.plan import Plan
from cnncompress.training.images import readable
from cnncompress.training.parts import in_parts

__all__ = ["FinetuneJob", "Given", "Refined", "finetune_folder", "resumed_job"]

_NOTHING_GIVEN = Given()


@dataclass(frozen=True, kw_only=True)
class Refined:
    """A fine-tuned network.

    Attributes:
        model: plain torch layers, in evaluation mode, on the CPU.
        plan: with a record of the fine-tuning.
        report: what report.json holds, but for what is added when it is written.
        finetuned: what was done.
        folder: where all of it was written.
    """

    model: nn.Module
    plan: Plan
    report: dict[str, Any]
    finetuned: Finetuned
    folder: Path


def finetune_folder(
    job: FinetuneJob,
    *,
    given: Given = _NOTHING_GIVEN,
    resume: bool = False,
    world: World = ALONE,
    report: Reporter = silent,
) -> Refined:
    """Fine-tune the network in a folder of results.

    While it runs the state is kept in the folder of the result; what stood there is replaced in the end.

    Args:
        job: what to do.
        given: networks and images that are in memory already.
        resume: go on with the state of an interrupted run of the same job, see `resumed_job`.
        world: processes that share the work; the first one writes.
        report: receives the progress.

    Returns:
        The network, which is on disk too.

    Raises:
        DataError: images are missing, can't be read or don't fit.
        ModelError: the original network is needed and can't be had, or there is nothing to train.
        NumericsError: an output is NaN or infinite before training.
        OptionError: an option is out of its range, or the interrupted run had other settings.
        OutputError: the folder can't be read or written, or there is nothing to resume.
    """  # noqa: DOC502  # most are raised by what is called
    clock = Clock(report)
    world.first(lambda: _prepare(job, resume=resume))
    try:
        inputs = open_inputs(job, given, world, clock)
        require_same((inputs.training, inputs.evaluation), world)
        judges = held_out_images(readable(inputs.training), share=job.holdout, seed=job.recipe.seed)
        tuned, done = finetune_layers(
            inputs.original,
            inputs.compressed,
            chosen=trained_layers(job.layers, inputs.replaced, inputs.layers),
            source=inputs.training,
            recipe=in_parts(job.recipe, inputs.network.input_size),
            holdout=job.holdout,
            distill=job.distill,
            replaced=inputs.replaced,
            size=inputs.network.preprocess.crop,
            world=world,
            keep=_keep(job, inputs),
            resume=resume,
            report=clock,
        )
        uncropped = job.recipe.augmentation.crop_resized
        figures = measure(
            inputs, tuned, None if uncropped else judges, memory=job.memory, world=world, report=clock
        )
        plan, summary = changed_plan(inputs, job, done), changed_report(inputs, done, figures, clock)
        tuned = tuned.to("cpu")
        world.first(
            lambda: write_results(
                job.target, tuned, plan.to_json(), summary, inputs.network, overwrite=True, progress=report
            )
        )
    finally:
        if world.is_first:
            with suppress(OSError):  # nothing was kept in a new folder
                job.target.rmdir()
    return Refined(model=tuned, plan=plan, report=summary, finetuned=done, folder=job.target)


def resumed_job(folder: Path, *, network: str | None = None) -> FinetuneJob:
    """What an interrupted run was asked for.

    Args:
        folder: of its result.
        network: name of the original where it is the user's own code; no file may say what runs.

    Returns:
        The job, for this folder wherever it lay then.

    Raises:
        OutputError: no run was interrupted there, or its state can't be read.
        OptionError: the original is the user's own code, and it wasn't named.
    """  # noqa: DOC501, DOC502  # raised by what is called
    folder = folder.expanduser().resolve()
    _check_interrupted(folder)
    try:
        job = FinetuneJob.from_json(read_job(folder / STATE))
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(folder / STATE, error) from None
    if job.network != network and is_own_code(job.network):
        raise OptionError(
            f"{folder}: the network is made by your own code, which only runs when you name it: add "
            f"--network {job.network}"
        )
    if job.target == folder:
        return job
    return replace(job, folder=folder) if job.output is None else replace(job, output=folder)


def _prepare(job: FinetuneJob, *, resume: bool) -> None:
    """Find out before the work whether the result can be written, and make its folder."""
    state = job.target / STATE
    if resume:
        _check_interrupted(job.target)
    elif state.exists() and not job.overwrite:
        raise OutputError(
            f"{job.target}: holds an interrupted fine-tuning; go on with --resume, or begin anew with "
            "--overwrite"
        )
    in_place = job.target == job.folder
    if in_place and job.target == Path.cwd():
        raise OutputError(
            f"{job.folder}: is the working folder, which can't be replaced as a whole; run this from the "
            "folder above it, or give another folder for the result (-o)"
        )
    if job.folder in job.target.parents:  # it could not be replaced as a whole any more
        raise OutputError(
            f"{job.target}: lies in the folder that is fine-tuned, which holds results and nothing else; "
            "choose a folder beside it"
        )
    Plan.read(job.folder / "plan.json")  # whatever else there may be, it is not ours
    check_folder(job.target, overwrite=in_place or resume or job.overwrite)
    try:
        if not resume:
            for file in (state, temporary_of(state)):
                file.unlink(missing_ok=True)
        job.target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{job.target}: can't be written ({error.strerror}); choose another folder"
        ) from None


def _check_interrupted(folder: Path) -> None:
    if not (folder / STATE).is_file():
        raise OutputError(
            f"{folder}: nothing to resume, no fine-tuning was interrupted there; leave out --resume, or give "
            "the folder that -o named"
        )


def _keep(job: FinetuneJob, inputs: Inputs) -> Keep:
    plain = job.to_json()
    with (job.folder / "model.safetensors").open("rb") as file:
        weights = file_digest(file, "sha256").hexdigest()
    evaluation = inputs.evaluation.hash if inputs.evaluation is not None else None
    settings = {key: plain[key] for key in ("recipe", "distill", "layers", "holdout")}
    settings["images"] = {"training": inputs.training.hash, "evaluation": evaluation}
    settings["compressed"] = weights
    return Keep(file=job.target / STATE, seconds=job.keep_seconds, settings=settings, job=plain)
