"""Checks that a wheel holds exactly the source files of the three folders, under their import names."""

import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {"compress": "cnncompress", "solvers": "cnncompress/solvers", "cli": "cnncompress/cli"}
KINDS = {".py", ".jinja", ".safetensors", ".typed"}


def expected_files() -> set[str]:
    """Names in the wheel of all source files.

    Returns:
        Paths inside the wheel.
    """
    return {
        f"{target}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, target in FOLDERS.items()
        for path in (ROOT / folder).rglob("*")
        if (path.suffix in KINDS or path.name == "py.typed") and "__pycache__" not in path.parts
    }


def main(wheel: str) -> int:
    """Compare.

    Args:
        wheel: path of the wheel.

    Returns:
        Exit code: 0 if nothing is missing or too much.
    """
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    missing, surplus = sorted(expected_files() - found), sorted(found - expected_files())
    for name in missing:
        print(f"missing in the wheel: {name}; is its folder in pyproject.toml's packages?")
    for name in surplus:
        print(f"not expected in the wheel: {name}")
    return int(bool(missing or surplus))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
