"""One property suite over every registered decomposition."""

from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cnncompress.decompositions import available, check_ranks, fallback_of, make, register
from cnncompress.errors import ModelError, OptionError, RankError
from cnncompress.factorize import load_

VARIANTS = [(name, {}) for name in available()] + [
    ("gsvd", {"symmetric": True}),
    ("gsvd", {"nonlinear": False}),
    ("gsvd3d", {"symmetric": True}),
    ("gsvd3d", {"nonlinear": False}),
    ("gsvd3d", {"horizontal": "weight"}),
]
IDS = ["-".join([name, *map(str, options)]) for name, options in VARIANTS]

LAYERS = {
    "plain": {"kernel_size": 3, "padding": 1},
    "no bias": {"kernel_size": 3, "padding": 1, "bias": False},
    "stride 2": {"kernel_size": 3, "padding": 1, "stride": 2},
    "stride 3": {"kernel_size": 5, "padding": 2, "stride": 3},
    "stride 4": {"kernel_size": 5, "padding": 1, "stride": (4, 1)},
    "dilation 2": {"kernel_size": 3, "padding": 2, "dilation": 2},
    "oblong": {"kernel_size": (3, 5), "padding": (1, 0), "stride": (1, 2)},
    "same": {"kernel_size": 3, "padding": "same", "dilation": (1, 2)},
    "valid": {"kernel_size": 3, "padding": "valid"},
    "reflect": {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    "replicate": {"kernel_size": 5, "padding": 2, "padding_mode": "replicate", "stride": 2},
    "circular": {"kernel_size": 3, "padding": 1, "padding_mode": "circular"},
}
SIZE = (5, 11, 9)


@dataclass
class Case:
    """A layer, its description, inputs and responses."""

    layer: nn.Conv2d
    info: object
    images: torch.Tensor
    responses: object


@pytest.fixture
def case(describe, observe):
    def make_case(settings, *, dtype=torch.float64, rectified=True, outputs=7):
        torch.manual_seed(0)
        layer = nn.Conv2d(SIZE[0], outputs, **settings).to(dtype)
        images = torch.randn(24, *SIZE, dtype=dtype)
        info = describe(layer.float() if dtype == torch.float64 else layer, SIZE, rectified=rectified)
        layer.to(dtype)
        return Case(layer, info, images, observe(info, layer, images))

    return make_case


def replace(method, case, ranks):
    weight = case.layer.weight.detach().numpy()
    bias = (
        case.layer.bias.detach().numpy() if case.layer.bias is not None else np.zeros_like(weight[:, 0, 0, 0])
    )
    factors = method.fit(case.info, weight, bias, case.responses if method.needs_data else None, ranks)
    module = method.build(case.info, ranks)
    load_(module, factors, like=case.layer.weight)
    return module, factors


@pytest.mark.parametrize("settings", LAYERS.values(), ids=LAYERS.keys())
@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=IDS)
class TestEveryLayer:
    def test_exact_at_full_rank(self, name, options, settings, case):
        method, this = make(name, options), case(settings)
        module, _ = replace(method, this, method.full_ranks(this.info))
        with torch.no_grad():
            torch.testing.assert_close(module(this.images), this.layer(this.images), rtol=1e-8, atol=1e-8)

    def test_counted_costs_equal_predicted_ones(self, name, options, settings, case):
        method, this = make(name, options), case(settings, dtype=torch.float32)
        full = method.full_ranks(this.info)
        for ranks in (full, tuple(1 for _ in full), tuple(max(1, rank // 2) for rank in full)):
            module = method.build(this.info, ranks)
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                output = module(this.images[:1])
            assert counter.get_total_flops() // 2 == method.macs(this.info, ranks)
            assert output.shape == this.layer(this.images[:1]).shape

    def test_only_the_last_factor_has_a_bias_and_padding_mode_is_kept(self, name, options, settings, case):
        method, this = make(name, options), case(settings, dtype=torch.float32)
        module = method.build(this.info, method.full_ranks(this.info))
        assert [part.bias is not None for part in module] == [False] * (len(module) - 1) + [True]
        spatial = [part for part in module if part.kernel_size != (1, 1)]
        assert all(part.padding_mode == this.layer.padding_mode for part in spatial)


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=IDS)
class TestEveryMethod:
    def test_exact_in_float32(self, name, options, case):
        method, this = make(name, options), case(LAYERS["plain"], dtype=torch.float32)
        module, _ = replace(method, this, method.full_ranks(this.info))
        with torch.no_grad():
            expected = this.layer(this.images)
            assert float((module(this.images) - expected).norm() / expected.norm()) < 1e-4
        assert {p.dtype for p in module.parameters()} == {torch.float32}

    def test_error_falls_with_rank(self, name, options, case):
        method, this = make(name, options), case(LAYERS["plain"], outputs=12)
        full, errors = method.full_ranks(this.info), []
        for share in (0.1, 0.25, 0.5, 0.75, 1):
            module, _ = replace(method, this, tuple(max(1, round(share * rank)) for rank in full))
            with torch.no_grad():
                target, got = (torch.relu(m(this.images)) for m in (this.layer, module))
            errors.append(float((target - got).norm() / target.norm()))
        assert errors == sorted(errors, reverse=True)
        assert errors[0] > 0.1

    def test_deterministic(self, name, options, case):
        method, this = make(name, options), case(LAYERS["plain"])
        ranks = tuple(max(1, rank // 2) for rank in method.full_ranks(this.info))
        one, two = (replace(method, this, ranks)[0].state_dict() for _ in range(2))
        assert all(torch.equal(one[key], two[key]) for key in one)

    @pytest.mark.parametrize("damage", ["dead", "twins", "few samples", "all dead"])
    def test_degenerate_responses(self, name, options, damage, case, observe):
        method, this = make(name, options), case(LAYERS["plain"])
        with torch.no_grad():
            if damage == "dead":
                this.layer.weight[2] = 0
                this.layer.bias[2] = 0
            elif damage == "twins":
                this.layer.weight[3] = this.layer.weight[4]
            elif damage == "all dead":
                this.layer.weight.zero_()
                this.layer.bias.zero_()
            images = this.images[:2] if damage == "few samples" else this.images
        this.responses = observe(this.info, this.layer, images, count=3 if damage == "few samples" else 40)
        module, factors = replace(method, this, tuple(max(1, r // 2) for r in method.full_ranks(this.info)))
        assert all(torch.isfinite(p).all() for p in module.parameters())
        assert all(np.isfinite(error) for error in factors.errors.values())

    def test_energies_descend_and_match_the_ranks(self, name, options, case):
        method, this = make(name, options), case(LAYERS["plain"])
        weight = this.layer.weight.detach().numpy()
        energies = method.energies(this.info, weight, this.responses.moments)
        assert tuple(len(e) for e in energies) == method.full_ranks(this.info)
        for energy in energies:
            assert (np.diff(energy) <= 1e-9 * energy[0]).all()

    def test_ranks_out_of_range_are_refused(self, name, options, case):
        method, this = make(name, options), case(LAYERS["plain"])
        full = method.full_ranks(this.info)
        check_ranks(method, this.info, full)
        with pytest.raises(RankError, match=r"layer: rank must be between 1 and \d+, got 0"):
            check_ranks(method, this.info, (0, *full[1:]))
        with pytest.raises(RankError):
            check_ranks(method, this.info, (full[0] + 1, *full[1:]))
        with pytest.raises(OptionError, match="takes"):
            check_ranks(method, this.info, (*full, 1))

    def test_grouped_layers_are_refused(self, name, options, describe):
        method = make(name, options)
        info = describe(nn.Conv2d(8, 8, 3, groups=2), (8, 9, 9))
        assert "groups" in method.obstacle(info)
        with pytest.raises(ModelError, match="groups"):
            check_ranks(method, info, (1,))


@pytest.mark.parametrize("name", ["svd", "pca", "gsvd"])
def test_linear_layers(name, describe, observe):
    torch.manual_seed(0)
    layer, inputs = nn.Linear(9, 6), torch.randn(8, 4, 5, 9)
    info = describe(layer, (4, 5, 9))
    method = make(name)
    responses = observe(info, layer, inputs)
    weight, bias = layer.weight.detach().numpy()[:, :, None, None], layer.bias.detach().numpy()
    factors = method.fit(info, weight, bias, responses, (6,))
    module = method.build(info, (6,))
    load_(module, factors, like=layer.weight)
    assert [type(part) for part in module] == [nn.Linear, nn.Linear]
    with torch.no_grad():
        torch.testing.assert_close(module(inputs), layer(inputs), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("name", "options"), [v for v in VARIANTS if v[0] in {"gsvd", "gsvd3d"}])
def test_chosen_solution_is_never_worse_than_the_symmetric_linear_one(name, options, case, observe):
    method, this = make(name, options), case(LAYERS["plain"], outputs=12)
    disturbed = this.images + 0.5 * torch.randn_like(this.images)
    this.responses = observe(this.info, this.layer, this.images, disturbed)
    _, factors = replace(method, this, tuple(max(1, r // 3) for r in method.full_ranks(this.info)))
    assert factors.errors[factors.chosen] == min(factors.errors.values())
    assert factors.errors[factors.chosen] <= factors.errors["symmetric linear"]


def test_asymmetric_beats_symmetric_on_a_disturbed_prefix(case, observe):
    this = case(LAYERS["plain"], outputs=12)
    disturbed = 0.6 * this.images + 0.3 * torch.randn_like(this.images)
    this.responses = observe(this.info, this.layer, this.images, disturbed)
    _, factors = replace(make("gsvd"), this, (6,))
    assert factors.chosen == "asymmetric nonlinear"
    assert factors.errors["asymmetric linear"] < 0.95 * factors.errors["symmetric linear"]
    assert factors.errors["asymmetric nonlinear"] < factors.errors["asymmetric linear"]


def test_fallbacks():
    assert fallback_of(make("gsvd3d", {"symmetric": True})) == make("gsvd", {"symmetric": True})
    assert fallback_of(make("gsvd")) is None


def test_unknown_names_and_options_list_the_known_ones():
    with pytest.raises(OptionError, match="did you mean gsvd"):
        make("gsdv")
    with pytest.raises(OptionError, match="did you mean symmetric"):
        make("gsvd", {"symetric": True})
    with pytest.raises(OptionError, match="true or false"):
        make("gsvd", {"symmetric": 3})


def test_a_name_is_registered_once():
    with pytest.raises(OptionError, match="registered already"):

        @register
        @dataclass(frozen=True)
        class Again:
            name: ClassVar[str] = "svd"


def test_every_method_is_a_frozen_dataclass():
    for name in available():
        method = make(name)
        with pytest.raises(AttributeError):
            method.anything = 1
        assert all(option.default is not None for option in fields(method))
