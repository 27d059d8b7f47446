# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Quickstart
#
# Compress a network that finds defective solar cells, look at what happened, load the result again.
# Needs `pip install cnncompress[demo]`; the first run downloads 64 MB of weights.

# %%
from pathlib import Path
from tempfile import mkdtemp

import torch

import cnncompress as cc
from cnncompress.api import default_data

network = cc.load_network("alexnet-elpv")
calibration, evaluation, _ = default_data(network, images=120, seed=0)
print(calibration.description, "|", evaluation.description)

# %% [markdown]
# One call does the whole run. For your own network it is `cc.compress_model(model, images, speedup=3)`.

# %%
result = cc.compress(network, calibration, evaluation, cc.Options(speedup=3, images=120))
result.report["accuracy"]

# %% [markdown]
# Every layer has a line: ranks, cost, and the error on images that were not fitted.

# %%
for row in result.report["layers"]:
    error = row["error_heldout"]
    shown = f"{error:.3f}" if error is not None else row["reason"]
    print(
        f"{row['name']:12} {row['method']:7} {row['ranks']!s:11} {row['macs_before'] / 1e6:6.1f} M", end=" "
    )
    print(f"-> {row['macs_after'] / 1e6:5.1f} M  {shown}")

# %% [markdown]
# The result is made of plain torch layers.

# %%
print(result.model.features[3])
print(result.report["macs"]["conv_speedup"], result.report["latency"])

# %% [markdown]
# Save it, and load it again without data.

# %%
folder = result.save(Path(mkdtemp()) / "alexnet-3x")
loaded = cc.load(folder)
images = next(iter(evaluation.batches(8))).images
with torch.inference_mode():
    assert torch.allclose(loaded(images), result.model(images), atol=1e-4)
sorted(path.name for path in folder.iterdir())
