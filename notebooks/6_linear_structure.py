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
# # 6 Linear structure: methods by layer, metrics, colours
#
# Denton et al.'s decompositions on a real AlexNet. [The guide](linear_structure.md) says when to use which,
# with measured figures.

# %%
from dataclasses import replace

from IPython.display import SVG, display

import cnncompress as cc
from cnncompress.api import default_data
from cnncompress.applicability import applicability
from cnncompress.effective_kernel import filter_arrays
from cnncompress.filter_figures import color_clouds, filter_tiles
from cnncompress.inspect import inspect_layers

network = cc.load_network("alexnet-elpv")
calibration, _, _ = default_data(network, images=60, seed=0)
layers = {layer.name: layer for layer in inspect_layers(network.model, network.input_size)}
print(calibration.description, "|", *layers)

# %% [markdown]
# What fits a layer, up to which ranks, and at which ranks the multiply-accumulates are halved:

# %%
for entry in applicability(layers["features.3"]):
    print(f"{entry.method:19}", entry.obstacle or f"up to {dict(entry.limits)}, half at {dict(entry.half)}")

# %% [markdown]
# A method for each layer. Here the first layer's filters see one of 16 colours each, and the second layer's
# channels are clustered. Ranks that are not given are chosen so that all convolutions together need 1.3
# times fewer multiply-accumulates. A colour for each filter saves work but not time on a CPU: such
# replacements are refused unless `allow_slower` is set.

# %%
options = cc.Options(
    methods={
        "features.0": cc.Monochromatic(colors=16),
        "features.3": cc.BiclusteringSVD(input_clusters=2, output_clusters=2, metric="data"),
    },
    speedup=1.3,
    images=60,
    allow_slower=True,
)
result = cc.compress(network, calibration, None, options)
for row in result.report["layers"][:2]:
    print(f"{row['name']}: {row['method']} {row['ranks']},", end=" ")
    print(f"{row['macs_before'] / row['macs_after']:.2f}x fewer MACs")
print(result.model.features[3])

# %% [markdown]
# The first layer's filters as points in RGB space, and as tiles, before and after:

# %%
before, after = filter_arrays(result.report["filters"])
display(SVG(color_clouds(before, after)), SVG(filter_tiles(before, after)))

# %% [markdown]
# The metric matters more than the method. The same layer at the same cost, solved so that every weight
# counts alike, and so that what the inputs make of it counts; errors on images that were not fitted:

# %%
errors = {}
for metric in ("frobenius", "data"):
    one = replace(options, methods={"features.3": cc.SVDIn(metric=metric)}, speedup=1.2, measure=False)
    errors[metric] = cc.compress(network, calibration, None, one).report["fidelity"]["output_relative_error"]
print(errors)
assert errors["data"] < errors["frobenius"]

# %% [markdown]
# ## Next
#
# - [What each of them loses and gains](linear_structure.md), layer by layer; [their
#   mathematics](methods_weight.md).
# - The same layers beside the methods that are solved on responses: [notebook 2](2_compare_methods.ipynb).
# - `cnncompress inspect alexnet` prints the second cell's table for any network.
