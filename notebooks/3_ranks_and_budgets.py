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
# # 3 Ranks and budgets
#
# A speedup is asked of the whole network. How it is divided among the layers decides what it costs: this
# notebook shows what the choice rests on, the rules, and the four ways to say how much you want: a speedup,
# several at once, a largest drop, or milliseconds.

# %%
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np

import cnncompress as cc
from cnncompress.api import compress_speedups, compress_within_drop, default_data
from cnncompress.data import paths_source
from cnncompress.zoo.elpv import elpv_split

network = cc.load_network("alexnet-elpv")
calibration, _, _ = default_data(network, images=40, seed=0)
options = cc.Options(method="gsvd3d", speedup=3, images=40, measure=False)
print(network.name, "|", calibration.description)

# %% [markdown]
# ## Energies
#
# The responses of a layer vary in few directions: some principal components hold nearly all of their
# variance, the *energy*. What a rank keeps is read off this curve, the dots are the ranks chosen at 3x.
# Late layers have flatter curves, so the same rank loses more there.

# %%
greedy = cc.compress(network, calibration, None, options)
greedy.plot.energy()

# %% [markdown]
# ## Rules
#
# - `greedy` (the default for one method): lower the rank whose energy is the cheapest for what it saves,
#   until the budget is met (Zhang et al., section 3.4).
# - `uniform`: every layer gets the same ratio. It needs no data and is a baseline, no more.
# - `joint`: the two ranks of `gsvd3d` are chosen together rather than one derived from the other.
# - `knapsack`: predicts what each choice costs the network's *output*, and finds the cheapest sum. Takes
#   longer; needed for several methods and for other budgets than MACs.
#
# [Ranks](ranks.md) has the maths. With so small a calibration set the order of close rules means little.

# %%
rules = {"greedy": greedy}
for rule in ("uniform", "joint", "knapsack"):
    rules[rule] = cc.compress(network, calibration, None, replace(options, ranks=rule))
for rule, found in rules.items():
    ranks = [",".join(map(str, row["ranks"])) for row in found.report["layers"] if row["ranks"]]
    error = found.report["fidelity"]["feature_relative_error"]
    print(f"{rule:9} error {error:.4f}  ranks " + "  ".join(f"{text:>7}" for text in ranks))

# %% [markdown]
# What the knapsack expects each layer to contribute to the loss of the output:

# %%
rules["knapsack"].plot.losses()

# %% [markdown]
# Ranks of single layers can be set (`layer_ranks={"features.6": (96, 128)}`), layers left out
# (`skip=("features.0",)`), and a `plan.json` that was edited by hand is taken with `ranks="manual",
# manual_plan=...`.
#
# ## Several speedups from one calibration
#
# The images are read once. Each point is a network with its own ranks, and its real error, not a predicted
# one. Take the speedup that you need, or the last one before the curve bends upwards.

# %%
front = list(compress_speedups(network, calibration, None, options, (2, 3, 4, 5)))
speedups = [one.report["macs"]["conv_speedup"] for one in front]
errors = [one.report["fidelity"]["feature_relative_error"] for one in front]
figure, axes = plt.subplots(figsize=(5, 2.8), layout="constrained")
axes.plot(speedups, errors, marker="o")
axes.set(xlabel="times fewer MACs", ylabel="error of the last feature map", ylim=(0, None))
plt.show()

# %% [markdown]
# ## A largest drop
#
# "As fast as possible, but no more than two points of accuracy": speedups are tried until the next one
# would lose more. That needs labels. 150 test images are taken here for the sake of time; one image is 0.67
# points then, so take thousands for a decision, and others than these to report the drop by, since the best
# of several tries was picked.

# %%
_, test = elpv_split()
few = np.random.default_rng(0).permutation(len(test.paths))[:150]
evaluation = paths_source(
    [test.paths[i] for i in few], [test.labels[i] for i in few], network.preprocess, test.paths[0].parent
)
within = compress_within_drop(network, calibration, evaluation, options, max_drop=2)
for tried in within.report["planner"]["trials"]:
    if tried["drop"] is not None:
        print(f"{tried['speedup']:5.2f}x drops {tried['drop']:5.2f} points")
accuracy = within.report["accuracy"]
print(f"kept {within.report['macs']['conv_speedup']:.2f}x fewer MACs,", end=" ")
print(f"top-1 {accuracy['top1_before']:.1f} -> {accuracy['top1_after']:.1f} %")

# %% [markdown]
# ## Milliseconds
#
# Operations are a proxy. `budget="latency"` times every convolution that a replacement may consist of, in
# one runtime, and spends measured milliseconds: `speedup=1.5` then means one and a half times as fast on
# this machine. Take the runtime, the threads and the batch that the network will be served with. The times
# are kept on disk for the next run.

# %%
timed = cc.compress(
    network, calibration, None, replace(options, ranks="", measure=True, budget="latency", speedup=1.5)
)
(measured,) = timed.report["latency"]
print(f"asked 1.50x, measured {measured['speedup']:.2f}x in {measured['runtime']}", end=" ")
print(f"with {timed.report['macs']['conv_speedup']:.2f}x fewer MACs")

# %% [markdown]
# Predicted against measured times of the layers. Points above the line took longer than predicted; other work
# on the machine does that too.

# %%
timed.plot.times()

# %% [markdown]
# ## Next
#
# - [Budgets](budgets.md) for the same from the command line, [the planner](planner.md) for how well the
#   predictions hold.
# - `method="auto"` lets the knapsack choose the method too: [notebook 2](2_compare_methods.ipynb).
# - More speed than the drop allows? [Repair and fine-tune](recovering_accuracy.md) afterwards.
