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
# # 5 A detector and a segmentation network
#
# Not every network returns class scores. Two cases:
#
# - **A detector** chooses boxes, so its output has another length for each image and no error can be taken
#   between two of them. Compress its *backbone*, where the time goes, and put it back. Images have to be
#   prepared as the detector prepares them.
# - **A segmentation network** answers with a dictionary of maps. It is compressed as a whole.
#
# Both are torchvision's, on AlexNet's ImageNet convolutions. Pretrained heads can't be had from a package
# index, so the heads are trained here, on scenes whose boxes and masks are known because they are drawn.

# %%
from copy import deepcopy
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import display
from matplotlib.patches import Rectangle
from sklearn.datasets import load_sample_images
from torch.nn.functional import cross_entropy, interpolate
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.models.segmentation import FCN
from torchvision.models.segmentation.fcn import FCNHead
from torchvision.ops import MultiScaleRoIAlign, box_iou

import cnncompress as cc
from cnncompress.measure import latency

torch.manual_seed(0)
SIDE = 224
CLASSES = ("background", "stripes", "checks", "rings")
COLORS = np.array([[235, 235, 235], [31, 119, 180], [255, 127, 14], [44, 160, 44]], np.uint8)
print(f"images of {SIDE} x {SIDE} pixels, classes:", *CLASSES)

# %% [markdown]
# ## Scenes
#
# One to three patterned objects, discs or squares, on a piece of one of scikit-learn's two sample
# photographs. Those to train on come from the photographs' left halves, those to judge by from the right
# ones.


# %%
@dataclass(frozen=True)
class Scene:
    image: torch.Tensor  # (3, SIDE, SIDE) in [0, 1]
    boxes: torch.Tensor  # (objects, 4)
    labels: torch.Tensor  # (objects,)
    mask: torch.Tensor  # (SIDE, SIDE), the class of each pixel


def pattern(label, across, down, period):
    if label == 1:
        return np.sin(2 * np.pi * across / period) > 0
    if label == 2:
        return (across // (period / 2) + down // (period / 2)) % 2 > 0
    return np.sin(2 * np.pi * np.hypot(across, down) / period) > 0


def draw_scene(rng, half):
    photograph = photographs[rng.integers(len(photographs))]
    height, width, _ = photograph.shape
    top, left = rng.integers(height - SIDE), rng.integers(width // 2 - SIDE) + half * width // 2
    image = photograph[top : top + SIDE, left : left + SIDE] / np.float32(255)
    mask, boxes, labels = np.zeros((SIDE, SIDE), np.int64), [], []
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for _ in range(rng.integers(1, 4)):
        radius = rng.integers(20, 42)
        x, y = rng.integers(radius, SIDE - radius, 2)
        box = (x - radius, y - radius, x + radius, y + radius)
        if mask[box[1] : box[3], box[0] : box[2]].any():
            continue  # no object hides another
        label, is_disc, period = rng.integers(1, 4), rng.random() < 0.5, rng.uniform(10, 18)
        across, down = columns - x, rows - y
        distance = np.hypot(across, down) if is_disc else np.maximum(abs(across), abs(down))
        inside = distance < radius
        colors = rng.random((2, 3), np.float32)
        image[inside] = colors[pattern(label, across, down, period)[inside].astype(int)]
        mask[inside] = label
        boxes.append(box)
        labels.append(label)
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    return Scene(pixels, torch.tensor(boxes).float(), torch.tensor(labels), torch.from_numpy(mask))


def draw_scenes(count, *, seed, half):
    rng = np.random.default_rng(seed)
    return [draw_scene(rng, half) for _ in range(count)]


photographs = load_sample_images().images
training, held_out = draw_scenes(240, seed=0, half=0), draw_scenes(80, seed=1, half=1)
counts = [sum(len(scene.labels) for scene in scenes) for scenes in (training, held_out)]
print(
    f"{len(training)} scenes to train on with {counts[0]} objects, {len(held_out)} held out with {counts[1]}"
)

# %% [markdown]
# ## A detector
#
# Faster R-CNN: a backbone, a network that proposes boxes (RPN), heads that classify and refine them.

# %%
alexnet = cc.load_network("alexnet", weights="backbone").model
backbone = alexnet.features[:12]  # without the last pooling: 256 channels at a sixteenth of the size
backbone.out_channels = 256  # FasterRCNN asks for it
detector = FasterRCNN(
    backbone,
    min_size=SIDE,
    max_size=SIDE,
    rpn_anchor_generator=AnchorGenerator(sizes=((40, 56, 80),), aspect_ratios=((1.0,),)),
    rpn_pre_nms_top_n_train=200,
    rpn_pre_nms_top_n_test=200,
    rpn_post_nms_top_n_train=60,
    rpn_post_nms_top_n_test=60,
    box_roi_pool=MultiScaleRoIAlign(["0"], output_size=5, sampling_ratio=2),
    box_head=TwoMLPHead(256 * 5 * 5, 128),
    box_predictor=FastRCNNPredictor(128, len(CLASSES)),
    box_batch_size_per_image=32,
).eval()
for name, part in detector.named_children():
    print(f"{name:10} {sum(weight.numel() for weight in part.parameters()) / 1e6:.2f} million weights")

# %% [markdown]
# The detector's own `transform` resizes, normalises and pads images. Whatever the backbone is to be
# calibrated on has to pass through it; a folder of pictures prepared "as for ImageNet" would not be what
# the backbone sees.

# %%
batches = []
with torch.inference_mode():
    for start in range(0, len(training), 10):
        part = training[start : start + 10]
        targets = [{"boxes": scene.boxes, "labels": scene.labels} for scene in part]
        images, targets = detector.transform([scene.image for scene in part], targets)
        batches.append((images, {"0": detector.backbone(images.tensors)}, targets))
prepared = torch.cat([images.tensors for images, _, _ in batches]).clone()
print(tuple(prepared.shape), f"mean {prepared.mean():.2f}, deviation {prepared.std():.2f}")

# %% [markdown]
# The backbone stays frozen, so its features are computed once, above, and only the heads are trained.

# %%
EPOCHS = 8
heads = [*detector.rpn.parameters(), *detector.roi_heads.parameters()]
optimizer = torch.optim.AdamW(heads, lr=5e-4)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=EPOCHS * len(batches))
detector.train()
for epoch in range(EPOCHS):
    total = 0.0
    for images, features, targets in batches:
        frozen = {name: map.clone() for name, map in features.items()}
        proposals, proposing = detector.rpn(images, frozen, targets)
        _, heading = detector.roi_heads(frozen, proposals, images.image_sizes, targets)
        loss = sum([*proposing.values(), *heading.values()])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        total += loss.item()
    print(f"epoch {epoch + 1}: loss {total / len(batches):.3f}")
_ = detector.eval()

# %% [markdown]
# ### How good is it?
#
# Average precision at an intersection over union of one half: detections of a class in the order of their
# scores, each object found once; the area under precision against recall.


# %%
def detections(network):
    with torch.inference_mode():
        return [network([scene.image])[0] for scene in held_out]


def average_precision(found, label):
    """Average precision and recall of one class."""
    ranked, objects = [], 0
    for one, scene in zip(found, held_out, strict=True):
        of_class = one["labels"] == label
        true = scene.boxes[scene.labels == label]
        free, objects = [True] * len(true), objects + len(true)
        for score, overlaps in zip(
            one["scores"][of_class], box_iou(one["boxes"][of_class], true), strict=True
        ):
            best = int(overlaps.argmax()) if len(true) else -1
            hit = best >= 0 and bool(overlaps[best] >= 0.5) and free[best]
            if hit:
                free[best] = False
            ranked.append((float(score), hit))
    hits = np.cumsum([hit for _, hit in sorted(ranked, reverse=True)])
    precision = hits / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((envelope * np.diff(hits, prepend=0)).sum() / objects), float(hits[-1] / objects)


def show_quality(name, found):
    values = [average_precision(found, label) for label in range(1, len(CLASSES))]
    texts = [f"{CLASSES[label]} {ap:.3f}" for label, (ap, _) in enumerate(values, 1)]
    means = np.mean(values, axis=0)
    print(f"{name:10} AP at IoU 0.5: {', '.join(texts)}, mean {means[0]:.3f}; recall {means[1]:.3f}")


before = detections(detector)
show_quality("original", before)

# %% [markdown]
# ### Compress the backbone
#
# Tensors of floating-point numbers count as prepared. Without labels, the report's error is that of the
# backbone's feature map, on images that were not fitted.

# %%
result = cc.compress_model(detector.backbone, prepared, speedup=2, images=100, measure=False)
display(result)

# %% [markdown]
# Put it back. The heads are the same: they were trained on the original's features and get the compressed
# one's.

# %%
compressed = deepcopy(detector)
compressed.backbone = result.model
after = detections(compressed)
show_quality("original", before)
show_quality("compressed", after)

# %% [markdown]
# Time of the backbone, both in turn, and how many operations were left out. Measure your whole detector the
# same way: the part that chooses boxes costs time too, and none of it is saved.

# %%
timed = latency(detector.backbone, result.model, (3, SIDE, SIDE), repeats=10)
ratio = result.report["macs"]["conv_speedup"]
print(f"backbone: {ratio:.2f}x fewer MACs, {timed.speedup:.1f}x as fast (torch, one thread)")

# %% [markdown]
# Four held-out scenes without their photographs: objects as areas, boxes with scores above one half, solid
# of the original and dashed of the compressed detector.

# %%
figure, panels = plt.subplots(1, 4, figsize=(8, 2.1), layout="constrained")
for axes, scene, *both in zip(panels, held_out, before, after, strict=False):
    axes.imshow(COLORS[scene.mask][::2, ::2], extent=(0, SIDE, SIDE, 0), alpha=0.5)
    for found, style in zip(both, ("-", "--"), strict=True):
        for box, label, score in zip(found["boxes"], found["labels"], found["scores"], strict=True):
            if score > 0.5:
                left, top, right, bottom = box.tolist()
                color = COLORS[label] / 255 if style == "-" else "black"
                axes.add_patch(
                    Rectangle((left, top), right - left, bottom - top, fill=False, ls=style, ec=color)
                )
    axes.set_axis_off()
plt.show()

# %% [markdown]
# ## A segmentation network
#
# FCN on the same convolutions. Its head is trained on the same features; `forward` returns `{"out":
# scores}` with a score for each class and pixel.

# %%
segmenter = FCN(create_feature_extractor(alexnet.features, {"11": "out"}), FCNHead(256, len(CLASSES))).eval()
features = torch.cat([maps["0"] for _, maps, _ in batches]).clone()
masks = torch.stack([scene.mask for scene in training])[:, 2::4, 2::4]  # every fourth pixel
EPOCHS = 12
optimizer = torch.optim.AdamW(segmenter.classifier.parameters())
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=EPOCHS * len(batches))
segmenter.classifier.train()
for epoch in range(EPOCHS):
    total = 0.0
    for chosen in torch.randperm(len(features)).split(10):
        scores = segmenter.classifier(features[chosen])
        scores = interpolate(scores, size=masks.shape[1:], mode="bilinear", align_corners=False)
        loss = cross_entropy(scores, masks[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        total += loss.item()
    if epoch % 3 == 2:
        print(f"epoch {epoch + 1}: loss {total / len(batches):.3f}")
_ = segmenter.eval()


# %%
def predicted_masks(network):
    images = torch.stack([scene.image for scene in held_out])
    with torch.inference_mode():
        ready = [detector.transform(list(part))[0].tensors for part in images.split(10)]
        return torch.cat([network(part)["out"].argmax(1) for part in ready])


def show_overlap(name, masks):
    true = torch.stack([scene.mask for scene in held_out])
    ious = []
    for label in range(len(CLASSES)):
        one, other = masks == label, true == label
        ious.append(float((one & other).sum() / (one | other).sum()))
    texts = [f"{name} {iou:.3f}" for name, iou in zip(CLASSES, ious, strict=True)]
    print(f"{name:10} IoU: {', '.join(texts)}, mean {np.mean(ious):.3f}")


masks_before = predicted_masks(segmenter)
show_overlap("original", masks_before)

# %% [markdown]
# ### Compress the whole network
#
# The dictionary needs nothing special: the error is that of all its tensors together. The head's 3 x 3
# convolution is a candidate like any other, its BatchNorm is folded into it first.

# %%
whole = cc.compress_model(segmenter, prepared, speedup=2, images=60, measure=False)
for row in whole.report["layers"]:
    print(f"{row['name']:14} {row['method']:7} {row['ranks']}")

# %%
masks_after = predicted_masks(whole.model)
show_overlap("original", masks_before)
show_overlap("compressed", masks_after)
same = float((masks_before == masks_after).float().mean())
timed = latency(segmenter, whole.model, (3, SIDE, SIDE), repeats=10)
print(f"{100 * same:.1f} % of all pixels get the same class;", end=" ")
print(f"{whole.report['macs']['conv_speedup']:.2f}x fewer MACs, {timed.speedup:.1f}x as fast")

# %% [markdown]
# True, original's and compressed network's masks of four held-out scenes:

# %%
true_masks = torch.stack([scene.mask for scene in held_out])
figure, panels = plt.subplots(3, 4, figsize=(6, 4.5), layout="constrained")
for row, masks in zip(panels, (true_masks, masks_before, masks_after), strict=True):
    for axes, mask in zip(row, masks, strict=False):
        axes.imshow(COLORS[mask][::2, ::2])
        axes.set_axis_off()
plt.show()

# %% [markdown]
# ## Next
#
# - On real data: a few hundred images of the detector's own kind, through its own `transform`; a backbone
#   with a feature pyramid returns a dictionary too and is compressed in the same way.
# - Too large a loss? A smaller speedup, or train the detector for an epoch with the compressed backbone in
#   it: plain torch layers, so your own training code works. See [recovering
#   accuracy](recovering_accuracy.md).
# - `whole.save("out")` writes the ONNX file too; `cc.load("out", model=segmenter)` reads the folder with
#   your own code's network. [Own network, own data](own_model.md) has more.
