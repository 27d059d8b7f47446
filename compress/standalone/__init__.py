"""A compressed network as one file of plain torch, which runs without cnncompress."""

from cnncompress.standalone.source import model_source
from cnncompress.standalone.writing import write_model_file

__all__ = ["model_source", "write_model_file"]
