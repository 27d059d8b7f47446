"""Replacements that would be slower are found before anything is solved; no real time is asserted."""

from types import SimpleNamespace

import numpy as np
import pytest
from torch import nn

from cnncompress import worthwhile
from cnncompress.errors import SlowerError
from cnncompress.events import Note
from cnncompress.factorize import originals
from cnncompress.inspect import inspect_layers
from cnncompress.layers import ChannelOrder
from cnncompress.options import Options
from cnncompress.planning import outline


@pytest.fixture
def net():
    return nn.Sequential(
        nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
    ).eval()  # fmt: skip


@pytest.fixture
def clock(monkeypatch):
    """A clock that says what the test wants, and remembers what it was shown."""
    fake = SimpleNamespace(ratios={}, shown=[])

    def time_replacements(pairs, *, device, layout, report):
        for layer, before, after in pairs:
            fake.shown.append((layer.name, before, after))
            speedup = fake.ratios.get(layer.name, 2.0)
            yield SimpleNamespace(
                name=layer.name,
                ms_before=10.0,
                ms_after=10.0 / speedup,
                speedup=speedup,
                threads=1,
                batch=1,
                device=str(device),
            )

    monkeypatch.setattr(worthwhile, "time_replacements", time_replacements)
    return fake


def plan(net, notes=None, **options):
    notes = [] if notes is None else notes
    chosen = Options(**({"method": "svd-out", "speedup": 1.5, "align": 1} | options))
    layers = inspect_layers(net, (16, 12, 12))
    found = outline(layers, chosen)
    weights = {name: weight for name, (weight, _) in originals(net, list(found.methods)).items()}
    return worthwhile.plan_worthwhile(found, weights, lambda _: None, net, chosen, notes.append)


def test_fast_replacements_are_planned_and_timed_once(net, clock):
    plans, times = plan(net)
    assert [p.method for p in plans] == ["svd-out"] * 3
    assert set(times) == {"0", "2", "4"}
    assert [name for name, *_ in clock.shown] == ["0", "2", "4"]


def test_a_slower_layer_stays_and_the_others_make_up_for_it(net, clock):
    clock.ratios = {"2": 0.5}
    notes = []
    plans, times = plan(net, notes, speedup=1.3)
    by_name = {p.name: p for p in plans}
    assert by_name["2"].method == "none"
    assert "takes 20 ms where the layer takes 10" in by_name["2"].reason
    assert set(times) == {"0", "4"}
    assert [type(note) for note in notes] == [Note]
    free, _ = plan(net, speedup=1.3, allow_slower=True)
    before = {p.name: p for p in free}
    assert by_name["4"].ranks < before["4"].ranks


def test_a_budget_that_slower_layers_make_unreachable_names_them(net, clock):
    clock.ratios = {"2": 0.5, "4": 0.9}
    with pytest.raises(SlowerError, match=r"2: svd-out \(.*takes 20 ms.*--allow-slower"):
        plan(net, speedup=3.0)


def test_all_slower_is_an_error(net, clock):
    clock.ratios = dict.fromkeys(("0", "2", "4"), 0.8)
    with pytest.raises(SlowerError, match="every replacement is slower"):
        plan(net, speedup=1.05)


@pytest.mark.parametrize(
    "fixed", [{"layer_ranks": {"2": (3,)}}, {"method": "outer", "method_options": {"K": 5}}]
)
def test_a_replacement_with_ranks_of_the_users_choice_is_refused(net, clock, fixed):
    clock.ratios = {"2": 0.5}
    with pytest.raises(SlowerError, match=r"^2: .*pass --allow-slower"):
        plan(net, only=("2",), **fixed)


def test_allowed_or_unmeasured_ones_are_kept(net, clock):
    clock.ratios = {"2": 0.5}
    plans, times = plan(net, allow_slower=True)
    assert [p.method for p in plans] == ["svd-out"] * 3
    assert times["2"].speedup == 0.5
    clock.shown.clear()
    plans, times = plan(net, measure=False)
    assert [p.method for p in plans] == ["svd-out"] * 3
    assert times == {}
    assert clock.shown == []


def test_timings_leave_out_permutations_that_neighbours_absorb(net, clock):
    before = {name: value.clone() for name, value in net.state_dict().items()}
    plan(net, method="biclustering-svd", only=("2", "4"), speedup=1.2)
    orders = {
        name: [type(part) for part in after if isinstance(part, ChannelOrder)]
        for name, _, after in clock.shown
    }
    assert set(orders) == {"2", "4"}
    # in front of 2 there is a layer to take its order; between 2 and 4 one order is left for both; the
    # network's own output must keep the order that it had
    assert len(orders["2"]) + len(orders["4"]) == 2
    assert all(np.array_equal(value, net.state_dict()[name]) for name, value in before.items())
