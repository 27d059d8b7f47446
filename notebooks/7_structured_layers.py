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
# # 7 Structured layers: single filters a channel, filter groups, channels on a grid
#
# The layers of *Factorized Convolutional Neural Networks* and *Deep Roots*: as torch layers, in place of a
# trained network's, and what the network itself says of groups. [The guide](structured_layers.md) says when
# to use which, with measured figures.

# %%
from io import BytesIO

import torch
from IPython.display import display
from PIL import Image

import cnncompress as cc
from cnncompress.api import default_data
from cnncompress.covariance import study_covariance
from cnncompress.covariance_figures import layer_picture
from cnncompress.filter_figures import kernel_tiles
from cnncompress.intra_channel import intra_channel_kernels
from cnncompress.layers import (
    RootModule2d,
    SICBottleneck2d,
    SICConv2d,
    SpatialBottleneck2d,
    TopologicalConv2d,
    UnraveledConv2d,
)

dense = torch.nn.Conv2d(256, 256, 3, padding=1)
layers = [
    UnraveledConv2d(256, 256, 3, padding=1, bases=2),
    SICConv2d(256, 256, 3),
    SICBottleneck2d(256),
    TopologicalConv2d((16, 16), (8, 8), 3, padding=1),
    SpatialBottleneck2d(256, 256),
    RootModule2d(256, 256, 3, padding=1, groups=4),
]
costly = dense.weight.numel() * 28 * 28
for layer in layers:
    print(f"{type(layer).__name__:20} {costly / layer.macs(28, 28):6.2f}x fewer multiply-accumulates")

# %% [markdown]
# In place of trained layers. Each is fitted to the true responses, on what the compressed layers before it
# deliver; errors are those of single layers on images that were not fitted.

# %%
network = cc.load_network("alexnet-elpv")
calibration, _, _ = default_data(network, images=60, seed=0)
options = cc.Options(
    methods={
        "features.6": cc.Root(groups=4, rank=192),
        "features.8": cc.Unravel(bases=2),
        "features.10": cc.SIC(bases=2),
    },
    images=60,
    allow_slower=True,
)
result = cc.compress(network, calibration, None, options)
for row in result.report["layers"]:
    if row["method"] != "none":
        saved = row["macs_before"] / row["macs_after"]
        print(f"{row['name']}: {row['method']}, {saved:.1f}x, errors", end=" ")
        print({kind: round(error, 4) for kind, error in row["errors"].items()})
print(result.model.features[10])

# %% [markdown]
# Filters of one channel each: what the filters of `features.8` have in common, channel by channel. The
# first bases are blurs, the later ones derivatives; the share of the energy that each keeps is beside it.


# %%
def show(png):
    """A smaller copy in 32 colours, so that the notebook stays small."""
    picture = Image.open(BytesIO(png)).convert("RGB")
    display(picture.reduce(2).quantize(32, dither=Image.Dither.NONE))


kernels = intra_channel_kernels(network.model, "features.8")
print(kernels.caption)
tiles = kernel_tiles(kernels.kernels[:2, :96], "of the first 96 channels", kernels.energies)
show(tiles)

# %% [markdown]
# Would filter groups suit this network? Correlations within a layer, channels reordered so that as much as
# possible of them lies in blocks, against what the same search finds in shuffled ones:

# %%
study = study_covariance(network.model, network.input_size, calibration, pairs=["features.0"])
first = study.layers[0]
for grouping in first.groupings:
    print(f"{grouping.groups} groups hold {grouping.score:.2f}, by chance {grouping.chance:.2f}")
show(layer_picture(first))

# %% [markdown]
# ## Next
#
# - [Which to use, and which not to](structured_layers.md); [their mathematics](methods_structured.md).
# - Most of them are starts for training: [fine-tuning](recovering_accuracy.md).
# - Train a network that has them from the start: `cnncompress train cifar-nin-root-8 --data cifar10/`.
