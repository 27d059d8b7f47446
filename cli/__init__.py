"""The command line: parses, calls the toolkit, draws its events, sets the exit code."""

from cnncompress.cli.main import main

__all__ = ["main"]
