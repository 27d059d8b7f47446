"""Error of VGG-16 at 4x on photographs that it wasn't calibrated on, for methods and calibration data.

Run ``python tests/benchmarks/unseen_photographs.py [METHOD ...]``; each method takes some minutes. The
photographs come with scikit-image. They were among those by which the default mix of crops was chosen (by the
energy that the crops' principal components keep of their responses), so the figures flatter a little.
"""

import sys

import numpy as np
import skimage.data
from PIL import Image

from cnncompress import Options, compress, load_network
from cnncompress.data import open_source
from cnncompress.photographs import photograph_crops

METHODS = ("gsvd3d", "gsvd", "pca", "spatial", "svd")
PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket")


def cut_photographs() -> list[Image.Image]:
    """Square cuts at three scales.

    Returns:
        Sixty images.
    """
    cuts = []
    for number, name in enumerate(PHOTOGRAPHS):
        picture = Image.fromarray(getattr(skimage.data, name)())
        for share in (1.0, 0.6, 0.4):
            side = int(share * min(picture.size))
            rng = np.random.default_rng((number, int(10 * share)))
            for _ in range(5):
                left, top = (int(rng.integers(0, size - side + 1)) for size in picture.size)
                cuts.append(picture.crop((left, top, left + side, top + side)))
    return cuts


def main(methods: list[str]) -> None:
    """Print one line for each method.

    Args:
        methods: names of decompositions.
    """
    network = load_network("vgg16", weights="backbone")
    unseen = open_source(cut_photographs(), preprocess=network.preprocess)
    for method in methods:
        options = Options(speedup=4, method=method, measure=False)
        calibration = photograph_crops(network.preprocess, options.images, options.seed)
        report = compress(network, calibration, unseen, options).report
        error = report["fidelity"]["output_relative_error"]
        print(
            f"{method:8} {report['macs']['conv_speedup']:.2f}x  energy lost {100 * error:.1f} %", flush=True
        )


if __name__ == "__main__":
    main(sys.argv[1:] or list(METHODS))
