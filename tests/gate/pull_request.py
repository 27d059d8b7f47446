"""Two pull requests against the gate: one that makes the demo's network worse, one that does no harm.

    python tests/gate/pull_request.py [--folder FOLDER]

Makes a git repository as a team would: a compressed alexnet-elpv, the 656 test images, a baseline and a
workflow that uses the composite action of this repository. Two branches change the network; each is cloned
afresh and the action's bash steps run there, as GitHub would run them (`composite_action`). Needs the demo's
images and the backbone's weights (9.9 MB, downloaded once). Prints what happened; exit code 0 if the gate
told them apart.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from composite_action import Outcome, inputs_of_workflow, run_action

from cnncompress import Options, compress, load_network
from cnncompress.default_data import default_data
from cnncompress.zoo.elpv import CATEGORIES, elpv_split

NETWORK = "alexnet-elpv"
COMPRESSED = "networks/solar"
WORKFLOW = ".github/workflows/compression.yml"
LIMIT = 1.0
STEPS = f"""
name: compression
on: pull_request
jobs:
  gate:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
      - uses: your-team/cnncompress/.github/actions/check@main
        with:
          folder: {COMPRESSED}
          eval: val
          baseline: baseline.json
          max-drop: {LIMIT}
          min-speedup: 2.9x
          max-size: 5MB
          python-version: "3.13"
"""


@dataclass(frozen=True)
class Proposal:
    """A branch that replaces the compressed network by one compressed with other options."""

    branch: str
    about: str
    options: Options


MAIN = Options(speedup=3, measure=False)
WORSE = Proposal("worse", "recompressed to 10x", Options(speedup=10, measure=False))
HARMLESS = Proposal(
    "harmless", "recompressed with another seed and other images", Options(speedup=3, seed=1, measure=False)
)


def demonstrate(folder: Path) -> dict[str, tuple[Outcome, dict[str, Any]]]:
    """Make the repository and both pull requests, and run the gate on each.

    Args:
        folder: an empty one, to work in.

    Returns:
        For each branch what the action left behind, and check.json.
    """
    repository = folder / "repository"
    make_repository(repository)
    found = {}
    for proposal in (WORSE, HARMLESS):
        git(repository, "switch", "--quiet", "--create", proposal.branch, "main")
        write_network(repository / COMPRESSED, proposal.options)
        commit(repository, proposal.about)
        checkout = folder / f"checkout-{proposal.branch}"
        git(folder, "clone", "--quiet", "--branch", proposal.branch, str(repository), str(checkout))
        outcome = run_action(inputs_of_workflow(checkout / WORKFLOW), checkout)
        report = checkout / "cnncompress-check" / "check.json"
        found[proposal.branch] = (outcome, json.loads(report.read_text(encoding="utf-8")))
    return found


def make_repository(repository: Path) -> None:
    """The team's main branch.

    Args:
        repository: path of the new repository.
    """
    write_images(repository / "val")
    write_network(repository / COMPRESSED, MAIN)
    subprocess.run(  # noqa: S603  # our own words
        [
            *(sys.executable, "-m", "cnncompress", "check", COMPRESSED, "--eval", "val", "--quiet"),
            *("--write-baseline", "baseline.json", "--output", "../baseline-check"),
        ],
        cwd=repository,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    workflow = repository / WORKFLOW
    workflow.parent.mkdir(parents=True)
    workflow.write_text(STEPS, encoding="utf-8")
    git(repository, "init", "--quiet", "--initial-branch", "main")
    commit(repository, "the compressed network, its baseline and the gate")


def write_images(folder: Path) -> None:
    """The demo's test images in a folder for each class.

    Args:
        folder: a new one.
    """
    for category in CATEGORIES:
        (folder / category).mkdir(parents=True)
    _, test = elpv_split()
    for path, label in zip(test.paths, test.labels, strict=True):
        shutil.copyfile(path, folder / CATEGORIES[label] / path.name)


def write_network(folder: Path, options: Options) -> None:
    """Compress the demo's network, calibrated on its training images.

    Args:
        folder: replaced if there are results in it.
        options: of the run.
    """
    network = load_network(NETWORK)
    calibration, _, _ = default_data(network, options.images, options.seed)
    compress(network, calibration, None, options).save(folder, overwrite=True)


def commit(repository: Path, message: str) -> None:
    """Commit all that changed.

    Args:
        repository: where.
        message: of the commit.
    """
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--message", message)


def git(folder: Path, *words: str) -> None:
    """Run git under a name of its own, whatever the user's settings are.

    Args:
        folder: where.
        *words: the command.
    """
    settings = {"user.name": "A Team", "user.email": "team@example.org", "commit.gpgsign": "false"}
    given = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
    subprocess.run(["git", *given, *words], cwd=folder, check=True)  # noqa: S603, S607  # our own words


def main() -> int:
    """Print what happened to both pull requests.

    Returns:
        0 if the gate told them apart.
    """
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, help="An empty folder to work in and to keep.")
    chosen = parser.parse_args().folder
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        found = demonstrate(folder)
    for proposal in (WORSE, HARMLESS):
        outcome, report = found[proposal.branch]
        top1 = report["accuracy"]["top1"]
        print(f"pull request {proposal.branch!r}: {proposal.about}")
        print(
            f"  top-1 {top1['before']:.2f} -> {top1['after']:.2f} % of {report['accuracy']['n']} images, ",
            end="",
        )
        print(f"drop {top1['drop']:.2f} points ({top1['low']:.2f} to {top1['high']:.2f}), limit {LIMIT}")
        print(f"  gate {report['status']}, exit code {outcome.code}; skipped: {', '.join(outcome.skipped)}")
        for line in outcome.annotations:
            print(f"  {line}")
    print(f"{time.perf_counter() - started:.0f} s")
    told_apart = (found[WORSE.branch][0].code, found[HARMLESS.branch][0].code) == (1, 0)
    return 0 if told_apart else 1


if __name__ == "__main__":
    sys.exit(main())
