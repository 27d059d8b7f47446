"""The output's loss with one layer replaced, whichever way the network is run."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from cnncompress.distortion.probes import probe_losses
from cnncompress.errors import DataError, NumericsError
from cnncompress.events import StageAdvanced, StageDone, StageStarted

IMAGES = torch.randn(7, 3, 8, 8, generator=torch.Generator().manual_seed(1))
NAMES = ("first", "second", "third")


class Residual(nn.Module):
    """In-place functions and a skip connection."""

    def __init__(self, pooled: bool = True) -> None:
        super().__init__()
        self.pooled = pooled
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 6, 3, padding=1)
        self.third = nn.Conv2d(6, 6, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.first(x))
        x.add_(self.relu(self.second(x)))  # overwrites what the layer read
        y = self.third(x)
        x.mul_(2)
        return (y + x).mean((2, 3)) if self.pooled else y + x


class Dynamic(Residual):
    """Control flow that can't be traced."""

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 1e9:
            x = -x
        return super().forward(x)


class Recorded(nn.Module):
    """Counts its calls."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.calls = inner, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.inner(x)


def built(kind: type[Residual] = Residual, *, pooled: bool = True) -> Residual:
    torch.manual_seed(0)
    return kind(pooled).eval()


def disturbed(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    generator = torch.Generator().manual_seed(3)
    for name in NAMES:
        module = copy.deepcopy(model.get_submodule(name))
        with torch.no_grad():
            module.weight.add_(0.1 * torch.randn(module.weight.shape, generator=generator))
        yield name, module


def by_hand(model: nn.Module, images: Tensor) -> dict[str, float]:
    losses = {}
    for name, module in disturbed(model):
        other = copy.deepcopy(model)
        other.set_submodule(name, module)
        with torch.no_grad():
            before, after = model(images.clone()).double(), other(images.clone()).double()
        if before.ndim == 2:
            logs = before.log_softmax(1), after.log_softmax(1)
            losses[name] = float(functional.kl_div(logs[1], logs[0], reduction="batchmean", log_target=True))
        else:
            losses[name] = float((before - after).square().sum() / before.square().sum())
    return losses


@pytest.mark.parametrize("pooled", [True, False])
@pytest.mark.parametrize("memory", [0, 14_000, 10**9])
@pytest.mark.parametrize("kind", [Residual, Dynamic])
def test_equals_whole_networks_with_the_layer_exchanged(
    kind: type[Residual], memory: int, pooled: bool, tensor_source: Any
) -> None:
    model = built(kind, pooled=pooled)
    only = [6, 1, 2, 3, 5]
    found = probe_losses(
        model, disturbed(model), tensor_source(IMAGES), only=only, batch_size=2, memory=memory
    )
    assert found == pytest.approx(by_hand(model, IMAGES[only]), rel=1e-4)
    assert min(found.values()) > 1e-6


@pytest.mark.parametrize("kind", [Residual, Dynamic])
def test_identical_modules_lose_nothing(kind: type[Residual], tensor_source: Any) -> None:
    model = built(kind)
    same = [(name, copy.deepcopy(model.get_submodule(name))) for name in NAMES]
    found = probe_losses(model, same, tensor_source(IMAGES), only=range(7), batch_size=3)
    assert list(found) == list(NAMES)
    assert all(abs(loss) < 1e-12 for loss in found.values())


def test_order_and_batches_do_not_matter(tensor_source: Any) -> None:
    model = built()
    source = tensor_source(IMAGES)
    forward = probe_losses(model, disturbed(model), source, only=range(7), batch_size=7)
    backward = probe_losses(model, list(disturbed(model))[::-1], source, only=range(7), batch_size=2)
    assert backward == pytest.approx(forward, rel=1e-4)


def test_kept_values_save_reading_the_images(tensor_source: Any) -> None:
    model, passes = built(), {}
    for memory in (0, 10**9):
        source = tensor_source(IMAGES)
        probe_losses(model, disturbed(model), source, only=range(7), memory=memory)
        passes[memory] = source.passes
    assert passes == {0: 4, 10**9: 2}


def test_the_part_before_a_layer_runs_once(tensor_source: Any) -> None:
    counted = Recorded(nn.Conv2d(3, 6, 1))
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(inplace=True), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 4, 1))
    changes = [("0", counted), ("2", Recorded(nn.Conv2d(6, 6, 1))), ("3", Recorded(nn.Conv2d(6, 4, 1)))]
    calls = []
    # the network runs as a copy, whose hooks append to this list too
    model[1].register_forward_hook(lambda module, inputs, output: calls.append(1))
    probe_losses(model.eval(), changes, tensor_source(IMAGES), only=range(7), batch_size=7)
    # once for the answers, once with the first layer replaced, once on the way to the second
    assert len(calls) == 3
    assert counted.calls == 1


def test_a_layer_that_runs_twice_is_replaced_twice(tensor_source: Any) -> None:
    class Twice(Residual):
        def forward(self, x: Tensor) -> Tensor:
            x = self.relu(self.first(x))
            return self.third(self.relu(self.second(self.relu(self.second(x))))).mean((2, 3))

    model = built(Twice)
    found = probe_losses(model, disturbed(model), tensor_source(IMAGES), only=range(7))
    assert found == pytest.approx(by_hand(model, IMAGES), rel=1e-4)


def test_leaves_the_network_as_it_was(tensor_source: Any) -> None:
    model = built(Dynamic).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.inference_mode():
        probe_losses(model, list(disturbed(model)), tensor_source(IMAGES), only=range(3))
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_names_the_layer_whose_replacement_breaks(tensor_source: Any) -> None:
    model = built()
    broken = copy.deepcopy(model.second)
    nn.init.constant_(broken.weight, float("nan"))
    with pytest.raises(NumericsError, match="second"):
        probe_losses(model, [("second", broken)], tensor_source(IMAGES), only=range(7))


def test_needs_images(tensor_source: Any) -> None:
    source = tensor_source(IMAGES)
    source.batches = lambda batch_size, order: iter(())
    with pytest.raises(DataError, match="none of the images"):
        probe_losses(built(), [], source, only=[0])


def test_reports_each_layer(tensor_source: Any) -> None:
    model, events = built(), []
    probe_losses(model, disturbed(model), tensor_source(IMAGES), only=range(7), report=events.append)
    assert [type(event) for event in events] == [StageStarted, *[StageAdvanced] * 3, StageDone]
