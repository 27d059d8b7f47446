"""The notebooks run from top to bottom, and what was committed of them is small, clean and up to date."""

import base64
import re
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("[0-9]_*.py"))
RENDER = "run python tests/packaging/render_notebooks.py"
MOST_BYTES, MOST_PICTURE_BYTES = 250_000, 60_000
OF_A_MACHINE = re.compile(r"/(?:root|work|tmp|home|Users|private|var)/|[A-Z]:\\\\?Users")

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def committed(path: Path) -> NotebookNode:
    return nbformat.read(path.with_suffix(".ipynb"), as_version=4)


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts_of(notebook: NotebookNode) -> list[tuple[str, str]]:
    """Everything that the cells show, by MIME type."""
    found = []
    for cell in code_cells(notebook):
        for output in cell.outputs:
            found += [("text/plain", output.text)] if "text" in output else list(output.data.items())
    return found


def pictures_of(notebook: NotebookNode) -> list[bytes]:
    """Raster images, those within drawings and HTML among them."""
    coded = [text for kind, text in texts_of(notebook) if kind in {"image/png", "image/jpeg"}]
    for _, text in texts_of(notebook):
        coded += re.findall(r"data:image/(?:png|jpeg|gif|webp);base64,([A-Za-z0-9+/=\s]+)", text)
    return [base64.b64decode(text) for text in coded]


@pytest.mark.slow
@pytest.mark.xdist_group("notebooks")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # jupyter's own
@each
def test_notebook_runs(path: Path) -> None:
    notebook = jupytext.read(path)
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    assert all(cell.outputs for cell in code_cells(notebook)), "a cell shows nothing"
    warned = [output.text for cell in code_cells(notebook) for output in cell.outputs if is_stderr(output)]
    assert not warned


def is_stderr(output: NotebookNode) -> bool:
    return output.output_type == "stream" and output.name == "stderr"


def test_there_are_notebooks_numbered_from_1() -> None:
    assert NOTEBOOKS
    assert [path.stem.split("_")[0] for path in NOTEBOOKS] == [str(i + 1) for i in range(len(NOTEBOOKS))]
    rendered = {path.stem for path in FOLDER.glob("*.ipynb")}
    assert rendered == {path.stem for path in NOTEBOOKS}, RENDER


@each
def test_the_pair_is_in_sync(path: Path) -> None:
    ours, shown = jupytext.read(path), committed(path)
    assert ours.metadata["jupytext"]["formats"] == "ipynb,py:percent"
    for one, other in zip(ours.cells, shown.cells, strict=False):
        assert (one.cell_type, one.source) == (other.cell_type, other.source), RENDER
    assert len(ours.cells) == len(shown.cells), RENDER


@each
def test_every_cell_shows_something_and_none_failed_or_warned(path: Path) -> None:
    for cell in code_cells(committed(path)):
        assert cell.outputs, f"no output of {cell.source[:60]!r}: {RENDER}"
        assert all(output.output_type != "error" for output in cell.outputs)
        assert not any(map(is_stderr, cell.outputs))


@each
def test_committed_notebook_is_small(path: Path) -> None:
    assert path.with_suffix(".ipynb").stat().st_size <= MOST_BYTES
    sizes = [len(picture) for picture in pictures_of(committed(path))]
    assert max(sizes, default=0) <= MOST_PICTURE_BYTES, f"pictures of {sizes} bytes"


@each
def test_committed_notebook_tells_nothing_of_the_machine(path: Path) -> None:
    notebook = committed(path)
    for kind, text in texts_of(notebook):
        if kind != "image/png":
            # namespaces of SVG and links hold slashes too, folders of a machine stand alone
            assert not OF_A_MACHINE.search(re.sub(r"base64,[A-Za-z0-9+/=\s]+", "", text)), kind
    assert set(notebook.metadata) == {"jupytext", "kernelspec", "language_info"}
    assert "version" not in notebook.metadata.language_info
    assert all(cell.execution_count is None and not cell.metadata for cell in code_cells(notebook))


@each
def test_links_between_pages_lead_somewhere(path: Path) -> None:
    text = "\n".join(cell.source for cell in committed(path).cells if cell.cell_type == "markdown")
    targets = [target for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if "://" not in target]
    assert targets, "the text links to no guide"
    assert [target for target in targets if not (FOLDER / target).exists()] == []


@each
def test_text_ends_with_what_to_try_next(path: Path) -> None:
    last = committed(path).cells[-1]
    assert last.cell_type == "markdown"
    assert last.source.startswith("## Next")
