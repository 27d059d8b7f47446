"""Tables on disk, each for one setting, one set of versions and one machine."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from cnncompress.downloads import cache_folder
from cnncompress.environment import cpu_name, usable_cores
from cnncompress.events import Note, Reporter
from cnncompress.latency.parts import Part
from cnncompress.latency.setting import Setting
from cnncompress.runtimes import runtime_versions

SCHEMA = 1
"""Of the file, and of the way in which times are taken: raised when either changes."""


def key_of(setting: Setting) -> dict[str, Any]:
    """What must be equal for a table to be used again.

    Args:
        setting: the conditions.

    Returns:
        JSON-able: the schema, versions, the machine and the conditions.
    """
    on_gpu = torch.cuda.is_available() and (
        setting.runtime.startswith("cuda") or setting.device.startswith("cuda")
    )
    return {
        "schema": SCHEMA,
        "versions": runtime_versions("torch") | runtime_versions(setting.runtime),
        "cpu": cpu_name(),
        "isa": torch.backends.cpu.get_cpu_capability(),
        "cores": usable_cores(),
        "gpu": torch.cuda.get_device_name(setting.device if setting.device != "cpu" else None)
        if on_gpu
        else "",
        "setting": asdict(setting),
    }


class Store:
    """The file of one setting.

    Args:
        setting: the conditions.
        folder: that cached files live in; the default one if None.
        report: hears why times are measured anew or not kept.
    """

    def __init__(self, setting: Setting, folder: Path | None, report: Reporter) -> None:
        self._key, self._report = key_of(setting), report
        parts = (
            setting.runtime,
            setting.device.replace(":", ""),
            f"threads{setting.threads}",
            f"batch{setting.batch}",
            "channels-last" if setting.channels_last else "contiguous",
            setting.dtype,
        )
        self.file = (folder or cache_folder()) / "latency" / ("-".join(parts) + ".json")

    def read(self) -> dict[Part, float]:
        """What is known.

        Returns:
            Milliseconds of each part; empty where there is no table, or none that may be used.
        """
        try:
            content = json.loads(self.file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            self._anew(f"can't be read ({type(error).__name__})")
            return {}
        differences = _differences(content.get("key") if isinstance(content, dict) else None, self._key)
        if differences:
            self._anew(f"holds times taken elsewhere ({differences})")
            return {}
        try:
            return dict(map(_entry, content["parts"]))
        except (KeyError, TypeError, ValueError) as error:
            self._anew(f"is damaged ({type(error).__name__}: {error})")
            return {}

    def _anew(self, reason: str) -> None:
        self._report(Note(f"latency table {self.file} {reason}: times are measured anew"))

    def write(self, times: Mapping[Part, float]) -> None:
        """Keep times; where the folder can't be written, say so and go on.

        Args:
            times: all that is known, that of before included.
        """
        content = {"key": self._key, "parts": [{**part.to_json(), "ms": ms} for part, ms in times.items()]}
        temporary = self.file.with_name(f"{self.file.name}.{os.getpid()}.tmp")
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            try:
                temporary.write_text(json.dumps(content), encoding="utf-8")
                temporary.replace(self.file)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            self._report(
                Note(
                    f"latency table {self.file} can't be written ({error.strerror or error}) and will be "
                    "measured anew next time; set CNNCOMPRESS_CACHE to another folder"
                )
            )


def _entry(line: Any) -> tuple[Part, float]:
    values = dict(line)
    ms = values.pop("ms")
    if not isinstance(ms, float) or not 0 < ms < float("inf"):
        raise ValueError(f"a time of {ms!r} ms")
    return Part.from_json(values), ms


def _differences(found: Any, key: Mapping[str, Any]) -> str:
    if not isinstance(found, dict):
        return "no key"
    names = [name for name in {**key, **found} if found.get(name) != key.get(name)]
    return ", ".join(f"{name}: {found.get(name)!r}, here {key.get(name)!r}" for name in names)
