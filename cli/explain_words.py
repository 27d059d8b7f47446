"""Why a layer got its method and ranks, in words, from the planner's part of a report."""

from collections.abc import Mapping, Sequence
from typing import Any

from cnncompress.formats import format_count, format_number, format_percent, format_times

MISSING = "-"
_TIME = "ms"
_METRICS = {
    "loss": "change of the network's own output",
    "response": "error of the layers' responses",
    "energy": "energy that is lost",
}


def headline(report: Mapping[str, Any]) -> list[str]:
    """What was asked, what was spent, and how good the choice is.

    Args:
        report: schema 1.

    Returns:
        A few lines.
    """
    planner = report.get("planner") or {}
    if "unit" not in planner:
        asked = report["asked"]
        aim = (
            f"asked {format_times(asked['speedup'])} by {asked['budget']}"
            if asked["speedup"]
            else "no budget"
        )
        rule = report.get("options", {}).get("ranks") or "unknown"
        return [f"{report['name']}: {aim}; ranks by the rule {rule!r}, without a record of alternatives"]
    unit = planner["unit"]
    spent, total = planner["spent"], planner["total"]
    reached = f", {format_times(total / spent)} less" if spent else ""
    lines = [
        f"{report['name']}: asked {format_times(planner['asked'])} by {_unit(unit)}{_setting(planner)}; "
        f"of {_amount(total, unit)} {_amount(planner['budget'], unit)} may be spent and "
        f"{_amount(spent, unit)} are{reached}; {_amount(planner['fixed'], unit)} are in what isn't replaced"
    ]
    lines += [_round(number, one) for number, one in enumerate(planner.get("rounds") or [], 1)]
    metric = _METRICS.get(planner.get("distortion") or "")
    best = (
        "no other choice within the budget loses less"
        if planner.get("proved")
        else f"no choice within the budget loses less than {planner['bound']:.4g} "
        f"(gap {format_percent(planner['gap'], 2)})"
    )
    lines.append(
        f"loss {planner['loss']:.4g}{f' ({metric})' if metric else ''}; {best}; "
        f"price {_short(planner['price'])} of loss per {_one(unit)}"
    )
    return lines


def columns(planner: Mapping[str, Any]) -> tuple[str, ...]:
    """Headers of the table of layers.

    Args:
        planner: the report's part on the planner.

    Returns:
        The last one is that of the long texts.
    """
    unit = _listed_unit(planner)
    return (
        *("layer", "method", "ranks", "loss share", f"{unit} before", f"{unit} after"),
        *("next best", "why not that"),
    )


def row(
    planner: Mapping[str, Any], layer: Mapping[str, Any], line: Mapping[str, Any] | None
) -> tuple[str, ...]:
    """One layer of the table.

    Args:
        planner: the report's part on the planner.
        layer: the report's line of the layer.
        line: the planner's line of it; None if it had nothing to choose.

    Returns:
        A text for each of the columns.
    """
    unit = _listed_unit(planner)
    if line is None:
        cost = _number(layer["macs_before"] if unit == "MACs" else None, unit)
        return (layer["name"], MISSING, MISSING, MISSING, cost, cost, MISSING, layer["reason"] or MISSING)
    best = next(iter(line["alternatives"]), None)
    return (
        line["name"],
        _method(line),
        _ranks(line) or MISSING,
        format_percent(line["loss"] / planner["loss"]) if planner["loss"] else MISSING,
        _number(_before(line, unit), unit),
        _number(_after(line, unit), unit),
        f"{_method(best)} {_ranks(best)}".strip() if best else MISSING,
        why_not(planner, line, best) if best else layer["reason"] or "nothing else was possible",
    )


def why_not(planner: Mapping[str, Any], line: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """What spoke against an alternative.

    Args:
        planner: the report's part on the planner.
        line: of a layer.
        other: one of the layer's alternatives.

    Returns:
        For example ``"saves 0.2 ms, but loses 0.004 more"``.
    """
    loss = other["loss"] - line["loss"]
    cost = _extra_cost(planner, line, other)
    unit = planner["unit"]
    loses = f"{_short(abs(loss))} more"
    if cost is None:
        return f"loses {loses}" if loss > 0 else "not needed within the budget"
    spends = f"{_amount(abs(cost), unit)} more"
    if cost >= 0 and loss >= 0:
        if cost == 0 == loss:
            return "exactly as good"
        parts = [
            f"loses {loses}" if loss else "loses as much",
            f"costs {spends}" if cost else "costs as much",
        ]
        return " and ".join(parts)
    if cost <= 0 and loss <= 0:
        # chosen against the numbers: by the user, or because it was measured slower
        return "better by these numbers, ruled out elsewhere"
    if cost > 0:
        saved = f"loses {_short(-loss)} less, but costs {spends}"
        return saved if other["excess"] > 0 else f"{saved}: worth it, but not within the budget"
    saved = f"saves {_amount(-cost, unit)}, but loses {loses}"
    return saved if other["excess"] > 0 else f"{saved}: what it saves buys less elsewhere"


def paragraph(planner: Mapping[str, Any], layer: Mapping[str, Any], line: Mapping[str, Any]) -> list[str]:
    """One layer at length.

    Args:
        planner: the report's part on the planner.
        layer: the report's line of the layer.
        line: the planner's line of it.

    Returns:
        A few lines, without the alternatives.
    """
    unit, ranks = _listed_unit(planner), _ranks(line)
    share = f", {format_percent(line['loss'] / planner['loss'])} of all loss" if planner["loss"] else ""
    chosen = f"{line['method']} with ranks {ranks}" if ranks else f"{_method(line)} as it is"
    reason = f" ({layer['reason']})" if layer["reason"] else ""
    lines = [
        f"{line['name']}: {chosen}{reason}; {_amount(_before(line, unit), unit)} -> "
        f"{_amount(_after(line, unit), unit)}, loss {_short(line['loss'])}{share}; "
        f"{line['considered']} possibilities were considered"
    ]
    if line.get("measured_ms") is not None:
        lines.append(f"measured alone, the replacement takes {_amount(line['measured_ms'], _TIME)}")
    probe = line.get("probe")
    if not probe:
        return [*lines, "no replacement was tried in the network beforehand; the loss is an estimate"]
    lines.append(
        f"tried in the network: {probe['method']} {_ranks(probe)} was predicted to lose "
        f"{_short(probe['predicted'])} and lost {_short(probe['real'])}; "
        f"the layer's losses were multiplied by {format_number(line['weight'], 2)}"
    )
    return lines


def alternative_columns(planner: Mapping[str, Any]) -> tuple[str, ...]:
    """Headers of the table of alternatives.

    Args:
        planner: the report's part on the planner.

    Returns:
        The last one is that of the long texts.
    """
    return ("alternative", "ranks", "loss", _listed_unit(planner), "worse by", "why not")


def alternatives(planner: Mapping[str, Any], line: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """What else a layer could have become, the best first.

    Args:
        planner: the report's part on the planner.
        line: of the layer.

    Returns:
        Rows of a table; ``worse by`` is loss, the cost counted at the common price.
    """
    unit = _listed_unit(planner)
    return [
        (
            _method(other),
            _ranks(other) or MISSING,
            _short(other["loss"]),
            _number(_after(other, unit), unit),
            _short(other["excess"]),
            why_not(planner, line, other),
        )
        for other in line["alternatives"]
    ]


def _round(number: int, one: Mapping[str, Any]) -> str:
    return (
        f"round {number}: aimed at {format_times(one['aimed'])}, "
        f"predicted {_amount(one['predicted_ms'], _TIME)}, "
        f"measured {_amount(one['measured_ms'], _TIME)} ({format_times(one['measured_speedup'])})"
    )


def _extra_cost(
    planner: Mapping[str, Any], line: Mapping[str, Any], other: Mapping[str, Any]
) -> float | None:
    unit = planner["unit"]
    here, there = _after(line, unit), _after(other, unit)
    if here is not None and there is not None:
        return there - here
    # parameters aren't listed, but follow from the excess: loss + price x cost
    price = planner["price"]
    return float(round((other["excess"] - (other["loss"] - line["loss"])) / price)) if price else None


def _before(line: Mapping[str, Any], unit: str) -> float | None:
    return _listed(line, unit, "_before")


def _after(line: Mapping[str, Any], unit: str) -> float | None:
    return _listed(line, unit, "")


def _listed(line: Mapping[str, Any], unit: str, when: str) -> float | None:
    found: float | None = line.get(f"{unit.lower()}{when}")
    return found


def _listed_unit(planner: Mapping[str, Any]) -> str:
    return _TIME if planner["unit"] == _TIME else "MACs"


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return MISSING
    return f"{value:.3g}" if unit == _TIME else format_count(value)


def _amount(value: float | None, unit: str) -> str:
    return f"{_number(value, unit)} {unit}"


def _short(value: float) -> str:
    return f"{value:.2g}"


def _method(line: Mapping[str, Any]) -> str:
    return "the layer" if line["method"] == "none" else str(line["method"])


def _ranks(line: Mapping[str, Any]) -> str:
    ranks: Sequence[int] = line["ranks"]
    return ",".join(map(str, ranks))


def _unit(unit: str) -> str:
    return "measured time" if unit == _TIME else unit


def _one(unit: str) -> str:
    return {"MACs": "MAC", "parameters": "parameter"}.get(unit, unit)


def _setting(planner: Mapping[str, Any]) -> str:
    setting = planner.get("setting")
    if not setting:
        return ""
    threads = "1 thread" if setting["threads"] == 1 else f"{setting['threads']} threads"
    return f" ({setting['runtime']}, {setting['device']}, {threads}, batch {setting['batch']})"
