"""A baseline: what the networks answered once, so that later checks need not run the original."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnncompress.environment import environment
from cnncompress.errors import DataError, OutputError
from cnncompress.gate.outcomes import Outcomes
from cnncompress.image_source import ImageSource
from cnncompress.text_file import write_text

SCHEMA = 1
KIND = "cnncompress baseline"
NETWORKS = ("original", "compressed")


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """Right and wrong answers of both networks on a list of images.

    Attributes:
        network: name of the network.
        weights: of the original, one line.
        data_hash: of the list of images and their labels.
        description: of the images.
        images: length of the list.
        preprocess: how the images were prepared.
        original: outcomes of the original network.
        compressed: outcomes of the compressed network at that time.
    """

    network: str
    weights: str
    data_hash: str
    description: str
    images: int
    preprocess: Mapping[str, Any]
    original: Outcomes
    compressed: Outcomes

    def outcomes(self, source: ImageSource, preprocess: Mapping[str, Any], against: str) -> Outcomes:
        """What a network answered on these very images.

        Args:
            source: the images of the check.
            preprocess: how they are prepared for the network that is checked.
            against: of `NETWORKS`.

        Returns:
            The outcomes.

        Raises:
            DataError: the baseline was made on other images, or on images prepared in another way.
        """
        if source.hash != self.data_hash:
            raise DataError(
                f"the baseline was made on other images ({self.description}, hash {self.data_hash[:12]}) "
                f"than {source.description}, hash {source.hash[:12]}: files, sizes or labels differ; check "
                "on the same images, or write the baseline anew with --write-baseline"
            )
        if _plain(preprocess) != _plain(self.preprocess):
            raise DataError(
                f"{self.network}: the images were prepared as {_plain(self.preprocess)} for the baseline, "
                f"but the network takes {_plain(preprocess)}; write the baseline anew with --write-baseline"
            )
        return self.original if against == "original" else self.compressed

    def write(self, path: Path) -> None:
        """Write the baseline, replacing an earlier one when all is well.

        Args:
            path: the file.
        """
        value = {
            "kind": KIND,
            "schema": SCHEMA,
            "network": self.network,
            "weights": self.weights,
            "data": {"hash": self.data_hash, "description": self.description, "images": self.images},
            "preprocess": dict(self.preprocess),
            "original": self.original.to_json(),
            "compressed": self.compressed.to_json(),
            "environment": environment(),
        }
        write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, path: Path) -> "Baseline":
        """Read a baseline.

        Args:
            path: the file.

        Returns:
            The baseline.

        Raises:
            OutputError: the file can't be read or isn't a baseline.
        """
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise OutputError(f"{path}: can't be read as a baseline: {error}") from None
        if not isinstance(value, dict) or value.get("kind") != KIND:
            raise OutputError(f"{path}: is no baseline; write one with --write-baseline {path}")
        if value.get("schema") != SCHEMA:
            raise OutputError(
                f"{path}: has schema {value.get('schema')!r}, this version reads {SCHEMA}; write it anew"
            )
        try:
            images = int(value["data"]["images"])
            return cls(
                network=str(value["network"]),
                weights=str(value["weights"]),
                data_hash=str(value["data"]["hash"]),
                description=str(value["data"]["description"]),
                images=images,
                preprocess=dict(value["preprocess"]),
                original=Outcomes.from_json(value["original"], images),
                compressed=Outcomes.from_json(value["compressed"], images),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise OutputError(f"{path}: is damaged: {error}; write it anew with --write-baseline") from None


def _plain(preprocess: Mapping[str, Any]) -> Any:
    # as JSON gives it back, where tuples are lists
    return json.loads(json.dumps(dict(preprocess), sort_keys=True))
