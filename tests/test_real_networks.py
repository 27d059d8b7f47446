"""ImageNet convolutions on real images: what the papers promise, at a quarter of the usual image area."""

import copy
import json

import numpy as np
import pytest
import skimage.data
import torch
from click.testing import CliRunner
from PIL import Image

import cnncompress
from cnncompress import Options, compress, load_network
from cnncompress.cli import main
from cnncompress.data import open_source, paths_source
from cnncompress.decompositions import Monochromatic, make
from cnncompress.decompositions.weighted import folded
from cnncompress.default_data import default_data
from cnncompress.inspect import inspect_layers
from cnncompress.network import Network, Preprocess
from cnncompress.photographs import photograph_crops
from cnncompress.solvers.biclustering import bicluster, blocks_of, tucker2
from cnncompress.solvers.outer import outer_products
from cnncompress.zoo.elpv import elpv_split

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("real networks")]

SMALL = Preprocess(resize=112, crop=(112, 112))


@pytest.fixture(scope="module")
def vgg16():
    network = load_network("vgg16", weights="backbone")
    return Network(name="vgg16", model=network.model, preprocess=SMALL, source=network.source)


def solar_cells():
    train, test = elpv_split()
    drawn = np.random.default_rng(0).permutation(len(train.paths))[:80]
    root = train.paths[0].parent
    return (
        paths_source([train.paths[i] for i in drawn], None, SMALL, root),
        paths_source(test.paths[:40], test.labels[:40], SMALL, root),
    )


def crops_of_photographs():
    return photograph_crops(SMALL, 80, seed=0), None


def photographs():
    pictures = []
    for name in ("astronaut", "coffee", "chelsea", "rocket"):
        picture = Image.fromarray(getattr(skimage.data, name)())
        side = min(picture.size)
        for share in (1, 0.6):
            cut = int(share * side)
            pictures += [
                picture.crop((x, 0, x + cut, cut)) for x in np.linspace(0, picture.width - cut, 5, dtype=int)
            ]
    return open_source(pictures, preprocess=SMALL)


METHODS = {
    "3-d": ("gsvd3d", {}),
    "channels": ("gsvd", {}),
    "symmetric linear": ("gsvd", {"symmetric": True, "nonlinear": False}),
    "weights": ("svd", {}),
}


def errors(network, calibration, evaluation):
    found = {}
    for name, (method, options) in METHODS.items():
        chosen = Options(speedup=4, method=method, method_options=options, measure=False)
        report = compress(network, calibration, evaluation, chosen).report
        assert 4 <= report["macs"]["conv_speedup"] < 4.1
        found[name] = report["fidelity"]["output_relative_error"]
    return found


@pytest.mark.parametrize("images", [solar_cells, crops_of_photographs])
def test_every_idea_of_the_paper_lowers_the_error(vgg16, images):
    found = errors(vgg16, *images())
    assert found["3-d"] < found["channels"] < found["symmetric linear"] < found["weights"], found


def test_crops_of_two_photographs_are_better_than_no_images_at_all(vgg16):
    calibration, _ = crops_of_photographs()
    found = errors(vgg16, calibration, photographs())
    assert found["3-d"] < 0.9 * found["weights"], found


def test_full_ranks_reproduce_the_network(vgg16):
    calibration, evaluation = solar_cells()
    info = inspect_layers(vgg16.model, vgg16.input_size)
    method = make("gsvd3d")
    ranks = {
        layer.name: method.full_ranks(layer) for layer in info if layer.name in {"features.7", "features.17"}
    }
    options = Options(only=tuple(ranks), layer_ranks=ranks, measure=False, images=80, allow_slower=True)
    before = copy.deepcopy(vgg16.model.state_dict())
    report = compress(vgg16, calibration, evaluation, options).report
    assert report["fidelity"]["output_relative_error"] < 1e-8
    assert all(torch.equal(before[key], value) for key, value in vgg16.model.state_dict().items())


@pytest.fixture(scope="module")
def alexnet():
    network = load_network("alexnet", weights="backbone")
    return Network(name="alexnet", model=network.model, preprocess=SMALL, source=network.source)


@pytest.mark.parametrize("method", ["svd-out", "svd-in", "biclustering-svd"])
def test_the_data_metric_loses_less_on_photographs_it_never_saw(alexnet, method):
    calibration, _ = crops_of_photographs()
    found = {}
    for metric in ("frobenius", "data"):
        options = Options(speedup=1.5, method=method, method_options={"metric": metric}, measure=False)
        report = compress(alexnet, calibration, photographs(), options).report
        assert 1.5 <= report["macs"]["conv_speedup"] < 1.6
        found[metric] = report["fidelity"]["output_relative_error"]
    assert found["data"] < 0.9 * found["frobenius"], found


@pytest.mark.parametrize("name", ["features.3", "features.6", "features.8", "features.10"])
def test_found_clusters_lose_less_of_a_real_weight_than_random_ones(alexnet, name):
    weight = folded(alexnet.model.get_submodule(name).weight.detach().numpy())
    errors = {}
    for grouping in ("clustered", "random"):
        found = bicluster(weight, inputs=2, outputs=2, grouping=grouping)
        blocks = blocks_of(weight, found.inputs.order, found.outputs.order, inputs=2, outputs=2)
        ranks = {"input_rank": blocks.shape[1] // 4, "output_rank": blocks.shape[3] // 4}
        errors[grouping] = {
            "svd": tucker2(blocks, **ranks).history[-1],
            "outer": outer_products(blocks, rank=40, start="slices", joint_sweeps=3).errors["slices+joint"],
        }
    assert errors["clustered"]["svd"] < errors["random"]["svd"]
    assert errors["clustered"]["outer"] < errors["random"]["outer"]


def test_fine_tuning_above_a_monochromatic_first_layer_wins_the_accuracy_back():
    network = load_network("alexnet-elpv")
    calibration, _, _ = default_data(network, images=100, seed=0)
    _, test = elpv_split()
    drawn = np.random.default_rng(0).permutation(len(test.paths))[:150]
    evaluation = paths_source(
        [test.paths[i] for i in drawn],
        [test.labels[i] for i in drawn],
        network.preprocess,
        test.paths[0].parent,
    )
    drops = []
    for finetune in ("", "upper"):
        options = Options(
            methods={"features.0": Monochromatic(colors=16)},
            images=100,
            finetune=finetune,
            epochs=6,
            measure=False,
        )
        report = compress(network, calibration, evaluation, options).report
        drops.append(report["accuracy"]["drop_top1"])
    assert drops[0] > 3
    assert drops[1] < drops[0] / 2


def test_the_demo_on_the_command_line(tmp_path):
    out = tmp_path / "out"
    # timings decide which layers stay, and a test must not depend on what else the machine does
    arguments = [
        "alexnet-elpv",
        "--speedup",
        "3x",
        "--images",
        "120",
        "--json",
        "-o",
        str(out),
        "--allow-slower",
    ]
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    report = json.loads(done.stdout)
    assert report == json.loads((out / "report.json").read_text())
    assert 3 <= report["macs"]["conv_speedup"] <= 3.1
    assert report["accuracy"]["n"] == 656
    assert report["accuracy"]["top1_before"] > 75
    assert report["accuracy"]["drop_top1"] < 3
    assert report["fidelity"]["feature_relative_error"] < 0.15
    loaded = cnncompress.load(out)
    assert sum(p.numel() for p in loaded.parameters()) == report["params"]["after"]
