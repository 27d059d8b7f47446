"""One engine that trains part of a network or all of it: fine-tuning, and training from scratch."""

from cnncompress.training.augmentation import Augmentation
from cnncompress.training.images import Images, LabelledBatch
from cnncompress.training.loop import Trainer
from cnncompress.training.losses import Loss
from cnncompress.training.recipe import Recipe

__all__ = ["Augmentation", "Images", "LabelledBatch", "Loss", "Recipe", "Trainer"]
