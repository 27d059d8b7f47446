"""The images that are taken when the user gives none."""

import numpy as np

from cnncompress.data import ImageSource, paths_source
from cnncompress.network import Network
from cnncompress.photographs import photograph_crops
from cnncompress.zoo.elpv import elpv_split
from cnncompress.zoo.elpv_networks import BACKBONE_OF

Data = tuple[ImageSource, ImageSource | None, tuple[str, ...]]


def default_data(network: Network, images: int, seed: int) -> Data:
    """The demo's own images, or crops of two photographs.

    Args:
        network: the network.
        images: calibration images, at most.
        seed: of the choice.

    Returns:
        Calibration images, evaluation images or None, and notes for the user.
    """
    if network.name in BACKBONE_OF:
        train, test = elpv_split()
        root = train.paths[0].parent
        drawn = np.random.default_rng((seed, 2)).permutation(len(train.paths))[:images]
        calibration = paths_source(
            [train.paths[i] for i in drawn],
            [train.labels[i] for i in drawn],
            network.preprocess,
            root,
            description=f"{len(drawn)} training images of elpv-dataset",
        )
        evaluation = paths_source(
            test.paths,
            test.labels,
            network.preprocess,
            root,
            description=f"{len(test.paths)} test images of elpv-dataset",
        )
        return calibration, evaluation, ()
    note = (
        "no --data: calibrated on random crops of the two photographs that ship with scikit-learn; "
        "a few hundred images like those that the network will see do far better"
    )
    return photograph_crops(network.preprocess, images, seed), None, (note,)
