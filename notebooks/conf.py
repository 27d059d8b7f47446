"""The documentation site: ``sphinx-build -W --keep-going -b html notebooks build/site``.

Pages are the Markdown files of this folder; notebooks are shown with the outputs they were committed with,
and never executed here. The site reads nothing from the network, neither when it is built nor in a browser.
"""

import click
from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

from cnncompress import __version__

project = "cnncompress"
author = "the authors of cnncompress"
release = version = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click"]
exclude_patterns = ["build", "**/.ipynb_checkpoints"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the test suite executes them
nb_output_stderr = "remove"  # warnings of the machine that made them

smartquotes = False  # "--help" isn't "–help"
highlight_language = "text"
default_role = "code"  # docstrings put names between single backticks
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_use_ivar = True

html_theme = "furo"
html_title = f"cnncompress {release}"
html_copy_source = False
html_show_copyright = False
html_math_renderer = "mathml"

logger = logging.getLogger(__name__)


def _mathml(translator: HTML5Translator, node: nodes.math | nodes.math_block) -> None:
    """Write a formula as MathML, which browsers draw without a script."""
    block = isinstance(node, nodes.math_block)
    try:
        markup = tex2mathml(node.astext(), as_block=block)
    except MathError as error:
        logger.warning("formula %r: %s", node.astext(), error, location=node)
        raise nodes.SkipNode from None
    translator.body.append(f'<p style="overflow-x: auto">{markup}</p>' if block else markup)
    raise nodes.SkipNode


def _without_markup(app: Sphinx, context: click.Context, lines: list[str]) -> None:
    """Keep asterisks of the commands' help, which is plain text."""
    del app, context
    lines[:] = [line if "``" in line else line.replace("*", r"\*") for line in lines]


def setup(app: Sphinx) -> None:
    """Register what the settings above name.

    Args:
        app: Sphinx.
    """
    app.add_html_math_renderer("mathml", inline_renderers=(_mathml, None), block_renderers=(_mathml, None))
    for part in ("description", "arguments", "options"):
        app.connect(f"sphinx-click-process-{part}", _without_markup)
