"""Names that may be typed, for shell completion and for refusing others at once.

They are written down here because the modules that know them import torch, which takes seconds, while a shell
completes between two keystrokes. A test compares every list with the toolkit's own.
"""

import sys
from collections.abc import Iterable, Sequence

from cnncompress.errors import OptionError, unknown_name

RUNTIMES = ("torch", "torch.compile", "onnxruntime", "openvino", "cuda", "cuda-graphs")
RULES = ("knapsack", "greedy", "paper", "uniform", "joint", "manual")
RECIPES = ("finetune", "recover", "upper", "short", "sic", "nin")
AUTO = "auto"
METHODS = (
    *("biclustering-outer", "biclustering-svd", "groups", "gspatial", "gsvd", "gsvd-in", "gsvd3d", "gtucker"),
    *("monochromatic", "outer", "pca", "root", "sic", "sic-bottleneck", "spatial", "spatial-bottleneck"),
    *("svd-in", "svd-out", "topological", "unravel"),
)
WEIGHTS = ("default", "none", "backbone")
DEVICES = ("cpu", "cuda")

_OWN_MODELS = """
    vgg16-elpv alexnet-elpv mattnet-conv2 spp-10 nin-orig nin-root-2 nin-root-4 nin-root-8 nin-root-16
    nin-col-2 nin-col-4 nin-col-8 nin-col-16 nin-tree-2 nin-tree-4 nin-tree-8 nin-tree-16 resnet50-orig
    resnet50-root-2 resnet50-root-4 resnet50-root-8 resnet50-root-16 resnet50-root-32 resnet50-root-64
    resnet200-orig resnet200-root-8 resnet200-root-32 googlenet-orig googlenet-root-2 googlenet-root-4
    googlenet-root-8 googlenet-root-16 sic-a sic-b sic-c sic-d sic-e sic-f sic-g sic-h sic-i sic-j sic-l
    sic-m sic-n sic-o sic004-a sic004-b sic004-c sic004-d sic004-e sic004-f sic004-g sic004-h sic004-i
    sic004-j sic004-k sic004-l sic004-m sic004-n sic004-o cifar-plain cifar-sic cifar-sic-half
    cifar-sic-tps cifar-spatial-bottleneck cifar-groups cifar-nin-orig cifar-nin-root-4 cifar-nin-root-8
"""

_TORCHVISION_MODELS = """
    alexnet convnext_base convnext_large convnext_small convnext_tiny densenet121 densenet161 densenet169
    densenet201 efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4
    efficientnet_b5 efficientnet_b6 efficientnet_b7 efficientnet_v2_l efficientnet_v2_m efficientnet_v2_s
    googlenet inception_v3 maxvit_t mnasnet0_5 mnasnet0_75 mnasnet1_0 mnasnet1_3 mobilenet_v2
    mobilenet_v3_large mobilenet_v3_small regnet_x_16gf regnet_x_1_6gf regnet_x_32gf regnet_x_3_2gf
    regnet_x_400mf regnet_x_800mf regnet_x_8gf regnet_y_128gf regnet_y_16gf regnet_y_1_6gf regnet_y_32gf
    regnet_y_3_2gf regnet_y_400mf regnet_y_800mf regnet_y_8gf resnet101 resnet152 resnet18 resnet34
    resnet50 resnext101_32x8d resnext101_64x4d resnext50_32x4d shufflenet_v2_x0_5 shufflenet_v2_x1_0
    shufflenet_v2_x1_5 shufflenet_v2_x2_0 squeezenet1_0 squeezenet1_1 swin_b swin_s swin_t swin_v2_b
    swin_v2_s swin_v2_t vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn vit_b_16 vit_b_32
    vit_h_14 vit_l_16 vit_l_32 wide_resnet101_2 wide_resnet50_2
"""

OWN_MODELS = tuple(_OWN_MODELS.split())
"""The demo's networks and the papers'."""

TORCHVISION_MODELS = tuple(_TORCHVISION_MODELS.split())
"""Those of torchvision 0.29; a later one may know more, and these are accepted too."""

MODELS = OWN_MODELS + TORCHVISION_MODELS


def check_names(kind: str, names: Iterable[str], known: Sequence[str]) -> None:
    """Refuse unknown names before anything slow is imported.

    Args:
        kind: what they should be, for example ``"runtime"``.
        names: as typed.
        known: all valid names.

    Raises:
        OptionError: one isn't known; the message has the nearest ones.
    """
    for name in names:
        if name not in known:
            raise OptionError(unknown_name(kind, name, known))


def check_methods(names: Iterable[str]) -> None:
    """Refuse unknown methods, unless the process may have registered some of its own.

    Args:
        names: as typed; an unknown one is an `OptionError`.
    """
    # where the register wasn't imported, nobody can have added to it
    if "cnncompress.decompositions" not in sys.modules:
        check_names("method", names, (*METHODS, AUTO))
