"""What a fine-tuning brought, as a table and in one line."""

from collections.abc import Mapping
from typing import Any

from cnncompress.cli.progress import amount
from cnncompress.cli.tables import print_table
from cnncompress.formats import format_number


def print_epochs(done: Mapping[str, Any]) -> None:
    """Print a line for the start and for each epoch.

    Args:
        done: the report's ``finetune``.
    """
    columns = ("epoch", "loss", "held-out loss", "right", "seconds", "")
    accuracies = done["accuracies"] or [None] * len(done["history"])
    rows = []
    for epoch, (held_out, accuracy) in enumerate(zip(done["history"], accuracies, strict=True)):
        rows.append(
            (
                str(epoch) if epoch else "start",
                format_number(done["losses"][epoch - 1]) if epoch else "-",
                format_number(held_out),
                "-" if accuracy is None else f"{accuracy:.2f} %",
                f"{done['seconds'][epoch - 1]:.1f}" if epoch else "-",
                "kept" if epoch == done["kept"] else "",
            )
        )
    print_table(columns, rows, right=columns[:5])


def held_out_gain(report: Mapping[str, Any]) -> str:
    """The outcome in one line.

    Args:
        report: what report.json holds after a fine-tuning.

    Returns:
        The held-out figures, the accuracy on evaluation images where there are some, and why it ended.
    """
    done = report["finetune"]
    kept, measured = done["kept"], done["evaluation"]
    if done["accuracies"]:
        held_out = f"held-out {done['accuracies'][0]:.1f} -> {done['accuracies'][kept]:.1f} %"
    else:
        before, after = (format_number(done["history"][epoch]) for epoch in (0, kept))
        held_out = f"held-out loss {before} -> {after}"
    which = (
        f"epoch {kept} of {done['epochs']} kept" if kept else f"the start kept, {done['epochs']} epochs run"
    )
    parts = [f"{held_out} ({which}, {amount(done['held_out'], 'images')}, by {done['objective']})"]
    if measured:
        low, high = measured["ci95_paired"]
        parts.append(
            f"top-1 {measured['top1_before']:.1f} -> {measured['top1_after']:.1f} % "
            f"({measured['gain_top1']:+z.1f} points, {low:+z.1f} to {high:+z.1f}, "
            f"{amount(measured['n'], 'images')})"
        )
    if report.get("accuracy"):
        parts.append(f"original {report['accuracy']['top1_before']:.1f} %")
    parts.append(done["note"])
    return f"{report['name']}: " + "; ".join(parts)
