"""Everything a run leaves behind, in one folder that appears whole or not at all."""

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from cnncompress.events import Note, Reporter, StageDone, StageStarted, silent
from cnncompress.export import ExportError, write_onnx, write_safetensors
from cnncompress.folder import atomic_folder
from cnncompress.memory import peak_rss_mb
from cnncompress.network import Network
from cnncompress.report import render_html
from cnncompress.standalone import write_model_file


def write_results(
    folder: str | Path,
    model: nn.Module,
    plan: Mapping[str, Any],
    report: Mapping[str, Any],
    network: Network,
    *,
    overwrite: bool = False,
    progress: Reporter = silent,
) -> Path:
    """Write model.safetensors, model.py, plan.json, model.onnx, report.json and report.html.

    A network that has no ONNX form, or none in plain torch, is written without it, with a note in the report
    and to ``progress``: the results of a long run are worth more than one of their formats. A folder that
    must not be replaced or can't be written is an `OutputError`, and nothing is left behind.

    Args:
        folder: to be written.
        model: the compressed network.
        plan: what `Plan.to_json` returns.
        report: what report.json shall hold (schema 1); the input's size, the time of saving, the peak memory
            so far and, where needed, a note are put in.
        network: the original, for its input size, preprocessing and categories.
        overwrite: a folder of earlier results may be replaced.
        progress: receives the stage and notes.

    Returns:
        The folder.
    """
    stage, started = "save", time.perf_counter()
    progress(StageStarted(stage))
    full = {**report, "input_size": list(network.input_size), "notes": list(report.get("notes") or [])}
    with atomic_folder(folder, overwrite=overwrite) as temporary:
        weights = temporary / "model.safetensors"
        described: dict[str, Any] = {
            "categories": network.categories,
            "preprocess": network.preprocess.to_json(),
        }
        write_safetensors(model, weights, {"format": "pt", "plan": dict(plan)})
        writers: dict[str, Callable[[Path], None]] = {
            "model.py": lambda path: write_model_file(
                model,
                path,
                weights,
                input_size=network.input_size,
                header=_header(full, network),
                **described,
            ),
            "model.onnx": lambda path: write_onnx(model, network.input_size, path, **described),
        }
        for name, write in writers.items():
            try:
                write(temporary / name)
            except ExportError as error:
                note = f"no {name}: " + str(error).replace(f"{temporary}/", "")
                full["notes"].append(note)
                progress(Note(note))
        if full.get("timing"):
            full["timing"] = _with_saving(full["timing"], time.perf_counter() - started)
            full["peak_rss_mb"] = peak_rss_mb()
        write_json(temporary / "plan.json", plan)
        write_json(temporary / "report.json", full)
        _write_text(temporary / "report.html", render_html(strict_json(full)))
    progress(StageDone(stage, time.perf_counter() - started))
    return Path(folder)


def _header(report: Mapping[str, Any], network: Network) -> list[str]:
    """What made the network, without times and paths, so that the same run writes the same file."""
    macs, versions = report.get("macs") or {}, report.get("environment") or {}
    lines = [f"Network: {network.name}; its weights: {network.weights}"]
    if macs:
        lines.append(
            f"Multiply-accumulates: {macs['after']:,} of {macs['before']:,}, {macs['speedup']:.2f}x fewer"
        )
    made = [f"{package} {versions[package]}" for package in ("cnncompress", "torch") if package in versions]
    return [*lines, *([f"Made by {', '.join(made)}"] if made else [])]


def _with_saving(timing: Mapping[str, float], seconds: float) -> dict[str, float]:
    stages = {stage: value for stage, value in timing.items() if stage != "total"}
    total = timing.get("total", sum(stages.values())) + seconds
    return {**stages, "save": seconds, "total": total}


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file that every parser reads.

    Args:
        path: the file.
        value: JSON-able; NaN and infinity become null.
    """
    _write_text(path, json.dumps(strict_json(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _write_text(path: Path, text: str) -> None:
    # names of files may hold bytes that are no text; JSON reads such an escape back
    path.write_bytes(text.encode("utf-8", "backslashreplace"))


def strict_json(value: Any) -> Any:
    """Replace what JSON doesn't know.

    Args:
        value: dictionaries, lists, tuples and plain values.

    Returns:
        The same with null for NaN and infinity, and lists for tuples.
    """
    if isinstance(value, Mapping):
        return {str(key): strict_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
