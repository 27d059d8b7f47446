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
# # 2 Compare methods
#
# A method is what takes a layer's place: two or three smaller convolutions, in one of some twenty ways.
# Which of them loses least differs from layer to layer and from budget to budget, and fewer operations are
# not always less time. So measure: here on AlexNet, first a single layer, then the whole network.

# %%
import matplotlib.pyplot as plt

import cnncompress as cc
from cnncompress.api import compress_speedups, default_data
from cnncompress.applicability import applicability
from cnncompress.inspect import inspect_layers
from cnncompress.measure import latency

IMAGES = 40
network = cc.load_network("alexnet-elpv")
calibration, _, _ = default_data(network, images=IMAGES, seed=0)
layers = [layer for layer in inspect_layers(network.model, network.input_size) if layer.kind == "conv2d"]
for layer in layers:
    print(f"{layer.name:12} {layer.in_channels:3} -> {layer.out_channels:3} channels,", end=" ")
    print(f"kernel {layer.kernel_size}, {layer.macs / 1e6:5.1f} million multiply-accumulates (MACs)")

# %% [markdown]
# ## Which method fits which layer
#
# The ranks at which each method halves a layer's MACs, `-` where it doesn't fit or can't halve them. What
# is counted differs: most have one or two ranks, `groups` a width, `sic` its layers, and
# `spatial-bottleneck` nothing but the number of a setting.

# %%
fits = {layer.name: {entry.method: entry for entry in applicability(layer)} for layer in layers}
methods = list(fits["features.3"])
print(f"{'':20}" + "".join(f"{name:>14}" for name in fits))
for method in methods:
    cells = [entries[method].half for entries in fits.values()]
    texts = [" x ".join(map(str, half.values())) if half else "-" for half in cells]
    print(f"{method:20}" + "".join(f"{text:>14}" for text in texts))

# %%
print("The first layer:")
for method in ("gspatial", "gtucker", "root", "groups"):
    print(f"{method}: {fits['features.0'][method].obstacle}")

# %% [markdown]
# ## One layer
#
# `features.6` alone, with a third of its MACs or less (ranks are multiples of 16), by some of the methods.
# The error is that of the network's last feature map on calibration images that were not fitted. All but
# the last two know the images: `spatial` looks at the weight alone, and so does `svd-in` unless it is told
# to weigh what the inputs make of it (`metric="data"`). Neither way costs more at run time.

# %%
NAME = "features.6"
candidates = {
    "gsvd3d": cc.GSVD3D(),
    "gsvd": cc.GSVD(),
    "gspatial": cc.GSpatial(),
    "gsvd-in": cc.GSVDIn(),
    "gtucker": cc.GTucker(),
    "svd-in, data": cc.SVDIn(metric="data"),
    "svd-in": cc.SVDIn(),
    "spatial": cc.Spatial(),
}
(layer,) = (layer for layer in layers if layer.name == NAME)
total = sum(layer.macs for layer in layers)
speedup = total / (total - layer.macs * 2 / 3)  # of the network, so that this layer's is 3
alone = {}
for label, method in candidates.items():
    options = cc.Options(methods={NAME: method}, speedup=speedup, images=IMAGES, measure=False)
    found = cc.compress(network, calibration, None, options)
    (row,) = (row for row in found.report["layers"] if row["name"] == NAME)
    alone[label] = found.report["fidelity"]["feature_relative_error"]
    ratio = row["macs_before"] / row["macs_after"]
    print(f"{label:13} ranks {row['ranks']!s:11} {ratio:.2f}x fewer MACs, error {alone[label]:.4f}")

# %%
figure, axes = plt.subplots(figsize=(6, 2.4), layout="constrained")
axes.plot(list(alone.values()), list(alone), "o")
axes.invert_yaxis()
axes.grid(axis="y", alpha=0.4)
axes.set(xscale="log", xlabel=f"error of the last feature map, {NAME} replaced")
plt.show()

# %% [markdown]
# ## The whole network
#
# Each method at 2x and 4x. `compress_speedups` calibrates once for both. With `allow_slower`, replacements
# stay even where they run slower than the layer; otherwise a method that is slow on this machine would
# leave layers as they are, and the comparison would be one of clocks. Errors of layers add up, so the gap
# to methods that know the images widens.

# %%
whole = {}
for label in ("gsvd3d", "gsvd", "gspatial", "gsvd-in", "spatial"):
    options = cc.Options(method=label, images=IMAGES, measure=False, allow_slower=True)
    whole[label] = list(compress_speedups(network, calibration, None, options, (2, 4)))
    for found in whole[label]:
        ratio, fidelity = found.report["macs"]["conv_speedup"], found.report["fidelity"]
        print(f"{label:9} {ratio:.2f}x fewer MACs, error {fidelity['feature_relative_error']:.4f}")

# %% [markdown]
# Time is measured, original and compressed network in turn, so that whatever else the machine does falls on
# both. A chain of three convolutions writes and reads more than a chain of two, so with the same MACs
# methods differ on the clock. Your processor and runtime may rank them in another way, `cnncompress bench`
# tells.

# %%
times = {
    label: [latency(network.model, one.model, network.input_size, repeats=10).speedup for one in found]
    for label, found in whole.items()
}
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.8), sharey=True, layout="constrained")
for label, found in whole.items():
    errors = [one.report["fidelity"]["feature_relative_error"] for one in found]
    left.plot([one.report["macs"]["conv_speedup"] for one in found], errors, marker="o", label=label)
    right.plot(times[label], errors, marker="o")
left.set(xlabel="times fewer MACs", ylabel="error of the last feature map", yscale="log")
right.set(xlabel="times as fast (torch, one thread)")
figure.legend(loc="outside right center", frameon=False)
plt.show()

# %% [markdown]
# ## Let the planner choose
#
# `method="auto"` takes for each layer what the budget buys best, among five methods that all leave plain
# convolutions. [The planner](planner.md) has how, and when it is worth the longer run.

# %%
options = cc.Options(method="auto", speedup=4, images=IMAGES, measure=False)
chosen = cc.compress(network, calibration, None, options)
for row in chosen.report["layers"][:-1]:
    print(f"{row['name']:12} {row['method']:9} {row['ranks']}")
print(f"error {chosen.report['fidelity']['feature_relative_error']:.4f}")

# %% [markdown]
# ## Next
#
# - Ranks and budgets: [notebook 3](3_ranks_and_budgets.ipynb), [the planner](planner.md).
# - What each method does and when to use it: [methods](methods.md).
# - Denton et al.'s methods, metrics and colours: [notebook 6](6_linear_structure.ipynb); filter groups and
#   single filters a channel: [notebook 7](7_structured_layers.ipynb).
# - A method of your own in the same table: [notebook 4](4_own_decomposition.ipynb).
