"""Runs the notebooks from their .py files and writes the .ipynb files beside them, with outputs.

python tests/packaging/render_notebooks.py [5_detector_and_segmentation.py ...]
"""

import argparse
import os
import resource
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
METADATA = {
    "jupytext": {"formats": "ipynb,py:percent"},
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python", "pygments_lexer": "ipython3"},
}


def rendered(path: Path) -> NotebookNode:
    """Run a notebook in a kernel of its own.

    Args:
        path: of its .py.

    Returns:
        The notebook with outputs, without what differs from run to run for no reason.
    """
    notebook = jupytext.read(path)
    NotebookClient(notebook, timeout=600, kernel_name="python3", coalesce_streams=True).execute()
    notebook.metadata = nbformat.from_dict(METADATA)
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number:02d}", NotebookNode()
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = [_plain(output) for output in cell.outputs]
    return notebook


def _plain(output: NotebookNode) -> NotebookNode:
    if "execution_count" in output:
        output.execution_count = None
    if "metadata" in output:
        output.metadata = NotebookNode()
    return output


def _cpu_seconds() -> float:
    """What ended child processes have taken, which other work on the machine hardly changes."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def main() -> None:
    """Render the notebooks that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="files in notebooks/; all if none is given")
    names = parser.parse_args().names
    paths = [FOLDER / Path(name).with_suffix(".py").name for name in names]
    for path in paths or sorted(FOLDER.glob("[0-9]_*.py")):
        begun = _cpu_seconds()
        notebook, target = rendered(path), path.with_suffix(".ipynb")
        unfinished = target.with_suffix(".ipynb.part")
        nbformat.write(notebook, unfinished)
        unfinished.replace(target)
        size, seconds = target.stat().st_size / 1000, _cpu_seconds() - begun
        print(f"{target.name}: {size:.0f} kB, {seconds:.0f} s of CPU time", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # so that sums, and with them digits, repeat
    main()
