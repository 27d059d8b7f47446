"""Latency tables: what is timed in turn, interpolated, shared and kept."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from torch import nn

from cnncompress.cli import main
from cnncompress.decompositions import make
from cnncompress.decompositions.chains import Block, Link, Reorder, Shuffle, build_chain
from cnncompress.errors import OptionError
from cnncompress.events import Event, Note, StageAdvanced, StageStarted
from cnncompress.inspect import LayerInfo
from cnncompress.latency import LatencyTable, Request, Setting, latency_table, taking
from cnncompress.latency.knots import interpolated, knots, scaled
from cnncompress.latency.parts import Part, layer_part, placed_steps, step_part
from cnncompress.latency.rounds import Pace, interleaved
from cnncompress.latency.store import Store
from cnncompress.latency.taking import Stopwatch, wanted_parts
from cnncompress.runtimes import runtime_named

LAYER = LayerInfo(
    name="conv",
    kind="conv2d",
    in_channels=24,
    out_channels=32,
    kernel_size=(3, 3),
    stride=(2, 2),
    padding=(1, 1),
    input_size=(15, 11),
    output_size=(8, 6),
)
CHAINS = tuple(make("gsvd3d").steps(LAYER, (s, c)) for s in range(4, 44, 4) for c in range(4, 36, 4))


class Pretended:
    """A bench on which a part takes as long as its MACs say, and rounds are slowed down by the machine."""

    def __init__(self) -> None:
        self.groups: list[list[Part]] = []

    def times(self, parts: Sequence[Part], pace: Pace) -> NDArray[np.float64]:
        self.groups.append(list(parts))
        return np.outer([1.0, 7.0, 3.0], [cost(part) for part in parts])


def cost(part: Part) -> float:
    return float(2 * part.in_channels + 3 * part.out_channels + 0.1 * part.in_channels * part.out_channels)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Pretended:
    pretended = Pretended()
    monkeypatch.setattr(taking, "bench_for", lambda setting: pretended)
    monkeypatch.setattr(taking, "TorchBench", lambda setting: pretended)
    return pretended


@pytest.fixture
def events() -> list[Event]:
    return []


def notes(events: Sequence[Event]) -> list[str]:
    return [event.message for event in events if isinstance(event, Note)]


def test_rounds_run_everything_in_one_shuffled_order_and_short_ones_more_often() -> None:
    seen: list[int] = []
    durations = [4.0, 4.0, 0.05, 4.0, 4.0, 4.0]

    def run(place: int) -> float:
        seen.append(place)
        return durations[place]

    pace = Pace(least=5, most=5, warmup=0)
    times = interleaved([lambda place=place: run(place) for place in range(6)], pace)  # type: ignore[misc]
    assert np.array_equal(times, np.tile(durations, (5, 1)))
    rounds = np.array(seen[6:]).reshape(5, -1)
    assert (rounds == rounds[0]).all()
    assert Counter(rounds[0]) == {0: 1, 1: 1, 2: 4, 3: 1, 4: 1, 5: 1}
    assert list(rounds[0]) != sorted(rounds[0])
    positions = np.flatnonzero(rounds[0] == 2)
    assert (np.diff(positions) > 1).any()  # not in a loop


def test_rounds_stop_when_even_or_late_but_never_early() -> None:
    pace = Pace(least=3, most=10, seconds=5.0, noise=0.01)
    even = [np.array([1.0, 2.0])] * 3
    noisy = [np.array([1.0, value]) for value in (2.0, 3.0, 4.0)]
    assert not pace.enough(even[:2], 100.0)
    assert pace.enough(even, 0.0)
    assert not pace.enough(noisy, 4.9)
    assert pace.enough(noisy, 5.1)
    assert pace.enough(noisy * 4, 0.0)


def test_a_slow_machine_falls_on_reference_and_parts_alike() -> None:
    # every round is slowed down as a whole, so that the ratios tell the truth
    table = taken(Request(layer=LAYER, chains=CHAINS[:2]), Pretended())
    whole = table.layer_ms(LAYER)
    for chain in CHAINS[:2]:
        parts = [step_part(LAYER, *placed) for placed in placed_steps(LAYER, chain)]
        expected = sum(map(cost, parts)) / cost(layer_part(LAYER))
        assert table.chain_ms(LAYER, chain) / whole == pytest.approx(expected)


def taken(request: Request, bench: Pretended) -> LatencyTable:
    found = Stopwatch(bench, bench, lambda event: None).take(wanted_parts([request]), {})
    return LatencyTable(Setting(), found)


def test_large_families_are_measured_at_some_places_and_exact_for_bilinear_times() -> None:
    bench = Pretended()
    table = taken(Request(layer=LAYER, chains=CHAINS), bench)
    horizontal = {
        part for group in bench.groups for part in group if part.kernel_size == (1, 3) and not part.bias
    }
    assert len(horizontal) <= 36 < len(CHAINS)
    for extreme in ((4, 4), (40, 4), (4, 32), (40, 32)):
        assert extreme in {(part.in_channels, part.out_channels) for part in horizontal}
    unit = table.layer_ms(LAYER) / cost(layer_part(LAYER))
    for chain in CHAINS:
        parts = [step_part(LAYER, *placed) for placed in placed_steps(LAYER, chain)]
        assert table.chain_ms(LAYER, chain) == pytest.approx(unit * sum(map(cost, parts)))


def test_knots_are_all_where_few_and_no_more_along_a_single_value() -> None:
    few = {(8, value) for value in range(8, 80, 8)}
    assert knots(few) == few
    many = {(8, value) for value in range(8, 800, 8)}
    chosen = knots(many)
    assert chosen <= many
    assert len(chosen) == 6
    assert {(8, 8), (8, 792)} <= chosen
    assert len(knots(many, along=3)) == 3


def test_lookups_use_the_smallest_known_rectangle_and_scale_beyond() -> None:
    known = {(i, o): float(i * o) for i in (8, 64) for o in (8, 64)} | {(24, 24): 5.0}
    assert interpolated(known, (24, 24)) == 5.0
    assert interpolated(known, (32, 48)) == pytest.approx(32 * 48)
    assert interpolated(known, (128, 8)) is None
    assert scaled(known, (128, 128)) == pytest.approx(128 * 128)
    assert interpolated({(8, 8): 1.0, (16, 8): 3.0}, (12, 8)) == pytest.approx(2.0)


def test_what_was_never_asked_for_is_estimated_but_layers_are_not() -> None:
    table = taken(Request(layer=LAYER, chains=CHAINS[:2]), Pretended())
    whole = table.layer_ms(LAYER)
    larger = make("gsvd3d").steps(LAYER, (60, 32))
    assert table.chain_ms(LAYER, larger) > table.chain_ms(LAYER, CHAINS[0])
    unknown = (Link("whole", 24, 16),)
    assert table.chain_ms(LAYER, unknown) == pytest.approx(whole / 2)
    with pytest.raises(OptionError, match=r"elsewhere.*request"):
        table.layer_ms(replace(LAYER, name="elsewhere", out_channels=33))


def test_layers_of_equal_shape_share_everything(bench: Pretended, tmp_path: Path) -> None:
    other = replace(LAYER, name="again", activation="relu")
    requests = [Request(layer=LAYER, chains=CHAINS), Request(layer=other, chains=CHAINS)]
    table = latency_table(requests, Setting(), cache=tmp_path)
    measured = Counter(part for group in bench.groups for part in group[1:])
    assert set(measured.values()) == {1}
    assert table.layer_ms(other) == table.layer_ms(LAYER)
    assert table.chain_ms(other, CHAINS[5]) == table.chain_ms(LAYER, CHAINS[5])


def test_layers_are_timed_in_turn_and_parts_in_turn_with_their_layer(
    bench: Pretended, tmp_path: Path, events: list[Event]
) -> None:
    large = replace(LAYER, name="large", in_channels=48)
    requests = [
        Request(layer=LAYER, chains=CHAINS[:3]),
        Request(layer=large, chains=(make("gsvd").steps(large, (8,)),)),
    ]
    latency_table(requests, Setting(), cache=tmp_path, report=events.append)
    first, *others = bench.groups
    assert set(first) == {layer_part(LAYER), layer_part(large)}
    assert [group[0] for group in others] == [layer_part(LAYER), layer_part(large)]
    total = sum(event.total or 0 for event in events if isinstance(event, StageStarted))
    assert total == sum(event.steps for event in events if isinstance(event, StageAdvanced)) > 0


def test_tables_are_kept_and_only_new_shapes_are_measured(bench: Pretended, tmp_path: Path) -> None:
    request = Request(layer=LAYER, chains=CHAINS[:2])
    first = latency_table([request], Setting(), cache=tmp_path)
    bench.groups.clear()
    again = latency_table([request], Setting(), cache=tmp_path)
    assert not bench.groups
    assert dict(again.rows()) == dict(first.rows())
    latency_table([Request(layer=LAYER, chains=CHAINS[:3])], Setting(), cache=tmp_path)
    (group,) = bench.groups
    assert set(group) - {layer_part(LAYER)} and not set(group[1:]) & {part for part, _ in first.rows()}
    bench.groups.clear()
    latency_table([request], Setting(), cache=tmp_path, remeasure=True)
    assert bench.groups
    bench.groups.clear()
    latency_table([request], Setting(batch=2), cache=tmp_path)
    assert bench.groups  # another setting is another file
    assert len(list((tmp_path / "latency").iterdir())) == 2


@pytest.mark.parametrize("damage", ["versions", "cpu", "text", "no key", "time", "field"])
def test_foreign_and_damaged_tables_are_measured_anew_with_a_note(
    bench: Pretended, tmp_path: Path, events: list[Event], damage: str
) -> None:
    request = Request(layer=LAYER, chains=CHAINS[:1])
    latency_table([request], Setting(), cache=tmp_path)
    (file,) = (tmp_path / "latency").iterdir()
    content = json.loads(file.read_text())
    match damage:
        case "versions":
            content["key"]["versions"]["torch"] = "1.0"
        case "cpu":
            content["key"]["cpu"] = "Zilog Z80"
        case "no key":
            del content["key"]
        case "time":
            content["parts"][0]["ms"] = float("nan")
        case "field":
            content["parts"][0]["colour"] = "blue"
    file.write_text("{" if damage == "text" else json.dumps(content))
    bench.groups.clear()
    latency_table([request], Setting(), cache=tmp_path, report=events.append)
    assert bench.groups
    (note,) = notes(events)
    assert str(file) in note and "measured anew" in note
    events.clear()
    latency_table([request], Setting(), cache=tmp_path, report=events.append)
    assert not notes(events)  # it was written anew


def test_a_folder_that_cannot_be_written_is_noted_and_survived(
    bench: Pretended, tmp_path: Path, events: list[Event]
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    table = latency_table([Request(layer=LAYER)], Setting(), cache=blocked, report=events.append)
    assert table.layer_ms(LAYER) > 0
    assert any("CNNCOMPRESS_CACHE" in note for note in notes(events))


@pytest.mark.filterwarnings("ignore:Using padding='same'")  # torch copies images for such kernels
def test_parts_are_what_the_chain_runs() -> None:
    """Geometry read off the parts gives the shapes that the built chain really sees."""
    layers = [
        LAYER,
        replace(LAYER, stride=(1, 1), padding="same", kernel_size=(4, 3), output_size=(15, 11)),
        replace(LAYER, padding="valid", dilation=(2, 1), output_size=(6, 5)),
    ]
    for layer in layers:
        steps = make("gsvd3d").steps(layer, (8, 16))
        images = torch.zeros(1, 24, *layer.input_size)
        for module, placed in zip(build_chain(layer, steps), placed_steps(layer, steps), strict=True):
            part = step_part(layer, *placed)
            assert images.shape[1:] == (part.in_channels, *part.input_size)
            images = module(images)
            assert images.shape[1:] == (part.out_channels, *part.output_size)
            assert Part.from_json(json.loads(json.dumps(part.to_json()))) == part
        assert sum(step_part(layer, *p).macs for p in placed_steps(layer, steps)) == make("gsvd3d").macs(
            layer, (8, 16)
        )


def test_modules_are_told_apart_by_what_they_are_made_of() -> None:
    def block(groups: int) -> Block:
        return Block(lambda: nn.Conv2d(24, 32, 3, groups=groups))

    def part(block: Block) -> Part:
        return step_part(LAYER, *next(placed_steps(LAYER, (block,))))

    assert part(block(2)) == part(block(2))
    assert part(block(2)) != part(block(4))


@pytest.fixture
def threads() -> Iterator[int]:
    before = torch.get_num_threads()
    yield before
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    "runtime",
    ["torch", "onnxruntime", "openvino", pytest.param("torch.compile", marks=pytest.mark.slow)],
)
def test_every_runtime_times_every_kind_of_part(runtime: str, tmp_path: Path, threads: int) -> None:
    if runtime_named(runtime).obstacle():
        pytest.skip(f"{runtime} can't run here")
    same = replace(LAYER, name="same", stride=(1, 1), padding="same", output_size=(15, 11))
    linear = LayerInfo(
        name="fc",
        kind="linear",
        in_channels=12,
        out_channels=10,
        kernel_size=(1, 1),
        input_size=(1, 3),
        output_size=(1, 3),
    )
    permuted = (
        Reorder(24),
        Link("whole", 24, 32, groups=4),
        Shuffle(4),
        Link("pointwise", 32, 32, bias=True),
    )
    requests = [
        Request(layer=LAYER, chains=(CHAINS[0], permuted)),
        Request(layer=same, chains=(make("gsvd3d").steps(same, (4, 8)),)),
        Request(layer=linear, chains=(make("gsvd").steps(linear, (4,)),)),
    ]
    table = latency_table(requests, Setting(runtime=runtime, batch=2), cache=tmp_path)
    for request in requests:
        assert 0 < table.layer_ms(request.layer) < 1000
        for chain in request.chains:
            assert 0 < table.chain_ms(request.layer, chain) < 1000
    assert {part.kind for part, _ in table.rows()} == {"conv2d", "linear", "module"}


def test_settings_and_runtimes_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="threads"):
        Setting(threads=0)
    with pytest.raises(OptionError, match="runtime"):
        latency_table([], Setting(runtime="abacus"), cache=tmp_path)


def test_the_file_repeats_its_key_in_clear(bench: Pretended, tmp_path: Path) -> None:
    latency_table([Request(layer=LAYER)], Setting(), cache=tmp_path)
    file = Store(Setting(), tmp_path, lambda event: None).file
    key = json.loads(file.read_text())["key"]
    assert key["setting"]["runtime"] == "torch"
    assert torch.__version__.startswith(key["versions"]["torch"])
    assert key["cpu"] and key["cores"] >= 1


def test_profile_shows_every_layer_with_its_fastest_ranks(
    bench: Pretended, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CNNCOMPRESS_CACHE", str(tmp_path))
    arguments = ["profile", "alexnet", "--input-size", "64", "--method", "gsvd,gsvd3d"]
    shown = CliRunner().invoke(main, [*arguments, "--json"])
    assert shown.exit_code == 0, shown.output
    lines = json.loads(shown.stdout)["layers"]
    assert sum(line["share"] for line in lines) == pytest.approx(1.0)
    assert {one["divisor"] for line in lines for one in line["fastest"]} == {2, 4}
    for line in lines:
        for one in line["fastest"]:
            assert one["macs"] >= one["divisor"]
            assert one["speedup"] == pytest.approx(line["ms"] / one["ms"])
    table = CliRunner().invoke(main, arguments)
    assert table.exit_code == 0
    assert all(line["name"] in table.stdout for line in lines)
    slower = any(one["speedup"] < 1 for line in lines for one in line["fastest"])
    assert ("slower than the layer" in table.stdout) == slower
