"""The planner where users do what it doesn't expect."""

from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from cnncompress import compress_model
from cnncompress.api import compress_within_drop
from cnncompress.candidates import enumerate_candidates
from cnncompress.cli.main import main
from cnncompress.data import open_source
from cnncompress.decompositions import make
from cnncompress.distortion.probes import probe_losses
from cnncompress.drop_search import search_within_drop
from cnncompress.errors import BudgetError, ModelError, OptionError, RankError, SlowerError
from cnncompress.evaluate import compare
from cnncompress.events import silent
from cnncompress.inspect import inspect_layers
from cnncompress.network import Network, Preprocess
from cnncompress.options import AUTO_METHODS, Options
from cnncompress.plan import LayerPlan
from cnncompress.planning import outline
from cnncompress.result import Result
from cnncompress.worthwhile import untrained

SIZE = (3, 12, 12)


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4),
    ).eval()  # fmt: skip


@pytest.fixture
def images() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(10, *SIZE)


def test_ranks_of_a_layer_pick_the_method_that_takes_so_many(net: nn.Module) -> None:
    layers = inspect_layers(net, SIZE)
    free = outline(layers, Options(method="auto")).menus
    assert len(free["2"]) > 1
    for ranks, method in (((4,), "gsvd"), ((4, 5), "gsvd3d")):
        found = outline(layers, Options(method="auto", layer_ranks={"2": ranks}))
        (only,) = found.menus["2"]
        assert only.name == method
        assert found.menus["0"] == free["0"]


@pytest.mark.parametrize(
    ("ranks", "problem"),
    [({"2": (400,)}, RankError), ({"2": (1, 2, 3)}, OptionError), ({"no.such": (4,)}, OptionError)],
)
def test_ranks_that_no_layer_can_have_are_refused_before_the_work(
    net: nn.Module, ranks: dict[str, tuple[int, ...]], problem: type[Exception]
) -> None:
    with pytest.raises(problem):
        outline(inspect_layers(net, SIZE), Options(method="auto", layer_ranks=ranks))


def test_a_replacement_that_costs_more_than_its_layer_is_refused_unless_allowed(net: nn.Module) -> None:
    layers = inspect_layers(net, SIZE)
    with pytest.raises(OptionError, match="allow-slower"):
        outline(layers, Options(method="auto", layer_ranks={"2": (16,)}))
    assert outline(layers, Options(method="auto", layer_ranks={"2": (16,)}, allow_slower=True)).menus["2"]


def test_where_all_ranks_are_settled_no_speedup_is_missed(net: nn.Module, images: Tensor) -> None:
    result = compress_model(
        net,
        images,
        speedup=50,
        method="auto",
        only=("2",),
        layer_ranks={"2": (4,)},
        probes=False,
        measure=False,
    )
    assert result.report["asked"]["speedup"] is None
    assert [plan.ranks for plan in result.plan.layers] == [(), (4,), ()]
    planner = result.report["planner"]
    assert planner["spent"] == pytest.approx(planner["budget"], abs=1)


def test_an_option_of_one_method_leaves_the_choice_between_several(net: nn.Module) -> None:
    layers = inspect_layers(net, SIZE)
    options = Options(method="root,gsvd", method_options={"groups": 2, "rank": 4})
    found = outline(layers, options)
    layer = next(layer for layer in layers if layer.name == "2")
    assert found.settled(layer, options) is None
    candidates = enumerate_candidates(layer, found.menus["2"], align=1)
    assert {ranks for method, ranks in candidates if method.name == "root"} == {(4,)}
    assert len({ranks for method, ranks in candidates if method.name == "gsvd"}) > 1


def test_networks_of_other_precision_are_probed_and_timed_in_their_own(
    net: nn.Module, images: Tensor
) -> None:
    narrow = net.bfloat16()
    layers = inspect_layers(narrow, SIZE)
    replacement = make("gsvd").build(layers[1], (4,)).eval()
    source = open_source(images, preprocess=None, limit=10, seed=0)
    losses = probe_losses(narrow, [("2", replacement)], source, only=[0, 1])
    assert losses["2"] > 0
    names = [layer.name for layer in layers]
    plans = [
        LayerPlan(name=name, method="gsvd", ranks=(4,)) if name == "2" else stays(name) for name in names
    ]
    changed = untrained(layers, plans, narrow)
    assert {parameter.dtype for parameter in changed.parameters()} == {torch.bfloat16}


def stays(name: str) -> LayerPlan:
    return LayerPlan(name=name, method="none")


class Named(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor) -> dict[str, object]:
        return {"scores": self.inner(images), "count": len(images)}


def test_an_output_that_is_no_tensor_is_one_line(net: nn.Module, images: Tensor) -> None:
    source = open_source(images, preprocess=None, limit=10, seed=0)
    with pytest.raises(ModelError, match="int"):
        compare(Named(net), Named(net), source)


@pytest.mark.parametrize(
    ("drop", "problem"), [(1.0, "labelled"), (float("nan"), "above 0"), (0.0, "above 0")]
)
def test_a_drop_that_no_one_can_measure_is_refused_before_the_work(
    images: Tensor, drop: float, problem: str
) -> None:
    source = open_source(images, preprocess=None, limit=10, seed=0)
    with pytest.raises(OptionError, match=problem):
        compress_within_drop(network_that_never_runs(), source, None, Options(), drop)


def network_that_never_runs() -> Network:
    class Never(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise AssertionError("run before the wishes were checked")

    return Network(name="never", model=Never(), preprocess=Preprocess())


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (("--distortion", "energy"), "knapsack"),
        (("--no-probes",), "knapsack"),
        (("--runtime", "onnxruntime"), "--budget latency"),
        (("--threads", "2"), "--budget latency"),
        (("--plan", "plan.json", "--speedup", "2x,3x"), "several speedups"),
    ],
)
def test_options_that_would_change_nothing_are_refused(given: tuple[str, ...], problem: str) -> None:
    result = CliRunner().invoke(main, ["resnet18", "--weights", "none", *given])
    assert result.exit_code == 2
    assert problem in result.stderr
    assert "Traceback" not in result.output


def test_methods_may_be_added_to_auto() -> None:
    names = Options(method="auto, monochromatic,gsvd").method_names
    assert set(names) == {*AUTO_METHODS, "monochromatic"}
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("error", [BudgetError, SlowerError])
def test_a_speedup_out_of_reach_ends_no_search(
    net: nn.Module, images: Tensor, error: type[Exception]
) -> None:
    made = compress_model(net, images, speedup=1.2, method="gsvd", measure=False, batch_size=5)
    asked = []

    def run(options: Options) -> Result:
        asked.append(options.speedup)
        if options.speedup > 1.5:
            raise error("out of reach")
        return replace(made, report=made.report | {"accuracy": {"drop_top1": 0.0, "n": 10}})

    found = search_within_drop(run, Options(speedup=1.2), 1.0, silent)
    trials = found.report["planner"]["trials"]
    assert [trial["speedup"] for trial in trials] == asked
    assert any(trial.get("problem") == "out of reach" for trial in trials)
    assert max(trial["speedup"] for trial in trials if trial["within"]) <= 1.5
