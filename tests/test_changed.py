"""What the report says of answers that changed: counts that add up, and pictures of the right images."""

import base64
import io
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from cnncompress import Options
from cnncompress.answers import Answers
from cnncompress.api import compress
from cnncompress.changed import KINDS, changed_answers, class_name, file_name
from cnncompress.changed_figure import changed_bars
from cnncompress.clock import Clock
from cnncompress.distributed import ALONE
from cnncompress.errors import DataError
from cnncompress.evaluate import Comparison
from cnncompress.events import silent
from cnncompress.finetuning.results import changed_report, measure
from cnncompress.network import Network, Preprocess
from cnncompress.plan import Plan
from cnncompress.thumbnails import PREFIX, thumbnail, thumbnails

Opening = Callable[..., Any]

PREPROCESS = Preprocess(resize=None, crop=(8, 8), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
NETWORK = Network(name="tiny", model=nn.Identity(), preprocess=PREPROCESS, categories=("cat", "dog", ""))


def comparison(before: list[int], after: list[int], labels: list[int] | None) -> Comparison:
    indices = np.arange(len(before))
    known = None if labels is None else np.array(labels)
    one, other = (Answers(indices, np.array(predicted), known, None) for predicted in (before, after))
    return Comparison(
        images=len(before),
        output_relative_error=0.1,
        feature_relative_error=None,
        cosine=0.9,
        top1_agreement=float(np.mean(one.predicted == other.predicted)),
        before=one,
        after=other,
    )


def picture(uri: str) -> Image.Image:
    assert uri.startswith(PREFIX)
    return Image.open(io.BytesIO(base64.b64decode(uri.removeprefix(PREFIX))))


def found(before: list[int], after: list[int], labels: list[int] | None, source: Any) -> dict[str, Any]:
    value = changed_answers(comparison(before, after, labels), source, NETWORK)
    assert value is not None
    return value


@pytest.fixture
def images() -> Tensor:
    """Each of one grey of its own, normalised."""
    values = torch.arange(60).reshape(-1, 1, 1, 1).expand(60, 3, 8, 8) / 60
    mean, deviation = (torch.tensor(part)[:, None, None] for part in (PREPROCESS.mean, PREPROCESS.std))
    return (values - mean) / deviation


def test_counts_add_up_and_agree_with_the_accuracy(tensor_source: Opening, images: Tensor) -> None:
    generator = np.random.default_rng(0)
    before, after, labels = (generator.integers(0, 4, 60).tolist() for _ in range(3))
    value = found(before, after, labels, tensor_source(images))
    changed = sum(old != new for old, new in zip(before, after, strict=True))
    assert value["changed"] == changed == sum(value[kind] for kind in KINDS)
    accuracy = comparison(before, after, labels).accuracy("these")
    assert accuracy is not None
    assert 100 * (value["lost"] - value["gained"]) / 60 == pytest.approx(accuracy["drop_top1"])
    assert sum(pair["images"] for pair in value["pairs"]) == changed  # twelve pairs of four classes at most
    assert all(pair["images"] == sum(pair[kind] for kind in KINDS) for pair in value["pairs"])
    assert value["kinds"] == len(value["pairs"])
    counts = [pair["images"] for pair in value["pairs"]]
    assert counts == sorted(counts, reverse=True)


def test_each_example_is_told_as_it_is(tensor_source: Opening, images: Tensor) -> None:
    generator = np.random.default_rng(1)
    before, after, labels = (generator.integers(0, 4, 60).tolist() for _ in range(3))
    value = found(before, after, labels, tensor_source(images))
    assert len({one["index"] for one in value["examples"]}) == len(value["examples"]) == 12
    assert {one["kind"] for one in value["examples"]} == set(KINDS)
    for one in value["examples"]:
        index = one["index"]
        told = tuple(class_name(of[index], NETWORK.categories) for of in (before, after, labels))
        assert (one["before"], one["after"], one["label"]) == told
        right = (before[index] == labels[index], after[index] == labels[index])
        assert one["kind"] == {(True, False): "lost", (False, True): "gained"}.get(right, "both_wrong")
        shade = np.asarray(picture(one["picture"])).mean()
        assert shade == pytest.approx(255 * index / 60, abs=2)


def test_examples_show_every_kind_of_change_before_one_of_them_twice(
    tensor_source: Opening, images: Tensor
) -> None:
    before, after = [0] * 60, [1] * 58 + [2, 3]
    value = found(before, after, [0] * 60, tensor_source(images))
    assert {one["after"] for one in value["examples"]} == {"dog", "2", "3"}
    assert len(value["examples"]) == 12


def test_examples_can_be_left_out(tensor_source: Opening, images: Tensor) -> None:
    compared, source = comparison([0, 1, 2], [1, 1, 0], [0, 1, 2]), tensor_source(images)
    shown = changed_answers(compared, source, NETWORK)
    left_out = changed_answers(compared, source, NETWORK, examples=False)
    assert shown is not None
    assert left_out is not None
    assert len(shown["examples"]) == 2
    assert left_out == shown | {"examples": []}
    assert source.passes == 1


def test_without_labels_nothing_is_right_or_wrong(tensor_source: Opening, images: Tensor) -> None:
    value = found([0, 1, 1], [0, 0, 0], None, tensor_source(images[:3]))
    assert (value["changed"], value["lost"], value["gained"], value["both_wrong"]) == (2, None, None, None)
    assert value["pairs"][0] | {"before": "dog", "after": "cat", "images": 2} == value["pairs"][0]
    assert all((one["label"], one["kind"]) == (None, "changed") for one in value["examples"])
    assert "right before" not in changed_bars(value)


def test_nothing_changed_and_nothing_known(tensor_source: Opening, images: Tensor) -> None:
    source = tensor_source(images[:2])
    value = found([0, 1], [0, 1], [0, 0], source)
    assert (value["changed"], value["pairs"], value["examples"], source.passes) == (0, [], [], 0)
    assert changed_bars(value) == ""
    scores = comparison([0], [0], None)
    unknown = Comparison(**{**vars(scores), "before": None, "after": None})
    assert changed_answers(unknown, source, NETWORK) is None


def test_images_that_are_gone_are_told_without_a_picture(tensor_source: Opening, images: Tensor) -> None:
    source = tensor_source(images[:4])

    def gone(batch_size: int, order: Any = None) -> Any:
        raise DataError("all images are gone")
        yield

    source.batches = gone
    value = found([0] * 4, [1] * 4, [0] * 4, source)
    assert [one["picture"] for one in value["examples"]] == [None] * 4
    source.batches = lambda size, order=None: iter(())
    assert thumbnails(source, [0, 1], PREPROCESS) == {}


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("/data/of/me/cats/1 a.png", "1 a.png"),
        ("C:\\data\\cat.png", "cat.png"),
        ("/data/shard-0.tar/cats/7.jpg", "7.jpg"),
        ("sha256:" + "0" * 64, "image 3"),
        ("Photos 9f of 100: 17", "image 3"),
        ("/data/\udcff.png", "?.png"),
        ("/data/", "image 3"),
    ],
)
def test_files_are_named_without_their_folders(key: str, name: str) -> None:
    assert file_name(key, 3) == name
    name.encode()


def test_classes_without_a_name_are_numbers() -> None:
    assert [class_name(number, ("cat", "")) for number in (-1, 0, 1, 2)] == ["-1", "cat", "1", "2"]


@pytest.mark.parametrize("size", [(8, 8), (300, 200), (97, 96), (1, 400)])
def test_thumbnails_are_small_and_keep_their_shape(size: tuple[int, int]) -> None:
    values = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    plain = Preprocess(resize=None, crop=size, mean=(0.0,) * 3, std=(1.0,) * 3)
    uri = thumbnail(values, plain)
    assert uri is not None
    width, height = picture(uri).size
    assert max(width, height) == min(96, *[max(size)])
    assert height == pytest.approx(max(1, size[0] * max(width, height) / max(size)), abs=1)
    assert len(uri) < 15_000  # noise is the worst there is


def test_grey_images_are_grey_and_other_channels_no_pictures() -> None:
    grey = Preprocess(resize=None, crop=(4, 4), mean=(0.5,), std=(0.5,))
    uri = thumbnail(torch.full((1, 4, 4), 0.5), grey)
    assert uri is not None
    assert picture(uri).mode == "L"
    assert np.asarray(picture(uri)).mean() == pytest.approx(255 * 0.75, abs=2)
    for channels in (0, 2, 4, 5):
        assert thumbnail(torch.zeros(channels, 4, 4), grey) is None
    assert thumbnail(torch.full((1, 4, 4), torch.nan), grey) is None


def test_values_that_are_no_pixels_are_stretched() -> None:
    ramp = torch.linspace(-40, 300, 64).reshape(1, 8, 8).expand(3, 8, 8)
    uri = thumbnail(ramp, PREPROCESS)
    assert uri is not None
    shown = np.asarray(picture(uri))
    assert shown.min() < 30
    assert shown.max() > 225


def test_a_run_tells_what_changed_on_the_images_that_judged(tensor_source: Opening) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 6)
    ).eval()
    images = torch.randn(40, 3, 8, 8)
    with torch.no_grad():
        model[4].bias -= model(images).mean(0)
        labels = model(images).argmax(1)
    network = Network(name="tiny", model=model, preprocess=PREPROCESS)
    calibration, judging = tensor_source(images[:20]), tensor_source(images[20:], labels[20:])
    judging.keys = [f"/judging/{index}.png" for index in range(20)]
    options = Options(speedup=5.0, align=1, method="gsvd", measure=False, holdout=0.5)
    for evaluation, judged in ((judging, 20), (None, 10)):
        report = compress(network, calibration, evaluation, options).report
        changed = report["changed"]
        assert changed["images"] == judged
        assert changed["changed"] > 0
        assert 1 - changed["changed"] / judged == pytest.approx(report["fidelity"]["top1_agreement"])
        assert all(one["picture"] for one in changed["examples"])
        if evaluation is not None:
            assert changed["lost"] == changed["changed"]  # the original is right everywhere
            assert report["accuracy"]["drop_top1"] == pytest.approx(100 * changed["lost"] / judged)
            assert {one["file"] for one in changed["examples"]} <= {f"{index}.png" for index in range(20)}


def test_fine_tuning_counts_anew_or_forgets(tensor_source: Opening) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    images = torch.randn(20, 3, 8, 8)
    with torch.no_grad():
        for one in (model, other):
            one[3].bias -= one(images).mean(0)
    source = tensor_source(images, torch.arange(20) % 3)
    plan = Plan(network="tiny", source={}, input_size=(3, 8, 8))
    inputs: Any = SimpleNamespace(
        evaluation=source,
        training=source,
        network=NETWORK,
        plan=plan,
        original=model,
        compressed=other,
        report={"changed": {"changed": -1}},
    )
    done: Any = SimpleNamespace(to_json=dict)
    for original, tuned, expected in ((model, other, True), (model, model, False), (None, other, None)):
        inputs.original = original
        figures = measure(inputs, tuned, None, memory=0, world=ALONE, report=silent)
        report = changed_report(inputs, done, figures, Clock(silent))
        if expected is None:
            assert report["changed"] is report["accuracy"] is None
        else:
            assert (report["changed"]["changed"] > 0) is expected
            agreement = report["fidelity"]["top1_agreement"]
            assert 1 - report["changed"]["changed"] / 20 == pytest.approx(agreement)
