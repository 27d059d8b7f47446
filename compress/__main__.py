"""``python -m cnncompress``."""

from importlib import import_module

# by name: the toolkit itself must not depend on its shell
import_module("cnncompress.cli").main(prog_name="cnncompress")
