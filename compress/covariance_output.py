"""Writes a study of covariances: pictures, numbers and matrices."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnncompress.covariance import CovarianceStudy
from cnncompress.covariance_figures import layer_picture, pair_picture
from cnncompress.folder import atomic_folder
from cnncompress.output import write_json
from cnncompress.solvers.grouping import Grouping


def study_to_json(study: CovarianceStudy) -> dict[str, Any]:
    """All numbers but the matrices.

    Args:
        study: to be told.

    Returns:
        JSON-able; ``row_order`` and ``column_order`` are the channels sorted by group.
    """
    return {
        "schema": 1,
        "images": study.images,
        "pixels_of_an_image": study.pixels,
        "layers": [
            {
                "name": layer.name,
                "channels": layer.channels,
                "samples": layer.samples,
                "suggested_groups": layer.suggested,
                "groupings": _groupings(layer.groupings),
            }
            for layer in study.layers
        ],
        "pairs": [
            {
                "first": pair.first,
                "second": pair.second,
                "grid": list(pair.grid),
                "own_groups": pair.own_groups,
                "samples": pair.samples,
                "suggested_groups": pair.suggested,
                "groupings": _groupings(pair.groupings),
            }
            for pair in study.pairs
        ],
        "notes": list(study.notes),
    }


def _groupings(groupings: Sequence[Grouping]) -> list[dict[str, Any]]:
    return [
        {
            "groups": grouping.groups,
            "score": grouping.score,
            "chance": grouping.chance,
            "as_they_stand": grouping.contiguous,
            "row_order": grouping.rows.order.tolist(),
            "column_order": grouping.columns.order.tolist(),
        }
        for grouping in groupings
    ]


def write_study(folder: str | Path, study: CovarianceStudy) -> tuple[Path, ...]:
    """Write ``covariance.json``, ``covariance.npz`` and a PNG for each layer and pair.

    The archive holds float32 matrices: ``correlation/LAYER``, ``plain/FIRST/SECOND`` and
    ``whitened/FIRST/SECOND``. A folder that holds anything is an `OutputError`, and nothing is written.

    Args:
        folder: to be written; new or empty.
        study: what was measured.

    Returns:
        The files.
    """
    target, pictures = Path(folder), []
    with atomic_folder(target) as temporary:
        write_json(temporary / "covariance.json", study_to_json(study))
        np.savez_compressed(temporary / "covariance.npz", **_matrices(study))  # type: ignore[arg-type]  # its stubs take the names for an option's
        for layer in study.layers:
            pictures.append(_file("layer", layer.name))
            (temporary / pictures[-1]).write_bytes(layer_picture(layer))
        for pair in study.pairs:
            pictures.append(_file("pair", pair.first, pair.second))
            (temporary / pictures[-1]).write_bytes(pair_picture(pair))
    return tuple(target / name for name in ("covariance.json", "covariance.npz", *pictures))


def _matrices(study: CovarianceStudy) -> dict[str, np.ndarray]:
    found = {f"correlation/{layer.name}": layer.correlation for layer in study.layers}
    for pair in study.pairs:
        found[f"plain/{pair.first}/{pair.second}"] = pair.plain
        found[f"whitened/{pair.first}/{pair.second}"] = pair.whitened
    return {name: matrix.astype(np.float32) for name, matrix in found.items()}


def _file(kind: str, *names: str) -> str:
    return "-".join((kind, *(re.sub(r"[^\w.]", "_", name) for name in names))) + ".png"
