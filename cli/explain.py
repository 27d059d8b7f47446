"""``cnncompress explain OUT [LAYER]``: why each layer got its method and ranks."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from cnncompress.cli.completion import folders, layers_of_out

_REPORT = "report.json"
_SCHEMA = 1
_REASONS = ("name", "method", "ranks", "energy_kept", "reason")


@click.command()
@click.argument("out", type=click.Path(path_type=Path), shell_complete=folders)
@click.argument("layer", required=False, shell_complete=layers_of_out)
@click.option("--json", "as_json", is_flag=True, help="Print JSON to stdout, and nothing else.")
def explain(out: Path, layer: str | None, as_json: bool) -> None:
    """Say why each layer in folder OUT got its method and ranks.

    The table gives a line to each layer: its share of the loss, its cost before and after, what the next best
    choice was and what spoke against it. With LAYER, all that was close for that layer, and how far its
    predicted loss could be trusted. Only OUT/report.json is read.

    With --json, what the planner noted in the report, or LAYER's part of it; where a rule keeps no record,
    each layer's method, ranks and reason.
    """
    report = _read(out)
    if layer is not None:
        _check(report, layer)
    if as_json:
        click.echo(json.dumps(_as_json(report, layer), indent=2))
        return
    from cnncompress.cli.explain_words import headline

    for text in headline(report):
        click.echo(text)
    click.echo()
    if "unit" not in (report.get("planner") or {}):  # trials alone, of a rule that keeps no record
        _print_reasons(report, layer)
    elif layer is None:
        _print_choices(report)
    else:
        _print_layer(report, layer)


def _read(out: Path) -> dict[str, Any]:
    from cnncompress.errors import OutputError

    path = out / _REPORT
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        parts = sorted(str(found.parent) for found in out.glob(f"*/{_REPORT}"))
        advice = (
            f"did you mean {' or '.join(parts)}?" if parts else "name a folder that cnncompress has written"
        )
        raise OutputError(f"{out}: holds no {_REPORT}; {advice}") from None
    except OSError as error:
        raise OutputError(f"{path}: can't be read ({error.strerror})") from None
    except ValueError:
        raise OutputError(f"{path}: isn't JSON; name a folder that cnncompress has written") from None
    if not isinstance(report, dict) or report.get("schema") != _SCHEMA or "layers" not in report:
        raise OutputError(
            f"{path}: isn't a report of schema {_SCHEMA}; name a folder that cnncompress has written"
        )
    return report


def _check(report: Mapping[str, Any], layer: str) -> None:
    from cnncompress.errors import ModelError, unknown_name

    known = [row["name"] for row in report["layers"]]
    if layer not in known:
        raise ModelError(f"{report['name']}: {unknown_name('layer', layer, known)}")


def _as_json(report: Mapping[str, Any], name: str | None) -> Mapping[str, Any]:
    """The planner's record, or the reasons where its rule keeps none."""
    reasons = [{key: layer[key] for key in _REASONS} for layer in report["layers"]]
    if name is None:
        return report.get("planner") or {"layers": reasons}
    return _line(report, name) or next(layer for layer in reasons if layer["name"] == name)


def _line(report: Mapping[str, Any], layer: str) -> Mapping[str, Any] | None:
    lines: list[Mapping[str, Any]] = (report.get("planner") or {}).get("layers", [])
    return next((line for line in lines if line["name"] == layer), None)


def _print_choices(report: Mapping[str, Any]) -> None:
    from cnncompress.cli.explain_words import columns, row
    from cnncompress.cli.tables import print_table

    planner = report["planner"]
    headers = columns(planner)
    rows = [row(planner, layer, _line(report, layer["name"])) for layer in report["layers"]]
    print_table(headers, rows, right=headers[3:6], wrap=headers[-1:])


def _print_layer(report: Mapping[str, Any], name: str) -> None:
    from cnncompress.cli.explain_words import alternative_columns, alternatives, paragraph
    from cnncompress.cli.tables import print_table

    planner, line = report["planner"], _line(report, name)
    layer = next(row for row in report["layers"] if row["name"] == name)
    if line is None:
        click.echo(f"{name}: stays as it is; {layer['reason'] or 'there was nothing to choose'}")
        return
    for text in paragraph(planner, layer, line):
        click.echo(text)
    if rows := alternatives(planner, line):
        click.echo()
        headers = alternative_columns(planner)
        print_table(headers, rows, right=headers[2:5], wrap=headers[-1:])


# a rule that weighs nothing against each other leaves only reasons and the kept energy
def _print_reasons(report: Mapping[str, Any], name: str | None) -> None:
    from cnncompress.cli.tables import print_table
    from cnncompress.formats import format_percent

    columns = ("layer", "method", "ranks", "energy", "why")
    rows = [
        (
            layer["name"],
            layer["method"] if layer["ranks"] else "-",
            ",".join(map(str, layer["ranks"])) or "-",
            format_percent(layer["energy_kept"]),
            layer["reason"] or "-",
        )
        for layer in report["layers"]
        if name in {None, layer["name"]}
    ]
    print_table(columns, rows, right=("energy",), wrap=("why",))
