"""Absorbing permutations changes nothing but the number of copies."""

from copy import deepcopy

import numpy as np
import pytest
import torch
import torch.nn.functional as torch_functional
from torch import nn

from cnncompress.absorption import absorb_orders, without_orders
from cnncompress.errors import ModelError
from cnncompress.folding import copy_sharing_weights
from cnncompress.layers import ChannelOrder

CHANNELS, SIZE = 6, 5


def shuffled(channels=CHANNELS, dim=1):
    layer = ChannelOrder(channels, dim)
    while torch.equal(layer.order, torch.arange(channels)):
        layer.order = torch.randperm(channels)
    return layer


def inverse(order):
    layer = ChannelOrder(len(order.order), order.dim)
    layer.order = order.order.argsort()
    return layer


def dense():
    return nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)


def grouped():
    return nn.Conv2d(CHANNELS, CHANNELS, 1, groups=2)


def depthwise():
    return nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS)


def norm():
    layer = nn.BatchNorm2d(CHANNELS)
    for tensor in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
        nn.init.uniform_(tensor, 0.5, 2)
    return layer


def classifier():
    return nn.Linear(CHANNELS * SIZE**2, 4)


def replacement():
    return nn.Sequential(shuffled(), grouped(), depthwise(), nn.ChannelShuffle(2), grouped(), shuffled())


def ready(model):
    return model.double().eval()


def images():
    return torch.randn(2, CHANNELS, SIZE, SIZE, dtype=torch.float64)


def orders(model):
    return [name for name, module in model.named_modules() if isinstance(module, ChannelOrder)]


def run(model, inputs, pinned=None):
    """Outputs, the pinned values, and the inputs; all as they are in the end, after operations in place."""
    inputs, seen = inputs.clone(), []
    watched = nn.Identity() if pinned is None else model.get_submodule(pinned)
    handle = watched.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        outputs = model(inputs)
    handle.remove()
    return outputs, seen, inputs


def check(model, *, pinned=None):
    """Absorb on a copy that shares weights; return the names after checking all that must hold."""
    inputs = images()
    expected = run(model, inputs, pinned)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    copy = copy_sharing_weights(model)
    names = absorb_orders(copy, pinned=pinned)
    torch.testing.assert_close(run(copy, inputs, pinned), expected, rtol=1e-9, atol=1e-9)
    assert set(orders(copy)) == set(orders(model)) - set(names)
    assert not any(module.training for module in copy.modules())
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)

    fresh = deepcopy(model)
    for parameter in fresh.parameters():
        nn.init.zeros_(parameter)
    without_orders(fresh, names)
    fresh.load_state_dict(copy.state_dict(), strict=True)
    torch.testing.assert_close(run(fresh, inputs), run(copy, inputs), rtol=0, atol=0)
    return names


@pytest.mark.parametrize("seed", range(10))
def test_plain_chains_lose_all_orders_between_dense_layers(seed):
    torch.manual_seed(seed)
    choice = np.random.default_rng(seed)
    between = [
        norm, depthwise, nn.GELU, nn.Dropout, nn.Identity, nn.ReLU,
        lambda: nn.ReLU(inplace=True), lambda: nn.MaxPool2d(3, 1, 1), lambda: nn.AvgPool2d(3, 1, 1),
    ]  # fmt: skip
    layers = [dense()]
    for _ in range(3):
        layers += [between[i]() for i in choice.integers(len(between), size=choice.integers(4))]
        layers += [replacement()]
        layers += [between[i]() for i in choice.integers(len(between), size=choice.integers(4))]
        layers += [dense()]
    layers += [nn.ReLU(), replacement(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(), nn.Sigmoid()]
    model = ready(nn.Sequential(*layers, nn.Linear(CHANNELS * 4, 4)))
    assert set(check(model)) == set(orders(model))


class RandomNetwork(nn.Module):
    """Operations that each read values drawn at random from those computed so far."""

    def __init__(self, seed):
        super().__init__()
        choice = np.random.default_rng(seed)
        makers = {
            "order": shuffled, "unmoved": lambda: ChannelOrder(CHANNELS), "dense": dense, "grouped": grouped,
            "depthwise": depthwise, "norm": norm, "relu": nn.ReLU, "relu_": lambda: nn.ReLU(inplace=True),
            "dropout": nn.Dropout, "identity": nn.Identity, "pool": lambda: nn.MaxPool2d(3, 1, 1),
            "shuffle": lambda: nn.ChannelShuffle(2),
        }  # fmt: skip
        functions = ["add", "iadd", "cat", "function", "function_", "method_", "split", "ignored_"]
        kinds = [*makers, *["order"] * 8, *["dense"] * 3]
        self.layers = nn.ModuleDict({kind: make() for kind, make in makers.items()})  # reused now and then
        self.steps = []
        for i in range(choice.integers(4, 15)):
            kind = str(choice.choice(kinds if choice.random() < 0.8 else functions))
            name = kind
            if kind in makers and choice.random() < 0.95:
                name = f"{kind}{i}"
                self.layers[name] = makers[kind]()
            # mostly the latest value, so that chains come about
            sources = [-1 if choice.random() < 0.8 else choice.integers(i + 1) for _ in range(2)]
            self.steps.append((name, sources))
        self.flat = nn.Flatten()
        self.classifier = classifier()
        self.way = str(choice.choice(["module", "torch", "method", "view", "reshape"]))

    def forward(self, x):
        values = [x]
        for name, (first, second) in self.steps:
            values.append(self.step(name, values[first], values[second]))
        return self.classifier(self.flatten(values[-1])), values[len(values) // 2]

    def step(self, name, a, b):
        match name:
            case "add":
                return a + b
            case "iadd":
                a += b
                return a
            case "cat":
                return torch.cat([a[:, :2], b[:, 2:]], 1)
            case "function":
                return torch_functional.max_pool2d(torch_functional.relu(a), 3, 1, 1)
            case "function_":
                return torch_functional.leaky_relu(a, 0.1, inplace=True)
            case "method_":
                return a.sigmoid_()
            case "split":
                return torch.cat(a.chunk(2, 1)[::-1], 1)
            case "ignored_":
                torch.relu_(b)
                return a
        return self.layers[name](a)

    def flatten(self, x):
        match self.way:
            case "module":
                return self.flat(x)
            case "torch":
                return torch.flatten(x, start_dim=1)
            case "method":
                return x.flatten(1)
            case "view":
                return x.contiguous().view(x.size(0), -1)
        return x.reshape(x.shape[0], -1)


def test_random_networks_compute_the_same():
    absorbed = kept = 0
    for seed in range(100):
        torch.manual_seed(seed)
        model = ready(RandomNetwork(seed))
        choice = np.random.default_rng(seed)
        names = check(model, pinned=choice.choice([None, *(f"layers.{name}" for name in model.layers)]))
        absorbed += len(names)
        kept += len(orders(model)) - len(names)
    assert min(absorbed, kept) > 40


class Joined(nn.Module):
    """A body and what is made of its result and its input."""

    def __init__(self, body, join):
        super().__init__()
        self.body, self.join, self.last = body, join, dense()

    def forward(self, x):
        return self.join(self, x)


UNSAFE = {
    "residual": lambda self, x: self.last(x + self.body(x)),
    "concatenation": lambda self, x: self.last(torch.cat([self.body(x)[:, :3], x[:, 3:]], 1)),
    "two readers": lambda self, x: self.last(y := self.body(x)) + y,
    "output": lambda self, x: self.body(x),
    "called twice": lambda self, x: self.last(self.body(self.body(x))),
    "weight read elsewhere": lambda self, x: self.last(self.body(x)) * self.last.weight.mean(),
    "untraceable": lambda self, x: self.last(self.body(x)) if float(x.sum()) < 1e9 else x,
}


@pytest.mark.parametrize("case", UNSAFE)
def test_orders_stay_where_others_would_see_them(case):
    torch.manual_seed(0)
    model = ready(Joined(nn.Sequential(grouped(), shuffled(), nn.ReLU()), UNSAFE[case]))
    assert check(model) == ()


def test_shared_weights_and_hooked_layers_are_left_alone():
    torch.manual_seed(0)
    tied = nn.Sequential(dense(), grouped(), shuffled(), dense())
    tied[3].weight = tied[0].weight
    assert check(ready(tied)) == ()
    hooked = ready(nn.Sequential(grouped(), shuffled(), nn.ReLU(), dense()))
    hooked[2].register_forward_hook(lambda module, inputs, output: output * torch.arange(5))
    assert check(hooked) == ()
    named_twice = ready(Joined(nn.Sequential(grouped(), shuffled()), lambda self, x: self.last(self.body(x))))
    named_twice.alias = named_twice.last
    assert check(named_twice) == ()


def pinnable():
    torch.manual_seed(0)
    features = nn.Sequential(dense(), grouped(), shuffled(), dense(), grouped(), shuffled(), nn.ReLU())
    head = nn.Sequential(shuffled(), nn.ReLU(inplace=True), grouped(), shuffled(), nn.Flatten(), classifier())
    return ready(nn.Sequential(features, head))


def test_the_pinned_feature_map_keeps_its_order():
    model = pinnable()
    assert check(model) == ("0.2", "0.5", "1.3")  # 0.5 is merged into 1.0
    assert check(model, pinned="0") == ("0.2", "1.3")
    model = ready(nn.Sequential(nn.Sequential(dense(), ChannelOrder(CHANNELS)), shuffled(), grouped()))
    assert check(model, pinned="0") == ("0.1",)


def test_a_pinned_map_is_not_written_into_for_want_of_a_copy():
    torch.manual_seed(0)
    model = ready(nn.Sequential(dense(), ChannelOrder(CHANNELS), nn.ReLU(inplace=True), dense()))
    assert check(model, pinned="0") == ()
    assert check(model) == ("1",)


def test_copies_that_protect_a_shared_value_stay():
    torch.manual_seed(0)

    def added_in_place(self, x):
        x = torch.sigmoid(x)
        y = self.body(x)
        y += 1
        return self.last(y) + x

    identity, chain = ChannelOrder(CHANNELS), nn.Sequential(ChannelOrder(CHANNELS), nn.ReLU(inplace=True))
    assert check(ready(Joined(identity, added_in_place))) == ()
    assert check(ready(Joined(chain, lambda self, x: self.last(self.body(x)) + x))) == ()
    assert check(ready(Joined(identity, lambda self, x: self.last(self.body(x)) * x.relu_()))) == ()
    assert check(ready(Joined(identity, lambda self, x: torch.add(self.last(self.body(x)), x)))) == ("body",)


def test_opposite_orders_cancel():
    torch.manual_seed(0)
    order = shuffled()
    model = ready(nn.Sequential(grouped(), order, nn.ReLU(), inverse(order), grouped()))
    assert check(model) == ("1", "3")


def test_neighbouring_orders_become_one():
    torch.manual_seed(0)
    model = ready(nn.Sequential(grouped(), shuffled(), nn.ReLU(), shuffled(), grouped()))
    assert check(model) == ("1",)


def test_orders_of_linear_layers():
    torch.manual_seed(0)
    width = CHANNELS * SIZE**2
    layers = [
        grouped(), shuffled(), nn.Flatten(), shuffled(width, -1), nn.ReLU(), nn.Linear(width, 8),
        nn.ReLU(), nn.Dropout(), shuffled(8, -1), nn.Tanh(), nn.Linear(8, 4), shuffled(4, -1),
    ]  # fmt: skip
    assert check(ready(nn.Sequential(*layers))) == ("1", "3", "8", "11")


def test_channels_last_weights_stay_so():
    torch.manual_seed(0)
    model = ready(nn.Sequential(dense(), shuffled(), dense())).to(memory_format=torch.channels_last)
    assert absorb_orders(model) == ("1",)
    assert all(model[i].weight.is_contiguous(memory_format=torch.channels_last) for i in (0, 2))


def test_a_plan_of_another_network_is_refused_in_one_line():
    with pytest.raises(ModelError, match=r"^1: .*a Conv2d"):
        without_orders(nn.Sequential(shuffled(), dense()), ["1"])
    with pytest.raises(ModelError, match=r"^features\.7: .*nothing"):
        without_orders(nn.Sequential(), ["features.7"])
