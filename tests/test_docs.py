"""The site builds without a warning; texts name files, commands, options and methods that exist."""

import dataclasses
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import cnncompress
from cnncompress.cli.main import main
from cnncompress.decompositions import available, make
from cnncompress.decompositions.base import Decomposition

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "notebooks"
PAGES = sorted(SITE.glob("*.md"))
TEXTS = [*sorted(ROOT.glob("*.md")), *PAGES]
WITH_COMMANDS = [ROOT / "README.md", *PAGES]

SHELLS = {"", "sh", "bash", "console", "yaml"}  # workflows call commands too

FENCED = re.compile(r"^```(?P<language>\S*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
COMMAND = re.compile(r"^(?:- )?(?:run: )?(?:\w+=\S+ )*(?:torchrun .*-m |python -m )?cnncompress (.*)$")
OURS = re.compile(
    r"^(?:tests|compress|solvers|cli|notebooks|\.ci|\.github)/[\w./-]*$|^[\w-]+\.(?:md|ipynb|toml)$"
)


def ids(path: Path) -> str:
    return path.name


def prose(text: str) -> str:
    return FENCED.sub("", text)


def blocks(text: str) -> list[str]:
    """Lines of code blocks that a shell would read."""
    shells = (found["code"] for found in FENCED.finditer(text) if found["language"] in SHELLS)
    return [line for code in shells for line in code.replace("\\\n", " ").splitlines()]


def spans(text: str) -> list[str]:
    """Code within sentences."""
    return [" ".join(span.split()) for span in SPAN.findall(prose(text))]


def calls(lines: list[str]) -> Iterator[list[str]]:
    """Arguments of every call of the command line."""
    for line in lines:
        code = re.sub(r"\s#.*", "", line)
        for part in re.split(r"&&|;|\s\|\s", code):
            found = COMMAND.match(part.strip())
            if found and "…" not in part:
                yield shlex.split(found[1])


def there(home: Path, name: str) -> bool:
    """Whether a file has this name, or one of several suffixes after it."""
    return (home / name).exists() or any(home.glob(f"{name.rstrip('/')}.*"))


def parse(args: list[str]) -> None:
    """Read the options as the command would, without running it."""
    named = args[0] in main.list_commands(click.Context(main)) or args[0].startswith("-")
    with main.make_context("cnncompress", list(args)) as context:
        if not named:
            args = ["compress", *args]
        if args[0].startswith("-"):
            return
        command = main.get_command(context, args[0])
        assert command is not None
        with command.make_context(args[0], list(args[1:]), parent=context):
            pass


def checked(args: list[str], *, whole: bool = True) -> str:
    """What is wrong with a command line, or an empty string; in a sentence its arguments may be missing."""
    try:
        parse(args)
    except click.exceptions.Exit:  # --help and --version
        return ""
    except click.MissingParameter as error:
        return f"cnncompress {shlex.join(args)}: {error.format_message()}" if whole else ""
    except click.UsageError as error:
        return f"cnncompress {shlex.join(args)}: {error.format_message()}"
    return ""


@pytest.mark.parametrize("path", TEXTS, ids=ids)
def test_relative_links_lead_to_files(path: Path) -> None:
    targets = [target.partition("#")[0] for target in LINK.findall(prose(path.read_text()))]
    relative = [target for target in targets if target and "://" not in target]
    assert [target for target in relative if not (path.parent / target).exists()] == []


@pytest.mark.parametrize("path", TEXTS, ids=ids)
def test_files_that_are_named_exist(path: Path) -> None:
    text = path.read_text()
    words = {word for line in [*blocks(text), *spans(text)] for word in line.split() if OURS.match(word)}
    assert sorted(word for word in words if not any(there(home, word) for home in (ROOT, SITE))) == []


@pytest.mark.parametrize("path", PAGES, ids=ids)
def test_accents_have_no_index(path: Path) -> None:
    wrong = re.findall(r"\\(?:hat|bar|tilde)\s*\{?\w\}?_", path.read_text())
    assert wrong == [], "docutils draws the index below the letter"


@pytest.mark.parametrize("path", WITH_COMMANDS, ids=ids)
def test_command_lines_are_understood(path: Path) -> None:
    text = path.read_text()
    problems = [checked(args) for args in calls(blocks(text))]
    problems += [checked(args, whole=False) for args in calls(spans(text))]
    assert [problem for problem in problems if problem] == []


def test_command_lines_are_found_and_wrong_ones_refused() -> None:
    text = "```\nA=1 cnncompress vgg16 \\\n  --spedup 4x  # why\n```\nSee `cnncompress bench`."
    assert list(calls(blocks(text))) == [["vgg16", "--spedup", "4x"]]
    assert list(calls(spans(text))) == [["bench"]]
    assert "--spedup" in checked(["vgg16", "--spedup", "4x"])
    assert "OUT" in checked(["bench"])
    assert checked(["bench"], whole=False) == checked(["vgg16", "--speedup", "4x"]) == ""


def section(name: str) -> str:
    """The text below the heading of a method."""
    texts = [path.read_text() for path in SITE.glob("methods_*.md")]
    found = [
        match[1]
        for text in texts
        for match in re.finditer(rf"^## {re.escape(name)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    ]
    assert len(found) == 1, f"{name} has {len(found)} sections"
    return found[0]


@pytest.fixture(
    params=[name for name in available() if type(make(name)).__module__.startswith("cnncompress.")]
)
def method(request: pytest.FixtureRequest) -> Decomposition:
    return make(request.param)


def test_method_has_its_section(method: Decomposition) -> None:
    text = section(method.name)
    assert "MACs" in text
    assert "**Use it**" in text
    assert all(name in text for name in method.rank_names)


def test_options_of_a_method_are_listed_with_their_defaults(method: Decomposition) -> None:
    listed = dict(re.findall(r"^\| `(\w+)`[^|]*\| `([^`]+)` \|", section(method.name), re.MULTILINE))
    known = {field.name: str(field.default) for field in dataclasses.fields(method)}  # type: ignore[arg-type]  # all methods are dataclasses
    assert listed == known


def test_overview_links_to_every_method(method: Decomposition) -> None:
    links = re.findall(
        rf"\[`{re.escape(method.name)}`\]\((methods_\w+\.md)#([\w-]+)\)", (SITE / "methods.md").read_text()
    )
    assert len(links) == 1
    page, anchor = links[0]
    assert anchor == method.name
    assert f"\n## {method.name}\n" in (SITE / page).read_text()


def test_public_names_are_in_the_reference() -> None:
    listed = set(re.findall(r"^\.\. auto\w+:: (\w+)$", (SITE / "api.md").read_text(), re.MULTILINE))
    assert listed == set(cnncompress.__all__)


@pytest.mark.slow
def test_site_builds_without_a_warning(tmp_path: Path) -> None:
    site = tmp_path / "site"  # Sphinx writes beside it too
    sphinx = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    ran = subprocess.run([*sphinx, str(SITE), str(site)], capture_output=True, text=True, check=False)  # noqa: S603  # ourselves
    assert ran.returncode == 0, ran.stderr
    pages = {page.stem for page in PAGES} | {notebook.stem for notebook in SITE.glob("[0-9]_*.ipynb")}
    assert [page for page in sorted(pages) if not (site / f"{page}.html").is_file()] == []
    commands = (site / "cli.html").read_text()
    for name in main.list_commands(click.Context(main)):
        assert f'id="cnncompress-{name}"' in commands
    assert "<math" in (site / "methods_responses.html").read_text()
    assert "http" not in "".join(re.findall(r'<script[^>]+src="([^"]+)"', commands)), "scripts from elsewhere"
