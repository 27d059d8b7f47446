"""Crops of two photographs: fixed by the seed, as many and as large as asked, really varied."""

from dataclasses import fields, replace

import pytest
import torch

from cnncompress.errors import DataError
from cnncompress.image_source import ImageSource
from cnncompress.network import Preprocess
from cnncompress.photographs import DEFAULT_VARIATIONS, Variations, photograph_crops

SMALL = Preprocess(resize=36, crop=(32, 24))
STILL = Variations(**{field.name: 0 for field in fields(Variations)} | {"smallest": 64})
STRONG = {
    "smallest": 300,
    "turns": 1.0,
    "channel_swaps": 1.0,
    "hue": 0.5,
    "saturation": 0.9,
    "contrast": 0.9,
    "brightness": 0.9,
    "blur": 3.0,
    "mosaics": 1.0,
    "blends": 1.0,
}


def images_of(source, batch_size=8):
    return torch.cat([batch.images for batch in source.batches(batch_size)])


def test_shape_order_and_contract():
    source = photograph_crops(SMALL, 10)
    assert isinstance(source, ImageSource)
    assert (len(source), source.has_labels, source.bad) == (10, False, ())
    batches = list(source.batches(4))
    assert [batch.indices.tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert images_of(source).shape == (10, 3, 32, 24)
    assert images_of(source).dtype == torch.float32


def test_crop_depends_on_seed_and_index_alone():
    ten = images_of(photograph_crops(SMALL, 10, seed=5))
    torch.testing.assert_close(images_of(photograph_crops(SMALL, 4, seed=5), 3), ten[:4], rtol=0, atol=0)
    assert not torch.equal(images_of(photograph_crops(SMALL, 10, seed=6)), ten)


def test_all_crops_differ():
    flat = images_of(photograph_crops(SMALL, 40)).flatten(1)
    distances = torch.cdist(flat, flat) + 1e6 * torch.eye(40)
    assert distances.min() > 1


def test_hash_and_keys_follow_the_options():
    sources = [
        photograph_crops(SMALL, 5),
        photograph_crops(SMALL, 5, seed=1),
        photograph_crops(SMALL, 6),
        photograph_crops(replace(SMALL, crop=(24, 24)), 5),
        photograph_crops(SMALL, 5, variations=STILL),
    ]
    assert len({source.hash for source in sources}) == len(sources)
    assert len(set(sources[0].keys)) == 5
    assert photograph_crops(SMALL, 5).hash == sources[0].hash


@pytest.mark.parametrize("name", [field.name for field in fields(Variations)])
def test_every_option_has_an_effect(name):
    still = images_of(photograph_crops(SMALL, 3, variations=STILL))
    varied = images_of(photograph_crops(SMALL, 3, variations=replace(STILL, **{name: STRONG[name]})))
    assert varied.shape == still.shape
    assert (varied - still).abs().mean() > 0.01


def test_grey_network_gets_grey():
    grey = Preprocess(resize=None, crop=(16, 16), mean=(0.5,), std=(0.25,))
    assert images_of(photograph_crops(grey, 2)).shape == (2, 1, 16, 16)


@pytest.mark.parametrize("crop", [(1, 1), (1, 40), (400, 500)])
def test_unusual_sizes(crop):
    everything = Variations(**STRONG)
    source = photograph_crops(replace(SMALL, crop=crop), 3, variations=everything)
    assert images_of(source).shape == (3, 3, *crop)


def test_unfit_options():
    with pytest.raises(DataError, match="at least 1, got 0"):
        photograph_crops(SMALL, 0)
    with pytest.raises(DataError, match="takes 2 channels"):
        photograph_crops(Preprocess(mean=(0.0, 0.0), std=(1.0, 1.0)), 3)


def test_default_varies_size():
    assert 32 <= DEFAULT_VARIATIONS.smallest < 427
