# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 4 Write your own decomposition
#
# A method is one frozen dataclass that says what a layer becomes and solves for the weights. Costs, ranks,
# timing, reports, saving and loading then work as for the built-in ones. Here: a `k x k` convolution
# becomes `1 x k` and then `k x 1`, rows before columns. (The built-in `spatial` and `gspatial` take the
# axes the other way round.)

# %%
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import ClassVar

import numpy as np
import torch
from array_api_compat import array_namespace
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import cnncompress as cc
from cnncompress.api import default_data
from cnncompress.decompositions import Decomposition, Factors, available
from cnncompress.decompositions.chains import Link, unsupported
from cnncompress.decompositions.solutions import relative_error
from cnncompress.factorize import load_
from cnncompress.inspect import inspect_layers
from cnncompress.solvers.reduced_rank import Regression
from cnncompress.solvers.svd import squared_singular_values, truncated_svd

print(*available())

# %% [markdown]
# ## The mathematics
#
# Fold the weight into a matrix whose rows are (output, row of the kernel) and whose columns are (input,
# column of the kernel). Its best approximation of rank $r$ is the truncated SVD: the right vectors are $r$
# horizontal filters, the left ones say how `k x 1` filters put them together. Nothing is lost at the full
# rank, and each rank's loss is a squared singular value.
#
# The second factor can be better than that. Given what the horizontal filters deliver, on the *compressed*
# layers before, it is a linear regression on the true responses. The penalty draws it to the SVD's solution
# where samples tell little.

# %%
RIDGE = 0.03  # relative to the mean variance of what is regressed on


def folded(weight):
    """(outputs, inputs, rows, columns) as a matrix (outputs * rows, inputs * columns)."""
    xp = array_namespace(weight)
    outputs, inputs, rows, columns = weight.shape
    return xp.reshape(xp.permute_dims(weight, (0, 2, 1, 3)), (outputs * rows, inputs * columns))


def split(weight, rank):
    """Filters (rank, inputs, 1, columns) and (outputs, rank, rows, 1)."""
    xp = array_namespace(weight)
    outputs, inputs, rows, columns = weight.shape
    left, values, right = truncated_svd(folded(weight), rank=rank)
    root = xp.sqrt(values)  # both factors get the same scale, which trains best
    horizontal = xp.reshape(root[:, None] * right, (rank, inputs, 1, columns))
    vertical = xp.permute_dims(xp.reshape(left * root, (outputs, rows, rank)), (0, 2, 1))
    return horizontal, vertical[:, :, :, None]


def delivered(horizontal, patches, rows):
    """What the horizontal filters make of patches, shape (rank * rows, samples)."""
    xp = array_namespace(patches)
    rank, inputs, _, columns = horizontal.shape
    samples = patches.shape[1]
    by_row = xp.permute_dims(xp.reshape(patches, (inputs, rows, columns, samples)), (0, 2, 1, 3))
    flat = xp.reshape(horizontal, (rank, -1)) @ xp.reshape(by_row, (inputs * columns, rows * samples))
    return xp.reshape(flat, (rank * rows, samples))


print("the two factors at rank 3:", *[part.shape for part in split(np.ones((8, 6, 3, 5)), rank=3)])

# %% [markdown]
# ## The class
#
# Fields are options. Class variables say what is fixed: the `name`, and a `fallback` for layers that it
# can't replace. `steps` describes the chain; costs and untrained modules follow from it. Stride, padding
# and dilation go with the axis that a `Link` covers, and the bias belongs to the last link alone, as a bias
# before a padded convolution would be wrong at the borders. Arrays may live on a GPU, so the code asks each
# array for its library and never assumes NumPy.


# %%
@dataclass(frozen=True, kw_only=True)
class RowsFirst(Decomposition):
    """1 x k then k x 1: rank (k c H w + k d h w) multiply-accumulates.

    Attributes:
        data: solve the second factor on responses.
    """

    data: bool = True
    name: ClassVar[str] = "rows-first"
    fallback: ClassVar[str | None] = "gsvd"

    @property
    def needs(self):
        return frozenset({"responses"} if self.data else ())

    def obstacle(self, layer):
        return unsupported(layer, spatial=True)  # groups, or a kernel with a side of 1

    def full_ranks(self, layer):
        rows, columns = layer.kernel_size
        return (min(columns * layer.in_channels, rows * layer.out_channels),)

    def energies(self, layer, weight, statistics):
        return (squared_singular_values(folded(weight)),)

    def steps(self, layer, ranks):
        (rank,) = ranks
        return (
            Link("horizontal", layer.in_channels, rank),
            Link("vertical", rank, layer.out_channels, bias=True),
        )

    def fit(self, layer, weight, bias, responses, ranks):
        horizontal, vertical = split(weight, ranks[0])
        if responses is None:
            return Factors((horizontal, vertical), bias)
        xp = array_namespace(weight)
        outputs, _, rows, _ = vertical.shape
        prior = xp.reshape(vertical, (outputs, -1))
        regression = Regression.on(
            delivered(horizontal, responses.fit.patches, rows), prior=prior, ridge=RIDGE
        )
        solved = regression.solve(responses.fit.target, rank=outputs)
        held_out = delivered(horizontal, responses.held_out.patches, rows)
        errors = {
            "weight alone": relative_error(responses, prior @ held_out + bias[:, None]),
            "on responses": relative_error(responses, solved(held_out)),
        }
        chosen = min(errors, key=errors.get)
        if chosen == "on responses":
            vertical, bias = xp.reshape(solved.left @ solved.right, vertical.shape), solved.bias
        return Factors((horizontal, vertical), bias, errors, chosen)


if "rows-first" not in available():  # this cell may run twice; restart the kernel after a change
    cc.register(RowsFirst)
RowsFirst()

# %% [markdown]
# ## Is it right?
#
# The properties that the toolkit's own suite checks of every method (`tests/test_decompositions.py`), on
# layers with strides, dilation, oblong kernels and reflected padding: exact at the full rank, MACs and
# parameters as predicted, the right shape at every rank. In a package of your own, make them tests.

# %%
torch.manual_seed(0)
method = RowsFirst(data=False)
for settings in (
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "padding": 1, "stride": 2, "bias": False},
    {"kernel_size": (3, 5), "padding": (1, 0), "stride": (1, 2), "dilation": (2, 1)},
    {"kernel_size": 5, "padding": 2, "padding_mode": "reflect"},
):
    convolution = nn.Conv2d(6, 8, **settings)
    (layer,) = inspect_layers(nn.Sequential(convolution, nn.ReLU()), (6, 13, 11))
    convolution.double()
    images = torch.randn(4, 6, 13, 11, dtype=torch.float64)
    weight = convolution.weight.detach().numpy()
    bias = np.zeros(8) if convolution.bias is None else convolution.bias.detach().numpy()
    (full,) = method.full_ranks(layer)
    errors = []
    for rank in (1, full // 2, full):
        chain = method.build(layer, (rank,))
        load_(chain, method.fit(layer, weight, bias, None, (rank,)), like=convolution.weight)
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            answer = chain(images[:1])
        with torch.inference_mode():
            wanted, got = convolution(images), chain(images)
        assert counter.get_total_flops() // 2 == method.macs(layer, (rank,))
        assert sum(part.numel() for part in chain.parameters()) == method.params(layer, (rank,))
        assert answer.shape == wanted[:1].shape
        errors.append(float((wanted - got).square().sum() / wanted.square().sum()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-20
    (energy,) = method.energies(layer, weight, None)
    assert len(energy) == full
    assert (np.diff(energy) <= 1e-9 * energy[0]).all()
    print(f"exact at rank {full}, costs as predicted, errors fall: {settings}")

# %% [markdown]
# ## In a network
#
# By layer, with an instance or its name. The data-aware version against the plain SVD, on the same layers,
# with the same MACs:

# %%
network = cc.load_network("alexnet-elpv")
calibration, _, _ = default_data(network, images=40, seed=0)
found = {}
for data in (False, True):
    options = cc.Options(
        methods={"features.[368]": RowsFirst(data=data)}, speedup=1.8, images=40, measure=False
    )
    found[data] = cc.compress(network, calibration, None, options)
    error = found[data].report["fidelity"]["feature_relative_error"]
    print(f"data={data!s:5} error of the last feature map {error:.4f}")
assert (
    found[True].report["fidelity"]["feature_relative_error"]
    < found[False].report["fidelity"]["feature_relative_error"]
)
for row in found[True].report["layers"]:
    if row["method"] != "none":
        print(row["name"], row["method"], row["ranks"], {k: round(v, 4) for k, v in row["errors"].items()})

# %% [markdown]
# As a rival of the built-in methods: the planner takes it wherever it is the cheapest. Rows first or
# columns first makes a difference of the layer's input and output size, and of which filters the network
# happens to have.

# %%
options = cc.Options(method="gspatial,rows-first", speedup=3, images=40, measure=False)
both = cc.compress(network, calibration, None, options)
for row in both.report["layers"]:
    print(f"{row['name']:12} {row['method']:11} {row['ranks']}")

# %% [markdown]
# Saved and loaded like any other. `plan.json` names the method and holds no code, so whoever loads the
# folder must have registered it, by importing your module:

# %%
folder = both.save(Path(mkdtemp()) / "own")
images = next(iter(calibration.batches(4))).images
with torch.inference_mode():
    same = torch.allclose(cc.load(folder)(images), both.model(images), atol=1e-4)
print("loaded, answers as before:", same)

# %% [markdown]
# ## Next
#
# - [The guide](own_decomposition.md) in short, [the contract](api.md#the-contract) with every member:
#   methods with several ranks, with settings that aren't ranks (`settings`, `kept`), or with modules that
#   torch doesn't have.
# - Compare yours with the others: [notebook 2](2_compare_methods.ipynb).
# - To have it built in: one file in `compress/decompositions/`, one import line there, and the property
#   suite runs over it; see CONTRIBUTING.
