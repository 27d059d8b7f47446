"""``python -m cnncompress.cli``."""

from cnncompress.cli import main

main(prog_name="cnncompress")
