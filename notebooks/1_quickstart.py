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
# # 1 Quickstart
#
# Compress a network that finds defective solar cells, look at what happened, save the result and load it
# again. Needs `pip install cnncompress[demo]`; the first run downloads 10 MB of weights. From the command
# line the same is `cnncompress alexnet-elpv --speedup 3x`, which the [tutorial](tutorial.md) goes through.

# %%
from pathlib import Path
from tempfile import mkdtemp

import torch
from IPython.display import display

import cnncompress as cc
from cnncompress.api import default_data

network = cc.load_network("alexnet-elpv")
calibration, evaluation, _ = default_data(network, images=120, seed=0)
print(calibration.description, "|", evaluation.description)

# %% [markdown]
# One call does the whole run: it reads the calibration images, chooses ranks, solves layer by layer and
# compares both networks on images that were kept apart. For a network of your own it is
# `cc.compress_model(model, images, speedup=3)`, see [own network, own data](own_model.md).

# %%
result = cc.compress(network, calibration, evaluation, cc.Options(speedup=3, images=120))
display(result)

# %% [markdown]
# A drop below zero is no gain: with so few images, the interval says how far the two networks may really be
# apart.

# %%
result.report["accuracy"]

# %% [markdown]
# ## What was done to each layer
#
# The budget is divided so that what is lost is least, so layers get different ratios. The classifier is no
# convolution and stays.

# %%
result.plot.costs()

# %%
result.plot.ranks()

# %% [markdown]
# ## What each layer loses
#
# Relative squared errors behind the rectifier, on images that were not fitted. *Asymmetric* solutions see
# what the compressed layers before them deliver, *nonlinear* ones know of the rectifier. The best of them
# is kept.

# %%
result.plot.errors()

# %% [markdown]
# ## The result
#
# Plain torch layers, no module of ours:

# %%
result.model.features[3]

# %% [markdown]
# Save it, and load it again without data. The folder also holds `report.html`, a page with all of the
# above, an ONNX file, and `model.py`, with which plain torch reads the weights [without
# cnncompress](without_cnncompress.md).

# %%
folder = result.save(Path(mkdtemp()) / "alexnet-3x")
loaded = cc.load(folder)
images = next(iter(evaluation.batches(8))).images
with torch.inference_mode():
    assert torch.allclose(loaded(images), result.model(images), atol=1e-4)
sorted(path.name for path in folder.iterdir())

# %% [markdown]
# ## Next
#
# - Other speedups, a largest drop, a budget of milliseconds: [notebook 3](3_ranks_and_budgets.ipynb),
#   [budgets](budgets.md).
# - Other methods: [notebook 2](2_compare_methods.ipynb), [methods](methods.md).
# - Accuracy back after a large speedup: [repair and fine-tuning](recovering_accuracy.md).
# - Keep the drop small in a repository's tests: [compression in CI](compression_in_ci.md).
