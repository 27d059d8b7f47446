"""The solutions of Zhang et al. against each other: one kind throughout the network, nothing judged.

The pipeline keeps for every layer the solution that is best on held-out images. What each kind would
have done alone, errors of earlier layers piling up, is only seen by running it alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from cnncompress.decompositions import knows_option
from cnncompress.events import Note, Reporter, StageAdvanced
from cnncompress.plan import LayerPlan

VARIANTS = {
    "symmetric linear": {"symmetric": True, "nonlinear": False, "judge": False},
    "symmetric nonlinear": {"symmetric": True, "nonlinear": True, "judge": False},
    "asymmetric linear": {"symmetric": False, "nonlinear": False, "judge": False},
    "asymmetric nonlinear": {"symmetric": False, "nonlinear": True, "judge": False},
}


def compare_variants(
    plans: Sequence[LayerPlan],
    errors: Callable[[Sequence[LayerPlan]], dict[str, float]],
    report: Reporter,
) -> dict[str, dict[str, float]]:
    """Held-out errors along depth of each kind of solution.

    Args:
        plans: of the run; methods that know no such kinds stay as they are.
        errors: runs plans on a fresh copy of the network and gives each layer's held-out error.
        report: receives one step for each kind.

    Returns:
        For each layer the error of every kind.
    """
    found: dict[str, dict[str, float]] = {}
    if not any(_knows_kinds(plan) for plan in plans):
        report(Note("no method of this plan has symmetric and asymmetric solutions: nothing to compare"))
        return found
    concerned = {plan.name for plan in plans if _knows_kinds(plan)}
    for variant, options in VARIANTS.items():
        for layer, error in errors([_as(plan, options) for plan in plans]).items():
            if layer in concerned:
                found.setdefault(layer, {})[variant] = error
        report(StageAdvanced("compare"))
    return found


def _as(plan: LayerPlan, options: dict[str, bool]) -> LayerPlan:
    return replace(plan, options={**plan.options, **options}) if _knows_kinds(plan) else plan


def _knows_kinds(plan: LayerPlan) -> bool:
    kinds = next(iter(VARIANTS.values()))
    return plan.method != "none" and all(knows_option(plan.method, option) for option in kinds)
