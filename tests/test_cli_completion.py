"""What shells offer: names that are known, folders, and nothing that takes seconds to find out."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import CompletionItem, ShellComplete
from click.testing import CliRunner

from cnncompress.cli import main, names
from cnncompress.decompositions import available
from cnncompress.errors import OptionError
from cnncompress.models import available_models
from cnncompress.options import AUTO, KNAPSACK
from cnncompress.ranks import RULES
from cnncompress.runtimes import RUNTIMES
from cnncompress.torchvision_models import FAMILY as TORCHVISION
from cnncompress.training.recipes import RECIPES


def items(*words: str) -> list[CompletionItem]:
    """What is offered for the last word."""
    complete = ShellComplete(main, {}, "cnncompress", "_CNNCOMPRESS_COMPLETE")
    return complete.get_completions(list(words[:-1]), words[-1])


def offered(*words: str) -> list[str]:
    return [item.value for item in items(*words)]


def test_names_are_those_of_the_toolkit() -> None:
    assert names.RUNTIMES == RUNTIMES
    assert set(names.RECIPES) == set(RECIPES)
    assert set(names.RULES) == {KNAPSACK, *RULES, "paper", "manual"}
    assert names.AUTO == AUTO
    # other tests may have registered methods of their own
    assert set(names.METHODS) <= set(available())
    for name in available():
        assert name in names.METHODS or not name_is_ours(name), f"add {name} to cnncompress.cli.names"


def name_is_ours(method: str) -> bool:
    from cnncompress.decompositions import make

    try:
        return type(make(method)).__module__.startswith("cnncompress.")
    except OptionError:  # it has options without defaults
        return True


def test_models_are_those_of_the_toolkit() -> None:
    known = set(available_models())
    theirs = set(TORCHVISION.names())
    assert set(names.OWN_MODELS) == known - theirs
    assert set(names.TORCHVISION_MODELS) <= theirs  # a later torchvision may know more
    assert set(names.TORCHVISION_MODELS) >= {"alexnet", "vgg16", "resnet50"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("compress", "vgg16"), ["vgg16-elpv", "vgg16", "vgg16_bn"]),
        (("inspect", "alex"), ["alexnet-elpv", "alexnet"]),
        (("models", "cifar-s"), ["cifar-sic", "cifar-sic-half", "cifar-sic-tps", "cifar-spatial-bottleneck"]),
        (("train", "sic-b"), ["sic-b"]),
        (("vgg16", "--method", "gs"), ["gspatial", "gsvd", "gsvd-in", "gsvd3d"]),
        (("vgg16", "--method", "gsvd,gs"), ["gsvd,gspatial", "gsvd,gsvd-in", "gsvd,gsvd3d"]),
        (("profile", "vgg16", "--method", "au"), ["auto"]),
        (("vgg16", "--ranks", ""), list(names.RULES)),
        (("vgg16", "--runtime", "o"), ["onnxruntime", "openvino"]),
        (("bench", "out", "--runtimes", "torch,o"), ["torch,onnxruntime", "torch,openvino"]),
        (
            ("bench", "out", "--runtimes", "torch,cuda,"),
            ["torch,cuda," + name for name in names.RUNTIMES[1:4]],
        ),
        (("finetune", "out", "--recipe", "re"), ["recover"]),
        (("train", "sic-a", "--recipe", "s"), ["short", "sic"]),
        (("vgg16", "--distill", "l"), ["logits", "layers"]),
        (("vgg16", "--finet"), ["--finetune"]),
        (("vgg16", "--weights", "b"), ["backbone"]),
    ],
)
def test_names_are_completed(words: tuple[str, ...], expected: list[str]) -> None:
    assert offered(*words)[: len(expected)] == expected


def test_the_first_word_is_a_command_or_a_network() -> None:
    assert offered("ben") == ["bench"]
    assert set(offered("")) == set(main.commands)  # not buried under a hundred networks
    assert offered("vgg16_") == ["vgg16_bn"]
    assert {"train", "inspect"} & set(offered("in")) == {"inspect"}


def test_folders_are_looked_for_by_the_shell() -> None:
    for words in (
        ("bench", "x"),
        ("explain", "x"),
        ("finetune", "x"),
        ("vgg16", "-o", "x"),
        ("finetune", "out", "-o", "x"),
        ("train", "sic-a", "--data", "x"),
        ("inspect", "vgg16", "--out", "x"),
    ):
        assert [(item.type, item.value) for item in items(*words)] == [("dir", "x")], words
    assert [item.type for item in items("vgg16", "--plan", "x")] == ["file"]
    assert [item.type for item in items("bench", "out", "-o", "x")] == ["file"]


@pytest.mark.parametrize("name", main.commands)
def test_arguments_that_are_folders_are_completed_as_such(name: str) -> None:
    for argument in main.commands[name].params:
        if argument.param_type_name == "argument" and isinstance(argument.type, click.Path):
            context = click.Context(main.commands[name])
            assert [item.type for item in argument.shell_complete(context, "x")] == ["dir"], argument.name


def test_layers_are_those_of_the_folder(tmp_path: Path) -> None:
    layers = [{"name": name} for name in ("features.0", "features.2", "classifier")]
    (tmp_path / "report.json").write_text(json.dumps({"layers": layers}))
    assert offered("explain", str(tmp_path), "fe") == ["features.0", "features.2"]
    for content in ("{", "[]", "{}", '{"layers": [1]}'):
        (tmp_path / "report.json").write_text(content)
        assert offered("explain", str(tmp_path), "fe") == []
    assert offered("explain", str(tmp_path / "none"), "fe") == []


def test_nothing_heavy_is_loaded_to_complete() -> None:
    code = (
        "import sys; from click.shell_completion import ShellComplete; from cnncompress.cli import main\n"
        "complete = ShellComplete(main, {}, 'cnncompress', '_CNNCOMPRESS_COMPLETE')\n"
        "complete.get_completions([], 'vg')\n"
        "for name, command in main.commands.items():\n"
        "    assert complete.get_completions([name], '--')\n"
        "    complete.get_completions([name], '')\n"
        "    for option in command.params:\n"
        "        if option.param_type_name == 'option':\n"
        "            complete.get_completions([name, 'x', option.opts[0]], '')\n"
        "heavy = ('torch', 'torchvision', 'numpy', 'matplotlib', 'rich', 'onnxruntime', 'sklearn')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603  # ourselves
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_their_scripts(shell: str) -> None:
    asked = {"_CNNCOMPRESS_COMPLETE": f"{shell}_source"}
    shown = CliRunner().invoke(main, [], prog_name="cnncompress", env=asked)
    assert shown.exit_code == 0
    assert f"{shell}_complete" in shown.stdout


BASH = shutil.which("bash")
INTERACTIVE = """
eval "$(_CNNCOMPRESS_COMPLETE=bash_source cnncompress)"
complete -p cnncompress
offer() {
    COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
    _cnncompress_completion cnncompress
    echo "${COMPREPLY[*]}"
}
offer cnncompress vgg16 --method gsvd,gsp
offer cnncompress bench --runtimes openv
offer cnncompress models sic004-k
"""


@pytest.mark.skipif(BASH is None, reason="needs bash")
def test_bash_completes_for_real(tmp_path: Path) -> None:
    program = tmp_path / "cnncompress"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m cnncompress "$@"\n')
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    assert BASH is not None
    done = subprocess.run(  # noqa: S603  # ourselves
        [BASH, "--norc", "-c", INTERACTIVE], capture_output=True, text=True, check=True, env=environment
    )
    registered, *replies = done.stdout.splitlines()
    assert registered.endswith("-F _cnncompress_completion cnncompress")
    assert replies == ["gsvd,gspatial", "openvino", "sic004-k"]
    assert done.stderr == ""
