"""``cnncompress check OUT``: the gate of a team's CI."""

import json
import os
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cnncompress.cli import values
from cnncompress.cli.completion import folders, one_of
from cnncompress.cli.names import DEVICES
from cnncompress.cli.network_options import original_options
from cnncompress.errors import CompressError

if TYPE_CHECKING:  # torch takes seconds, --help shall not
    from cnncompress.gate import Checked, Thresholds, Verdict

FAILED, USAGE, NOT_MEASURED = 1, 2, 3
JSON, JUNIT = "check.json", "check.xml"


@click.command()
@click.argument("out", type=click.Path(path_type=Path), shell_complete=folders)
@click.option(
    "--eval",
    "evaluation",
    type=click.Path(path_type=Path),
    help="Images with labels: class folders, a flat folder and --labels, .npz, .pt or tar shards.  "
    "[default: the demo's own]",
)
@click.option("--labels", type=click.Path(path_type=Path), help="Lines `filename,label` for a flat folder.")
@click.option("--max-drop", type=float, metavar="POINTS", help="Of top-1 accuracy, at most.")
@click.option("--max-drop-top5", type=float, metavar="POINTS", help="Of top-5 accuracy, at most.")
@click.option(
    "--min-speedup",
    type=values.speedup,
    metavar="N[x]",
    help="Times fewer multiply-accumulates, counted as --speedup counted them.",
)
@click.option("--max-size", type=values.size, metavar="SIZE", help="Of model.safetensors, for example 20MB.")
@click.option(
    "--gate",
    type=click.Choice(["point", "upper"]),
    default="point",
    show_default=True,
    help="What may not exceed --max-drop: the drop itself, or the upper end of its 95 % interval.",
)
@click.option(
    "--baseline",
    type=click.Path(path_type=Path),
    help="Compare with what this file says; the original is not run, nor downloaded.",
)
@click.option(
    "--against",
    type=click.Choice(["original", "compressed"]),
    default="original",
    show_default=True,
    help="Which network of the --baseline: the original, or the compressed one as it was then.",
)
@click.option(
    "--write-baseline", type=click.Path(path_type=Path), help="Keep what both networks answer in this file."
)
@original_options
@click.option(
    "--device",
    default="cpu",
    show_default=True,
    shell_complete=one_of(DEVICES),
    help="Where the networks run, for example cuda.",
)
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True, help="Images at a time.")
@click.option(
    "--max-bad",
    type=click.FloatRange(0, 1),
    default=0.01,
    show_default=True,
    help="Largest share of images that may be unreadable.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    shell_complete=folders,
    help=f"Folder for {JSON} and {JUNIT}.  [default: OUT]",
)
@click.option("--json", "as_json", is_flag=True, help=f"Print {JSON} to stdout, and nothing else.")
@click.option("-q", "--quiet", is_flag=True, help="No progress, only the verdict.")
@click.pass_context
def check(context: click.Context, /, **given: Any) -> None:
    """Check whether the network in folder OUT is still good enough.

    Both networks answer the same images. Exit code 0: all thresholds are kept; 1: one is not; 2: wrong
    usage; 3: it could not be measured. Speed is counted in multiply-accumulates: measured times never
    fail a check (`cnncompress bench` has them).

    Under GitHub Actions a failure is annotated and the job's summary gets a table.
    """
    _check_usage(given)
    context.exit(_code(given))


def _code(given: Mapping[str, Any]) -> int:
    """The exit code, of a crash too: Python's own for it is 1, that of a threshold that wasn't kept."""
    try:
        return _checked(given)
    except CompressError:
        raise  # the command line is at fault, which is code 2
    except Exception:  # torch can't be imported, for example
        traceback.print_exc()
        return NOT_MEASURED


def _checked(given: Mapping[str, Any]) -> int:
    """Measure, write, tell; the exit code."""
    thresholds = _thresholds(given)
    folder = given["output"] or given["out"]
    started = time.perf_counter()
    verdict = _measured(given, thresholds)
    if given["output"] is not None or folder.is_dir():
        verdict = _written(verdict, folder, time.perf_counter() - started)
    _tell_github(verdict)
    text = json.dumps(verdict.to_json(), indent=2) if given["as_json"] else verdict.line
    code = {"passed": 0, "failed": FAILED, "error": NOT_MEASURED}[verdict.status]
    return code if _said(text) else code or NOT_MEASURED


def _said(text: str) -> bool:
    """Print to stdout; False, with a message, where it is full or nobody reads it."""
    try:
        click.echo(text.encode("utf-8", "backslashreplace"))  # a folder's name may be no text
    except OSError as error:
        click.echo(f"error: stdout can't be written: {error.strerror or error}", err=True)
        # what is left in the buffer would be written again at the end, and change the exit code
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def _check_usage(given: Mapping[str, Any]) -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise click.UsageError("check runs in one process; start it without torchrun")
    limits = ("max_drop", "max_drop_top5", "min_speedup", "max_size")
    if given["write_baseline"] is None and all(given[limit] is None for limit in limits):
        raise click.UsageError(
            "nothing to check: give --max-drop, --max-drop-top5, --min-speedup or --max-size, or keep what "
            "the networks answer with --write-baseline FILE"
        )
    if given["baseline"] is not None and given["write_baseline"] is not None:
        raise click.UsageError("--write-baseline runs the original anew; leave out --baseline")
    if given["baseline"] is None and given["against"] != "original":
        raise click.UsageError("--against compressed needs --baseline FILE")
    if given["labels"] is not None and given["evaluation"] is None:
        raise click.UsageError("--labels needs --eval")
    accuracies = given["max_drop"] is not None or given["max_drop_top5"] is not None
    if given["baseline"] is not None and not accuracies:
        raise click.UsageError("--baseline is for accuracies; give --max-drop or --max-drop-top5")
    if given["gate"] == "upper" and not accuracies:
        raise click.UsageError("--gate upper is for accuracies; give --max-drop or --max-drop-top5")


def _thresholds(given: Mapping[str, Any]) -> "Thresholds":
    from cnncompress.gate import Thresholds

    limits = ("max_drop", "max_drop_top5", "min_speedup", "max_size", "gate")
    return Thresholds(**{name: given[name] for name in limits})


def _measured(given: Mapping[str, Any], thresholds: "Thresholds") -> "Verdict":
    """The verdict, one that tells of an error included."""
    from cnncompress.cli.progress import Progress
    from cnncompress.errors import OptionError
    from cnncompress.events import Note
    from cnncompress.gate.verdict import not_measured
    from cnncompress.text_file import check_file

    try:
        with Progress(quiet=given["quiet"]) as report:
            for file in _files(given):
                check_file(file)
            checked = _check(given, thresholds, report)
            if given["write_baseline"] is not None and checked.baseline is not None:
                checked.baseline.write(given["write_baseline"])
                report(Note(f"baseline -> {given['write_baseline']}"))
            return checked.verdict
    except OptionError:
        raise  # the command line is at fault, which is code 2
    except CompressError as error:
        reason = " ".join(str(error).split())
    except (Exception, SystemExit) as error:  # the user's own code may exit, with 1 for example
        traceback.print_exc()
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return not_measured(given["out"], reason, gate=thresholds.gate)


def _files(given: Mapping[str, Any]) -> list[Path]:
    """What is written in the end, and can be found out about before the work."""
    files = [given["write_baseline"]] if given["write_baseline"] is not None else []
    folder = given["output"] or given["out"]
    return [*files, folder / JSON] if given["output"] is not None or folder.is_dir() else files


def _check(given: Mapping[str, Any], thresholds: "Thresholds", report: Any) -> "Checked":
    from cnncompress.gate import Reference, check_folder

    return check_folder(
        given["out"],
        thresholds,
        evaluation=given["evaluation"],
        labels=given["labels"],
        reference=Reference(
            name=given["network"],
            checkpoint=given["checkpoint"],
            weights=given["weights"],
            baseline=given["baseline"],
            against=given["against"],
        ),
        accuracy=given["write_baseline"] is not None,
        device=given["device"],
        batch_size=given["batch_size"],
        max_bad=given["max_bad"],
        report=report,
    )


def _written(verdict: "Verdict", folder: Path, seconds: float) -> "Verdict":
    """Write the verdict's files; one that can't be written is an error of its own."""
    from cnncompress.errors import OutputError
    from cnncompress.gate.junit import junit_xml
    from cnncompress.text_file import write_text

    try:
        write_text(
            folder / JSON,
            json.dumps(verdict.to_json(), indent=2, allow_nan=False) + "\n",
        )
        write_text(folder / JUNIT, junit_xml(verdict, seconds=seconds))
    except OutputError as error:
        if verdict.status == "passed":
            return verdict.failed(str(error))
        click.echo(f"error: {error}", err=True)
    return verdict


def _tell_github(verdict: "Verdict") -> None:
    """Annotations go to stderr, where GitHub reads them too: stdout has one line, or JSON."""
    from cnncompress.gate.annotations import annotations
    from cnncompress.gate.markdown import markdown

    if os.environ.get("GITHUB_ACTIONS") == "true":
        for line in annotations(verdict):
            click.echo(line, err=True)
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        try:
            with Path(summary).open("a", encoding="utf-8") as file:
                file.write(markdown(verdict) + "\n")
        except OSError as error:
            click.echo(f"note: no summary: {summary}: {error.strerror or error}", err=True)
