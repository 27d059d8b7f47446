"""One property suite over every registered decomposition."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cnncompress.decompositions import available, check_ranks, fallback_of, make, options_of, register
from cnncompress.errors import ModelError, OptionError, RankError
from cnncompress.factorize import load_

ON_WEIGHT = [name for name in available() if "metric" in options_of(make(name))]
VARIANTS = [
    *((name, {}) for name in available()),
    *((name, {"metric": metric}) for name in ON_WEIGHT for metric in ("data", "gradient")),
    ("gsvd", {"symmetric": True}),
    ("gsvd", {"nonlinear": False}),
    ("gsvd3d", {"symmetric": True}),
    ("gsvd3d", {"nonlinear": False}),
    ("gsvd3d", {"horizontal": "weight"}),
    ("gspatial", {"symmetric": True}),
    ("gspatial", {"nonlinear": False}),
    ("gsvd-in", {"symmetric": True}),
    ("gsvd-in", {"nonlinear": False}),
    ("gtucker", {"symmetric": True}),
    ("gtucker", {"nonlinear": False}),
    ("gtucker", {"start": "tensorly"}),
    ("biclustering-svd", {"G": 3, "H": 4, "sweeps": 2}),
    ("biclustering-svd", {"G": 1, "H": 2}),
    ("biclustering-svd", {"G": 3, "H": 1, "grouping": "random"}),
    ("biclustering-outer", {"G": 6, "H": 4, "grouping": "ordered"}),
    ("biclustering-outer", {"G": 2, "H": 1, "start": "greedy", "joint_sweeps": 0}),
    ("monochromatic", {"filters": "aligned"}),
    ("unravel", {"data": False}),
    ("sic", {"b": 2, "residual": True}),
    ("sic", {"data": False}),
    ("sic", {"k": 5, "rounds": 0}),
    ("sic", {"kind": "parallel"}),
    ("sic", {"kind": "parallel", "k": 5}),
    ("sic-bottleneck", {"k": 5, "residual": True}),
    ("sic-bottleneck", {"inner_activation": False}),
    ("spatial-bottleneck", {"p": 1, "residual": True}),
    ("spatial-bottleneck", {"k": 3, "p": 2}),
    ("root", {"data": False}),
    ("root", {"groups": 3, "grouping": "clustered", "swaps": 5}),
    ("root", {"groups": 2, "grouping": "clustered", "data": False}),
    ("groups", {"data": False}),
    ("groups", {"groups": 2, "restarts": 0, "shuffles": 0}),
    ("topological", {"data": False}),
    ("topological", {"grid": "3x2", "neighbours": "3x1", "tile": "1x2"}),
]
IDS = ["-".join([name, *(f"{key}={value}" for key, value in options.items())]) for name, options in VARIANTS]

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
GRID = (11, 9)


SQUARE = {"topological", "sic", "sic-bottleneck", "spatial-bottleneck"}
"""Methods that keep the number of channels, or are tested where they do."""


def input_channels(name):
    return 3 if name == "monochromatic" else 6


def refused(method, info):
    """Whether a method can't replace a layer; it says why, and the check that users meet says it too."""
    reason = method.obstacle(info)
    if reason:
        with pytest.raises(ModelError, match=r"layer: [\w-]+ can't replace this layer: .{10}"):
            check_ranks(method, info, (1,))
    return bool(reason)


@dataclass
class Case:
    """A layer, its description, inputs and responses."""

    layer: nn.Conv2d
    info: object
    images: torch.Tensor
    observe: Callable[..., object]
    responses: object = None
    count: int = 40

    def seen_by(self, method, ranks=None):
        """Responses as a method wants them sampled."""
        if self.responses is not None:
            return self.responses
        margin = method.margin(self.info, ranks or (1,))
        return self.observe(
            self.info, self.layer, self.images, count=self.count, margin=margin, blocks=method.blocks
        )


@pytest.fixture
def case(describe, observe):
    def make_case(settings, *, name="", dtype=torch.float64, rectified=True, outputs=8):
        torch.manual_seed(0)
        outputs = input_channels(name) if name in SQUARE else outputs
        size = (input_channels(name), *GRID)
        layer = nn.Conv2d(size[0], outputs, **settings).to(dtype)
        images = torch.randn(24, *size, dtype=dtype)
        info = describe(layer.float() if dtype == torch.float64 else layer, size, rectified=rectified)
        layer.to(dtype)
        return Case(layer, info, images, observe)

    return make_case


def replace(method, case, ranks):
    weight = case.layer.weight.detach().numpy()
    bias = (
        case.layer.bias.detach().numpy() if case.layer.bias is not None else np.zeros_like(weight[:, 0, 0, 0])
    )
    factors = method.fit(
        case.info, weight, bias, case.seen_by(method, ranks) if method.needs_data else None, ranks
    )
    module = method.build(case.info, ranks)
    load_(module, factors, like=case.layer.weight)
    return module, factors


def at_share(method, info, share):
    """Ranks at a share of their limits, or the nearest ones below that are admissible, or the least."""
    settings = [ranks[0] for ranks in method.settings(info, 1)] if len(method.full_ranks(info)) == 1 else None
    wanted = tuple(max(1, round(share * rank)) for rank in method.full_ranks(info))
    if settings is None:
        return wanted
    return (max((rank for rank in settings if rank <= wanted[0]), default=min(settings)),)


@pytest.mark.parametrize("settings", LAYERS.values(), ids=LAYERS.keys())
@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=IDS)
class TestEveryLayer:
    def test_exact_at_full_rank(self, name, options, settings, case):
        method, this = make(name, options), case(settings, name=name)
        if refused(method, this.info):
            return
        if not method.exact:
            pytest.skip("no setting of this method reproduces every layer")
        module, _ = replace(method, this, method.full_ranks(this.info))
        with torch.no_grad():
            torch.testing.assert_close(module(this.images), this.layer(this.images), rtol=1e-8, atol=1e-8)

    def test_counted_costs_equal_predicted_ones(self, name, options, settings, case):
        method, this = make(name, options), case(settings, name=name, dtype=torch.float32)
        if refused(method, this.info):
            return
        for ranks in (at_share(method, this.info, share) for share in (0, 0.5, 1)):
            module = method.build(this.info, ranks)
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                output = module(this.images[:1])
            assert counter.get_total_flops() // 2 == method.macs(this.info, ranks)
            assert sum(p.numel() for p in module.parameters()) == method.params(this.info, ranks)
            assert output.shape == this.layer(this.images[:1]).shape

    def test_only_the_last_factor_has_a_bias_and_padding_mode_is_kept(self, name, options, settings, case):
        method, this = make(name, options), case(settings, name=name, dtype=torch.float32)
        if refused(method, this.info):
            return
        module = method.build(this.info, method.full_ranks(this.info))
        factors = [part for part in module.modules() if hasattr(part, "weight")]
        if method.convolves:
            assert [part.bias is not None for part in factors] == [False] * (len(factors) - 1) + [True]
        windows = [getattr(part, "window", part) for part in factors]
        spatial = [window for window in windows if window.kernel_size != (1, 1)]
        assert spatial
        padded = [part for part in spatial if part.padding != (0, 0)]
        assert all(part.padding_mode == this.layer.padding_mode for part in padded)


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=IDS)
class TestEveryMethod:
    def test_exact_in_float32(self, name, options, case):
        method, this = make(name, options), case(LAYERS["plain"], name=name, dtype=torch.float32)
        if not method.exact:
            pytest.skip("no setting of this method reproduces every layer")
        module, _ = replace(method, this, method.full_ranks(this.info))
        with torch.no_grad():
            expected = this.layer(this.images)
            assert float((module(this.images) - expected).norm() / expected.norm()) < 1e-4
        assert {p.dtype for p in module.parameters()} == {torch.float32}

    def test_error_falls_with_rank(self, name, options, case):
        method, this = make(name, options), case(LAYERS["plain"], name=name, outputs=12)
        errors = []
        for share in (0.1, 0.25, 0.5, 0.75, 1):
            module, _ = replace(method, this, at_share(method, this.info, share))
            with torch.no_grad():
                target, got = (torch.relu(m(this.images)) for m in (this.layer, module))
            errors.append(float((target - got).norm() / target.norm()))
        assert errors == sorted(errors, reverse=True)
        assert errors[0] > 0.1

    def test_deterministic(self, name, options, case):
        method, this = make(name, options), case(LAYERS["plain"], name=name)
        ranks = at_share(method, this.info, 0.5)
        one, two = (replace(method, this, ranks)[0].state_dict() for _ in range(2))
        assert all(torch.equal(one[key], two[key]) for key in one)

    @pytest.mark.parametrize("damage", ["dead", "twins", "few samples", "all dead"])
    def test_degenerate_responses(self, name, options, damage, case):
        method, this = make(name, options), case(LAYERS["plain"], name=name)
        with torch.no_grad():
            if damage == "dead":
                this.layer.weight[2] = 0
                this.layer.bias[2] = 0
            elif damage == "twins":
                this.layer.weight[3] = this.layer.weight[4]
            elif damage == "all dead":
                this.layer.weight.zero_()
                this.layer.bias.zero_()
            if damage == "few samples":
                this.images, this.count = this.images[:2], 3
        module, factors = replace(method, this, at_share(method, this.info, 0.5))
        assert all(torch.isfinite(p).all() for p in module.parameters())
        assert all(np.isfinite(error) for error in factors.errors.values())

    def test_energies_descend_and_match_the_ranks(self, name, options, case):
        method, this = make(name, options), case(LAYERS["plain"], name=name)
        weight = this.layer.weight.detach().numpy()
        energies = method.energies(this.info, weight, this.seen_by(method).statistics)
        if not energies:
            pytest.skip("this method tells what each setting keeps instead")
        assert tuple(len(e) for e in energies) == method.full_ranks(this.info)
        for energy in energies:
            assert (np.diff(energy) <= 1e-9 * energy[0]).all()

    def test_settings_fit_and_keep_a_share_of_the_energy(self, name, options, case):
        method, this = make(name, options), case(LAYERS["plain"], name=name)
        weight = this.layer.weight.detach().numpy()
        settings = method.settings(this.info, 1)
        kept = method.kept(this.info, weight, this.seen_by(method).statistics, settings)
        for ranks in settings:
            check_ranks(method, this.info, ranks)
        assert kept.shape == (len(settings),)
        assert ((kept >= 0) & (kept <= 1 + 1e-9)).all()
        if method.exact:
            assert kept[settings.index(method.full_ranks(this.info))] == pytest.approx(1)
        assert kept.max() > kept.min() or len(settings) == 1

    def test_ranks_out_of_range_are_refused(self, name, options, case):
        method, this = make(name, options), case(LAYERS["plain"], name=name)
        full = method.full_ranks(this.info)
        check_ranks(method, this.info, full)
        with pytest.raises(RankError, match=r"layer: \w+ must be between 1 and \d+, got 0"):
            check_ranks(method, this.info, (0, *full[1:]))
        with pytest.raises(RankError):
            check_ranks(method, this.info, (full[0] + 1, *full[1:]))
        with pytest.raises(OptionError, match="takes"):
            check_ranks(method, this.info, (*full, 1))

    def test_grouped_layers_are_refused(self, name, options, describe):
        method = make(name, options)
        channels = 4 if name == "monochromatic" else 12
        info = describe(nn.Conv2d(channels, 12, 3, groups=2), (channels, 9, 9))
        assert "groups" in method.obstacle(info)
        with pytest.raises(ModelError, match="groups"):
            check_ranks(method, info, (1,))


@pytest.mark.parametrize("name", ["svd-out", "svd-in", "pca", "gsvd"])
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
        assert all(option.name in options_of(method) for option in fields(method))


@pytest.mark.parametrize("settings", LAYERS.values(), ids=LAYERS.keys())
@pytest.mark.parametrize("metric", ["frobenius", "data", "gradient"])
def test_planted_colours_are_found_on_every_layer(settings, metric, case, observe):
    this = case(settings, name="monochromatic")
    rng = np.random.default_rng(0)
    colors = torch.from_numpy(rng.standard_normal((4, 3)))
    height, width = this.layer.kernel_size
    filters = torch.from_numpy(rng.standard_normal((8, height, width)))
    with torch.no_grad():
        this.layer.weight.copy_(colors[[0, 3, 1, 2, 2, 0, 1, 3], :, None, None] * filters[:, None])
    this.responses = observe(this.info, this.layer, this.images)
    module, _ = replace(make("monochromatic", {"metric": metric}), this, (4,))
    with torch.no_grad():
        torch.testing.assert_close(module(this.images), this.layer(this.images), rtol=1e-8, atol=1e-8)


def test_greedy_terms_approach_the_layer(case):
    this = case(LAYERS["stride 2"])
    errors = []
    for rank in (4, 16, 48):
        module, _ = replace(make("outer", {"start": "greedy", "joint_sweeps": 0}), this, (rank,))
        with torch.no_grad():
            errors.append(float((module(this.images) - this.layer(this.images)).square().sum()))
    assert errors[0] > 3 * errors[1] > 9 * errors[2] > 0
