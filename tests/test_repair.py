"""Repair brings a compressed network nearer to the original, and never farther from it."""

import copy
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cnncompress.decompositions import available, make
from cnncompress.errors import NumericsError, OptionError
from cnncompress.events import Event, StageAdvanced, StageDone, StageStarted
from cnncompress.factorize import load_
from cnncompress.inspect import LayerInfo, inspect_layers
from cnncompress.layers import ChannelOrder, SICConv2d, TopologicalConv2d
from cnncompress.repair import Repaired, repair_network

Source = Callable[[Tensor], Any]

GEOMETRIES: dict[str, dict[str, Any]] = {
    "pointwise": {"kernel_size": 1},
    "square": {"kernel_size": 3, "padding": 1},
    "horizontal": {"kernel_size": (1, 3), "padding": (0, 1), "stride": (1, 2)},
    "strided": {"kernel_size": 3, "stride": 2},
    "dilated": {"kernel_size": 3, "padding": 2, "dilation": 2},
    "same": {"kernel_size": 3, "padding": "same", "dilation": (1, 2)},
    "reflect": {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    "circular": {"kernel_size": 3, "padding": 1, "padding_mode": "circular", "stride": 2},
    "grouped": {"kernel_size": 3, "padding": 1, "groups": 2},
    "depthwise": {"kernel_size": 3, "groups": 4},
}


class Dense(nn.Module):
    """Norms that can't be folded, one of a class that torch's tracer looks into."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.before = nn.BatchNorm2d(4)
        self.inner = nn.Conv2d(4, 5, 3, padding=1)
        self.after = OwnNorm(9)
        self.head = nn.Conv2d(9, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([x, self.inner(torch.relu(self.before(x)))], 1)
        return torch.relu(self.head(torch.relu(self.after(x))))  # type: ignore[no-any-return]


class OwnNorm(nn.BatchNorm2d):
    """As libraries derive them."""


class Dynamic(Dense):
    """Control flow that can't be traced."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(-x if x.sum() > 1e9 else x)


class Branches(nn.Module):
    """Two layers whose errors may cancel."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(channels, 4, 1), nn.Conv2d(channels, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x) + self.two(x)  # type: ignore[no-any-return]


def smooth(count: int = 20, channels: int = 3) -> Tensor:
    torch.manual_seed(1)
    return nn.functional.avg_pool2d(torch.randn(count, channels, 12, 12), 3, stride=1)


def dense(kind: type[Dense] = Dense) -> Dense:
    """With statistics of its norms that fit."""
    torch.manual_seed(0)
    network = kind()
    for _ in range(60):
        network(torch.randn(20, 3, 10, 10))
    return network.eval().requires_grad_(False)


def split(layer: nn.Conv2d, rank: int) -> nn.Sequential:
    """The best factors of the weight alone."""
    size = (layer.in_channels, 10, 10)
    info = inspect_layers(nn.Sequential(layer), size)[0]
    method = make("svd-out")
    assert layer.bias is not None
    factors = method.fit(info, layer.weight.detach().numpy(), layer.bias.detach().numpy(), None, (rank,))
    chain = method.build(info, (rank,))
    load_(chain, factors, like=layer.weight)
    return chain.eval().requires_grad_(False)


def compressed_dense(network: Dense, ranks: tuple[int, int] = (2, 2)) -> Dense:
    compressed = copy.deepcopy(network)
    for name, rank in zip(("stem", "inner"), ranks, strict=True):
        layer = network.get_submodule(name)
        assert isinstance(layer, nn.Conv2d)
        compressed.set_submodule(name, split(layer, rank))
    return compressed


def repair(
    original: nn.Module, compressed: nn.Module, replaced: Sequence[str], source: Any, **options: Any
) -> tuple[nn.Module, Repaired]:
    layers = inspect_layers(original, tuple(source.images.shape[1:]))
    return repair_network(original, compressed, layers, replaced, source, **options)


def answers(network: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return network(images)  # type: ignore[no-any-return]


def distance(original: nn.Module, other: nn.Module, images: Tensor) -> float:
    truth = answers(original, images)
    return float((truth - answers(other, images)).square().sum() / truth.square().sum())


def composed(first: nn.Conv2d, last: nn.Conv2d) -> nn.Conv2d:
    """The one convolution that a pointwise and a following one amount to."""
    whole = nn.Conv2d(
        first.in_channels, last.out_channels, last.kernel_size, last.stride, last.padding, last.dilation,
        padding_mode=last.padding_mode,
    ).to(last.weight.dtype)  # fmt: skip
    outputs, inputs = last.out_channels // last.groups, last.in_channels // last.groups
    with torch.no_grad():
        for group in range(last.groups):
            out, read = (slice(group * n, (group + 1) * n) for n in (outputs, inputs))
            whole.weight[out] = torch.einsum("omhw,mc->ochw", last.weight[out], first.weight[read, :, 0, 0])
        whole.bias.copy_(last.bias)  # type: ignore[union-attr, arg-type]
    return whole


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES.keys())
def test_refit_is_exact_where_the_truth_is_linear(geometry: dict[str, Any], tensor_source: Source) -> None:
    torch.manual_seed(0)
    first, last = nn.Conv2d(3, 4, 1, bias=False).double(), nn.Conv2d(4, 8, **geometry).double()
    original = nn.Sequential(composed(first, last), nn.ReLU()).eval()
    order = torch.randperm(8)
    damaged = copy.deepcopy(last)
    with torch.no_grad():
        damaged.weight += 0.3 * torch.randn_like(damaged.weight)
        original[0].weight.copy_(original[0].weight[order])
        original[0].bias.copy_(original[0].bias[order])
    permutation = ChannelOrder(8)
    permutation.order.copy_(order)
    compressed = nn.Sequential(nn.Sequential(first, damaged, permutation), nn.ReLU()).eval()
    images = smooth().double()
    mended, repaired = repair(original, compressed, ["0"], tensor_source(images), steps=["refit"])
    assert distance(original, compressed, images) > 1e-3
    assert distance(original, mended, images) < 1e-12
    assert repaired.layers[0].reason == ""


def test_linear_layers(tensor_source: Source) -> None:
    torch.manual_seed(0)
    original = nn.Sequential(nn.Flatten(), nn.Linear(300, 8), nn.ReLU(), nn.Linear(8, 5)).double().eval()
    compressed = copy.deepcopy(original)
    compressed[3] = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 5)).double()
    images = smooth(60).double()
    mended, _ = repair(original, compressed, ["3"], tensor_source(images))
    assert distance(original, mended, images) < 1e-3 * distance(original, compressed, images)


@pytest.mark.parametrize("name", available())
def test_every_method_gets_no_worse(
    name: str, describe: Callable[..., LayerInfo], observe: Callable[..., Any], tensor_source: Source
) -> None:
    torch.manual_seed(0)
    channels = 3 if name == "monochromatic" else 6
    images = smooth(15, channels)
    layer = nn.Conv2d(channels, 6, 3, padding=1)
    info, method = describe(layer, images.shape[1:]), make(name)
    settings = method.settings(info, 1)
    ranks = settings[len(settings) // 3]
    responses = observe(
        info, layer, images, margin=method.margin(info, ranks), blocks=method.blocks
    ) if method.needs_data else None  # fmt: skip
    assert layer.bias is not None
    factors = method.fit(info, layer.weight.detach().numpy(), layer.bias.detach().numpy(), responses, ranks)
    replacement = method.build(info, ranks)
    load_(replacement, factors, like=layer.weight)
    original, compressed = (nn.Sequential(part, nn.ReLU()).eval() for part in (layer, replacement))
    _, repaired = repair(original, compressed, ["0"], tensor_source(images))
    (found,) = repaired.layers
    assert found.before is not None
    best = min(found.errors.values())
    assert found.after == (best if repaired.kept else found.before)
    assert repaired.kept == (best < 0.99 * found.before and not repaired.note)
    assert repaired.output_after <= repaired.output_before
    assert "bias" in found.errors


def test_weight_only_factors_get_better(tensor_source: Source) -> None:
    original = dense()
    compressed, images = compressed_dense(original), smooth()
    mended, repaired = repair(original, compressed, ["stem", "inner"], tensor_source(images))
    assert repaired.kept
    assert repaired.output_after < 0.9 * repaired.output_before
    torch.manual_seed(7)
    fresh = nn.functional.avg_pool2d(torch.randn(30, 3, 12, 12), 3, stride=1)
    assert distance(original, mended, fresh) < 0.9 * distance(original, compressed, fresh)


def test_nothing_changes_where_nothing_was_lost(tensor_source: Source) -> None:
    original = dense()
    compressed, images = compressed_dense(original, (4, 5)), smooth()
    mended, repaired = repair(original, compressed, ["stem", "inner"], tensor_source(images))
    assert [layer.chosen for layer in repaired.layers] == ["as it is", "as it is"]
    torch.testing.assert_close(answers(mended, images), answers(original, images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [Dense, Dynamic])
@pytest.mark.parametrize("memory", [0, 10**9])
def test_norms_undo_a_change_of_scale_and_mean(kind: type[Dense], memory: int, tensor_source: Source) -> None:
    original = dense(kind)
    compressed = copy.deepcopy(original)
    with torch.no_grad():
        for layer in (compressed.stem, compressed.inner):
            layer.weight.mul_(0.4)
            layer.bias.add_(0.5)  # type: ignore[union-attr]
    images = smooth()
    mended, repaired = repair(original, compressed, [], tensor_source(images), steps=["norms"], memory=memory)
    assert repaired.norms == ("before", "after")
    assert distance(original, compressed, images) > 1e-2
    assert distance(original, mended, images) < 1e-6


def test_dead_channels(tensor_source: Source) -> None:
    original = dense()
    with torch.no_grad():
        original.stem.weight[1:3] = 0
        original.inner.weight.zero_()
    compressed, images = compressed_dense(original), smooth(5)
    mended, repaired = repair(original, compressed, ["stem", "inner"], tensor_source(images))
    assert bool(torch.isfinite(answers(mended, 10 * torch.randn(8, 3, 10, 10))).all())
    assert repaired.output_after <= repaired.output_before
    for name in ("before", "after"):
        found, known = mended.get_submodule(name), original.get_submodule(name)
        assert bool((found.running_var > 1e-7 * known.running_var).all())  # type: ignore[operator]


def test_fewer_samples_than_channels(tensor_source: Source) -> None:
    torch.manual_seed(0)
    original = nn.Sequential(nn.Conv2d(3, 40, 3), nn.ReLU(), nn.Conv2d(40, 50, 8)).eval()
    compressed = copy.deepcopy(original)
    compressed[2] = split(original[2], 30)
    mended, repaired = repair(original, compressed, ["2"], tensor_source(smooth(6)))
    assert repaired.output_after <= repaired.output_before
    assert all(bool(torch.isfinite(parameter).all()) for parameter in mended.parameters())


@pytest.mark.parametrize("damage", ["original", "compressed", "norm"])
def test_nan_names_the_layer(damage: str, tensor_source: Source) -> None:
    original = dense()
    compressed = compressed_dense(original)
    with torch.no_grad():
        broken = original if damage == "original" else compressed
        for parameter in broken.inner.parameters():
            parameter.fill_(float("nan"))
    replaced = [] if damage == "norm" else ["stem", "inner"]
    with pytest.raises(NumericsError, match="after: its input" if damage == "norm" else "inner: its resp"):
        repair(original, compressed, replaced, tensor_source(smooth()))


def test_what_makes_the_output_worse_is_put_back(tensor_source: Source) -> None:
    torch.manual_seed(0)
    original = Branches().eval()
    compressed = copy.deepcopy(original)
    with torch.no_grad():
        compressed.one.bias += 1  # type: ignore[operator]
        compressed.two.bias -= 1  # type: ignore[operator]
    images = smooth()
    mended, repaired = repair(original, compressed, ["one"], tensor_source(images))
    assert not repaired.kept
    assert "layers were repaired and put back" in repaired.note
    assert repaired.layers[0].chosen == "as it is"
    assert torch.equal(answers(mended, images), answers(compressed, images))
    with torch.no_grad():
        compressed.two.bias += 1.5  # type: ignore[operator]
    _, both = repair(original, compressed, ["one", "two"], tensor_source(images), steps=["bias"])
    assert [layer.chosen for layer in both.layers] == ["bias", "bias"]
    assert both.output_after < 1e-9


def test_layers_that_help_stay_where_all_together_do_not(tensor_source: Source) -> None:
    torch.manual_seed(0)
    original = nn.Sequential(nn.Conv2d(3, 4, 1), Branches(4)).eval()
    compressed = copy.deepcopy(original)
    with torch.no_grad():
        compressed[0].bias += 0.2
        compressed[1].one.bias += 1
        compressed[1].two.bias -= 1
    _, repaired = repair(original, compressed, ["0", "1.one"], tensor_source(smooth()), steps=["bias"])
    assert repaired.kept
    assert [layer.chosen for layer in repaired.layers] == ["bias", "as it is"]
    assert "all or some" in repaired.note


def test_layers_that_add_their_input(tensor_source: Source) -> None:
    torch.manual_seed(0)
    images = smooth(channels=4).double()
    truth = SICConv2d(4, 4, 3, activation=False).double().eval()
    damaged = copy.deepcopy(truth)
    with torch.no_grad():
        damaged.pointwise.weight.mul_(0.5)
    whole = nn.Conv2d(4, 4, 3, padding=1).double()
    with torch.no_grad():
        whole.weight.copy_(truth.pointwise.weight * truth.depthwise.weight[None, :, 0])  # type: ignore[operator]
        whole.weight[:, :, 1, 1] += torch.eye(4)
        whole.bias.copy_(truth.pointwise.bias)  # type: ignore[arg-type, union-attr]
    original, compressed = nn.Sequential(whole).eval(), nn.Sequential(damaged)
    mended, _ = repair(original, compressed, ["0"], tensor_source(images))
    assert distance(original, compressed, images) > 1e-3
    assert distance(original, mended, images) < 1e-12


def test_what_cannot_be_refitted_is_told(tensor_source: Source) -> None:
    torch.manual_seed(0)
    images, original = smooth(channels=4), nn.Sequential(nn.Conv2d(4, 4, 3, padding=1)).eval()
    unfit = {
        "isn't a sum": SICConv2d(4, 4, 3),
        "no bias": nn.Sequential(nn.Conv2d(4, 2, 3, padding=1), nn.Conv2d(2, 4, 1, bias=False)),
        "no weights": nn.Identity(),
        "a TopologicalConv2d": TopologicalConv2d((4,), (2,), 3, padding=1),
    }
    for reason, module in unfit.items():
        compressed = nn.Sequential(module).eval()
        _, repaired = repair(original, compressed, ["0"], tensor_source(images))
        assert reason in repaired.layers[0].reason
        assert not any("refit" in name for name in repaired.layers[0].errors)
        assert bool(repaired.layers[0].errors) == (reason == "a TopologicalConv2d")


def test_networks_of_the_caller_stay_and_weights_are_shared(tensor_source: Source) -> None:
    original = dense()
    compressed = compressed_dense(original)
    before = [copy.deepcopy(network.state_dict()) for network in (original, compressed)]
    mended, _ = repair(original, compressed, ["stem", "inner"], tensor_source(smooth()))
    for state, network in zip(before, (original, compressed), strict=True):
        assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    head, kept = mended.get_submodule("head"), compressed.get_submodule("head")
    assert head.weight is kept.weight
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in mended.modules())
    assert not any(parameter.requires_grad for parameter in mended.parameters())


def test_deterministic_and_independent_of_batches_and_memory(tensor_source: Source) -> None:
    original = dense().double()
    compressed, images = compressed_dense(original), smooth().double()
    states = [
        repair(
            original, compressed, ["stem", "inner"], tensor_source(images), batch_size=size, memory=memory
        )[0].state_dict()
        for size, memory in ((10, 10**9), (10, 10**9), (3, 10**9), (10, 0))
    ]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    for other in states[2:]:
        for key, value in other.items():
            torch.testing.assert_close(value, states[0][key], rtol=1e-7, atol=1e-9)


def test_events_and_record(tensor_source: Source) -> None:
    original, events = dense(), list[Event]()
    compressed = compressed_dense(original)
    _, repaired = repair(
        original, compressed, ["stem", "inner"], tensor_source(smooth()), report=events.append
    )
    assert events[0] == StageStarted("repair", 2, "layers")
    assert [type(event) for event in events[1:]] == [StageAdvanced, StageAdvanced, StageDone]
    record = repaired.to_json()
    assert [layer["name"] for layer in record["layers"]] == ["stem", "inner"]
    assert record["layers"][0]["after"] <= record["layers"][0]["before"]
    assert record["output_error_after"] <= record["output_error_before"]


def test_unknown_names_are_refused(tensor_source: Source) -> None:
    original = dense()
    with pytest.raises(OptionError, match="did you mean refit"):
        repair(original, original, [], tensor_source(smooth()), steps=["refits"])
    with pytest.raises(OptionError, match="did you mean stem"):
        repair(original, original, ["stemm"], tensor_source(smooth()))


def test_two_processes_give_what_one_gives(tmp_path: Path, tensor_source: Source) -> None:
    launched = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run(  # noqa: S603  # this file
        [*launched, __file__, str(tmp_path)], check=True, timeout=300
    )
    for count in COUNTS:
        expected = _several_cases(tensor_source, count)
        for rank in range(2):
            found = torch.load(tmp_path / f"{count}-{rank}.pt", weights_only=True)
            assert found.keys() == expected.keys()
            for key, value in expected.items():
                torch.testing.assert_close(found[key], value, rtol=1e-9, atol=1e-11)


COUNTS = (8, 3)
"""Images of each case, in batches of 3: the second leaves a process without any."""


def _several_cases(source: Any, count: int, world: Any = None) -> dict[str, Tensor]:
    """All tensors of a repaired network with its errors."""
    original = dense().double()
    compressed, images = compressed_dense(original), smooth(count).double()
    options = {} if world is None else {"world": world}
    layers = inspect_layers(original, (3, 10, 10))
    mended, repaired = repair_network(
        original, compressed, layers, ["stem", "inner"], source(images), batch_size=3, **options
    )
    errors = [error for layer in repaired.layers for error in layer.errors.values()]
    record = torch.tensor(np.array([*errors, repaired.output_before, repaired.output_after]))
    return {**mended.state_dict(), "errors": record}


def _as_process(folder: Path) -> None:
    from conftest import TensorSource

    from cnncompress.distributed import joined, sharded

    with joined() as world:
        for count in COUNTS:
            found = _several_cases(lambda images: sharded(TensorSource(images), world), count, world)
            torch.save(found, folder / f"{count}-{world.rank}.pt")


if __name__ == "__main__":
    _as_process(Path(sys.argv[1]))
