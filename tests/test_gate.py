"""The gate: thresholds, baselines, and what a check measures."""

import base64
import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

import cnncompress as cc
from cnncompress.answers import Answers
from cnncompress.errors import CompressError, DataError, ModelError, OptionError, OutputError
from cnncompress.export import ExportError
from cnncompress.gate import Baseline, Reference, Thresholds, Verdict, check_folder
from cnncompress.gate.outcomes import Outcomes
from cnncompress.gate.paired_accuracy import paired_accuracy

CLASSES = 8


def classifier() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(12, 16, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, CLASSES),
    ).eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(60, 3, 12, 12, generator=generator) * torch.rand(60, 3, 1, 1, generator=generator) * 3


@pytest.fixture(scope="module")
def labels(images: torch.Tensor) -> torch.Tensor:
    """What the original answers, but for every sixth image."""
    with torch.no_grad():
        found = classifier()(images).argmax(1)
    found[::6] = (found[::6] + 1) % CLASSES
    return found


@pytest.fixture(scope="module")
def compressed(images: torch.Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    def refuse(*given: object, **options: object) -> None:
        raise ExportError("not here")  # the export takes seconds

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cnncompress.output.write_onnx", refuse)
        result = cc.compress_model(classifier(), images, speedup=1.5, measure=False)
        return result.save(tmp_path_factory.mktemp("gate") / "out")


@pytest.fixture
def data(images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return images, labels


@pytest.fixture
def folder(compressed: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    copy = tmp_path / "out"
    copy.mkdir()
    for name in ("plan.json", "model.safetensors", "report.json"):
        (copy / name).write_bytes((compressed / name).read_bytes())
    return copy


def spoil(folder: Path) -> None:
    """Weights that another training could have left, with noise in the last layer."""
    file = folder / "model.safetensors"
    state = load_file(file)
    generator = torch.Generator().manual_seed(0)
    state["6.weight"] += 3 * torch.randn(state["6.weight"].shape, generator=generator)
    save_file(state, file)


ORIGINAL = Reference(model=classifier())


def test_costs_are_those_of_the_networks_not_of_the_report(folder: Path) -> None:
    report = json.loads((folder / "report.json").read_text())
    (folder / "report.json").write_text(json.dumps({**report, "macs": {"conv_speedup": 99}, "weights": ""}))
    verdict = check_folder(folder, Thresholds(min_speedup=1.5, max_size=10**6), reference=ORIGINAL).verdict
    assert verdict.macs is not None
    assert verdict.macs["speedup"] == pytest.approx(report["macs"]["conv_speedup"])
    assert (verdict.macs["all_before"], verdict.macs["all_after"]) == (
        report["macs"]["before"],
        report["macs"]["after"],
    )
    assert verdict.size == (folder / "model.safetensors").stat().st_size
    assert verdict.status == "passed"
    assert verdict.accuracy is None  # nobody asked, and there are no images


@pytest.mark.parametrize(
    "thresholds",
    [Thresholds(min_speedup=50), Thresholds(max_size=1000), Thresholds(max_size=1000, min_speedup=50)],
)
def test_costs_beyond_a_limit_fail(compressed: Path, thresholds: Thresholds) -> None:
    verdict = check_folder(compressed, thresholds, reference=ORIGINAL).verdict
    assert verdict.status == "failed"
    assert not any(finding.passed for finding in verdict.findings)


def test_accuracy_is_that_of_both_networks_on_the_same_images(compressed: Path, data: tuple) -> None:
    verdict = check_folder(compressed, Thresholds(max_drop=100), evaluation=data, reference=ORIGINAL).verdict
    with torch.no_grad():
        before = (classifier()(data[0]).argmax(1) == data[1]).numpy()
        after = (cc.load(compressed, classifier())(data[0]).argmax(1) == data[1]).numpy()
    assert verdict.accuracy is not None
    top1 = verdict.accuracy["top1"]
    assert (top1["before"], top1["after"]) == (100 * before.mean(), 100 * after.mean())
    assert (top1["lost"], top1["gained"]) == ((before & ~after).sum(), (~before & after).sum())
    assert top1["drop"] == pytest.approx(top1["before"] - top1["after"])
    assert verdict.accuracy["top5"]["before"] >= top1["before"]
    assert verdict.accuracy["n"] == 60


def test_a_network_that_got_worse_fails_and_one_that_stayed_passes(folder: Path, data: tuple) -> None:
    limits = Thresholds(max_drop=10, max_drop_top5=20)
    assert check_folder(folder, limits, evaluation=data, reference=ORIGINAL).verdict.status == "passed"
    spoil(folder)
    verdict = check_folder(folder, limits, evaluation=data, reference=ORIGINAL).verdict
    assert verdict.status == "failed"
    assert not verdict.findings[0].passed
    assert "allowed 10.00" in verdict.line


def test_the_upper_gate_wants_proof(compressed: Path, data: tuple) -> None:
    point = check_folder(compressed, Thresholds(max_drop=10), evaluation=data, reference=ORIGINAL).verdict
    upper = check_folder(
        compressed, Thresholds(max_drop=10, gate="upper"), evaluation=data, reference=ORIGINAL
    ).verdict
    (one,), (other,) = point.findings, upper.findings
    assert one.judged == one.value == other.value
    assert other.judged == upper.accuracy["top1"]["high"] > other.value
    held = check_folder(
        compressed, Thresholds(max_drop=other.judged, gate="upper"), evaluation=data, reference=ORIGINAL
    )
    assert held.verdict.status == "passed"


def test_an_interval_wider_than_the_limit_is_told_with_the_images_needed(
    compressed: Path, data: tuple
) -> None:
    fine = check_folder(compressed, Thresholds(max_drop=60), evaluation=data, reference=ORIGINAL).verdict
    assert not fine.warnings
    coarse = check_folder(compressed, Thresholds(max_drop=0.5), evaluation=data, reference=ORIGINAL).verdict
    (warning,) = coarse.warnings
    assert "60 images" in warning
    assert "would do" in warning


def test_a_baseline_stands_for_the_original(compressed: Path, data: tuple, tmp_path: Path) -> None:
    file = tmp_path / "baseline.json"
    direct = check_folder(compressed, Thresholds(max_drop=5), evaluation=data, reference=ORIGINAL)
    assert direct.baseline is not None
    direct.baseline.write(file)
    untrained = classifier()
    nn.init.zeros_(untrained[6].weight)
    paired = check_folder(
        compressed,
        Thresholds(max_drop=5),
        evaluation=data,
        reference=Reference(model=untrained, baseline=file),  # the model gives the architecture alone
    )
    assert paired.verdict.accuracy == direct.verdict.accuracy
    assert paired.baseline is None


def test_a_baseline_knows_the_compressed_network_too(folder: Path, data: tuple, tmp_path: Path) -> None:
    file = tmp_path / "baseline.json"
    check_folder(folder, Thresholds(), evaluation=data, reference=ORIGINAL, accuracy=True).baseline.write(
        file
    )
    against = replace(ORIGINAL, baseline=file, against="compressed")
    same = check_folder(folder, Thresholds(max_drop=0), evaluation=data, reference=against).verdict
    assert (same.accuracy["top1"]["lost"], same.accuracy["top1"]["gained"]) == (0, 0)
    assert same.status == "passed"
    spoil(folder)
    assert (
        check_folder(folder, Thresholds(max_drop=0), evaluation=data, reference=against).verdict.status
        == "failed"
    )


def other_images(data: tuple) -> tuple:
    return data[0] + 1e-3, data[1]


def other_labels(data: tuple) -> tuple:
    return data[0], (data[1] + 1) % CLASSES


def fewer(data: tuple) -> tuple:
    return data[0][:-1], data[1][:-1]


@pytest.mark.parametrize("change", [other_images, other_labels, fewer])
def test_a_baseline_of_other_images_is_refused(
    compressed: Path, data: tuple, tmp_path: Path, change: Callable[[tuple], tuple]
) -> None:
    file = tmp_path / "baseline.json"
    check_folder(compressed, Thresholds(), evaluation=data, reference=ORIGINAL, accuracy=True).baseline.write(
        file
    )
    with pytest.raises(DataError, match=r"other images.*--write-baseline"):
        check_folder(
            compressed,
            Thresholds(max_drop=5),
            evaluation=change(data),
            reference=replace(ORIGINAL, baseline=file),
        )


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [("preprocess", {"resize": 9}, "prepared"), ("network", "another", "is of another")],
)
def test_a_baseline_of_another_network_is_refused(
    compressed: Path, data: tuple, tmp_path: Path, key: str, value: object, message: str
) -> None:
    file = tmp_path / "baseline.json"
    check_folder(compressed, Thresholds(), evaluation=data, reference=ORIGINAL, accuracy=True).baseline.write(
        file
    )
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    with pytest.raises(DataError, match=message):
        check_folder(
            compressed, Thresholds(max_drop=5), evaluation=data, reference=replace(ORIGINAL, baseline=file)
        )


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_damaged_baseline_is_an_error_of_ours(data: st.DataObject) -> None:
    row = {"read": "/w==", "top1": "/w==", "top5": None}
    value = {
        "kind": "cnncompress baseline",
        "schema": 1,
        "network": "net",
        "weights": "",
        "data": {"hash": "", "description": "", "images": 8},
        "preprocess": {},
        "original": dict(row),
        "compressed": dict(row),
    }
    odd = st.sampled_from([None, 3, -1, "x", [], {}, "/w", "/w==/w==", 1e9, {"images": "many"}])
    place = data.draw(
        st.sampled_from(["data", "original", "compressed", "preprocess", "schema", "kind", "top1"])
    )
    (value["original"] if place == "top1" else value)[place] = data.draw(odd)
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "baseline.json"
        file.write_text(json.dumps(value))
        try:
            Baseline.read(file)
        except OutputError as error:
            assert str(file) in str(error)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"kind": "plan"}', "\udcff"])
def test_what_is_no_baseline_is_refused(content: str, tmp_path: Path) -> None:
    file = tmp_path / "baseline.json"
    file.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(OutputError, match=r"baseline\.json"):
        Baseline.read(file)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 656])
def test_outcomes_are_kept_in_a_bit_an_image(count: int, rng: np.random.Generator) -> None:
    bits = [rng.random(count) < 0.5 for _ in range(3)]
    outcomes = Outcomes(read=bits[0], top1=bits[1], top5=bits[2])
    kept = json.loads(json.dumps(outcomes.to_json()))
    assert len(base64.b64decode(kept["top1"])) == -(-count // 8)
    again = Outcomes.from_json(kept, count)
    for one, other in zip(bits, (again.read, again.top1, again.top5), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="bytes"):
        Outcomes.from_json(kept, count + 8)


def outcomes(read: list[int], right: list[int], images: int) -> Outcomes:
    indices = np.array(read)
    labels = np.zeros(len(read), dtype=np.int64)
    predicted = np.array([0 if index in right else 1 for index in read])
    return Outcomes.of(Answers(indices=indices, predicted=predicted, labels=labels, in_top5=None), images)


def test_only_images_that_both_could_read_are_compared() -> None:
    before = outcomes([0, 1, 2, 3, 5], [0, 1, 2, 5], 6)
    after = outcomes([0, 2, 3, 4, 5], [0, 3, 4], 6)
    found = paired_accuracy(before, after)
    assert found["n"] == 4  # 0, 2, 3, 5
    assert (found["top1"]["before"], found["top1"]["after"]) == (75, 50)
    assert (found["top1"]["lost"], found["top1"]["gained"]) == (2, 1)
    assert found["top5"] is None
    with pytest.raises(DataError, match="no image"):
        paired_accuracy(outcomes([0], [0], 2), outcomes([1], [1], 2))


def test_the_callers_network_stays_as_it_was(compressed: Path, data: tuple) -> None:
    model = classifier().train()
    before = deepcopy(model.state_dict())
    check_folder(compressed, Thresholds(max_drop=5), evaluation=data, reference=Reference(model=model))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model[0].weight.is_contiguous()


@pytest.mark.parametrize("named", [False, True])
def test_labels_that_fit_no_better_than_guessing_measure_nothing(
    folder: Path, data: tuple, named: bool
) -> None:
    """With them a network that answers anything at all would pass."""
    plan = json.loads((folder / "plan.json").read_text())
    plan["categories"] = [f"class {number}" for number in range(CLASSES)] if named else []
    (folder / "plan.json").write_text(json.dumps(plan))
    shifted = (data[0], (data[1] + 3) % CLASSES)
    for limits, accuracy in ((Thresholds(max_drop=5), False), (Thresholds(), True)):
        with pytest.raises(DataError, match="guessing among 8 classes"):
            check_folder(folder, limits, evaluation=shifted, reference=ORIGINAL, accuracy=accuracy)
    check_folder(folder, Thresholds(max_drop=5), evaluation=data, reference=ORIGINAL)


def test_a_baseline_where_most_images_were_unreadable_is_no_baseline(
    compressed: Path, data: tuple, tmp_path: Path
) -> None:
    kept = check_folder(compressed, Thresholds(), evaluation=data, reference=ORIGINAL, accuracy=True).baseline
    assert kept is not None
    read = np.arange(60) % 6 != 0
    partly = replace(kept.original, read=read)
    replace(kept, original=partly).write(tmp_path / "baseline.json")
    reference = replace(ORIGINAL, baseline=tmp_path / "baseline.json")
    with pytest.raises(DataError, match="50 of 60 images could be read both now and for the baseline"):
        check_folder(compressed, Thresholds(max_drop=50), evaluation=data, reference=reference)
    allowed = check_folder(
        compressed, Thresholds(max_drop=50), evaluation=data, reference=reference, max_bad=0.2
    )
    assert allowed.verdict.accuracy is not None
    assert allowed.verdict.accuracy["n"] == 50


def test_images_without_labels_have_no_accuracy(compressed: Path, data: tuple) -> None:
    with pytest.raises(DataError, match="class of each image"):
        check_folder(compressed, Thresholds(max_drop=1), evaluation=data[0], reference=ORIGINAL)
    with pytest.raises(DataError, match="--eval"):
        check_folder(compressed, Thresholds(max_drop=1), reference=ORIGINAL)


def test_own_code_is_never_run_unnamed(compressed: Path) -> None:
    with pytest.raises(ModelError, match="--network"):
        check_folder(compressed, Thresholds(min_speedup=1.1))


def test_nan_is_an_error_of_the_network(folder: Path, data: tuple) -> None:
    state = load_file(folder / "model.safetensors")
    state["6.bias"][0] = float("nan")
    save_file(state, folder / "model.safetensors")
    with pytest.raises(CompressError, match="NaN"):
        check_folder(folder, Thresholds(max_drop=1), evaluation=data, reference=ORIGINAL)


def test_top5_of_few_classes_is_refused(
    images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: object, **options: object) -> None:
        raise ExportError("not here")

    monkeypatch.setattr("cnncompress.output.write_onnx", refuse)
    narrow = classifier()
    narrow[6] = nn.Linear(64, 3)
    folder = cc.compress_model(narrow, images, speedup=1.5, measure=False).save(tmp_path / "narrow")
    with pytest.raises(OptionError, match="five classes"):
        check_folder(
            folder,
            Thresholds(max_drop_top5=1),
            evaluation=(images, narrow(images).argmax(1)),
            reference=Reference(model=narrow),
        )


@pytest.mark.parametrize(
    "limits",
    [
        {"max_drop": 101},
        {"max_drop": float("nan")},
        {"max_drop_top5": -101},
        {"min_speedup": 0},
        {"min_speedup": float("inf")},
        {"max_size": 0},
        {"gate": "lower"},
    ],
)
def test_limits_out_of_range_are_refused(limits: dict) -> None:
    with pytest.raises(OptionError):
        Thresholds(**limits)


def test_a_reference_needs_a_baseline_for_the_compressed_network() -> None:
    with pytest.raises(OptionError, match="baseline"):
        Reference(against="compressed")
    with pytest.raises(OptionError, match="against"):
        Reference(against="nothing")


def test_a_verdict_with_an_error_has_neither_passed_nor_failed() -> None:
    verdict = Verdict(network="net", folder="out").failed("no images")
    assert verdict.status == "error"
    assert "no images" in verdict.line
    assert json.loads(json.dumps(verdict.to_json()))["status"] == "error"


def test_a_broken_limit_never_looks_kept(compressed: Path, data: tuple) -> None:
    size = (compressed / "model.safetensors").stat().st_size
    (finding,) = check_folder(compressed, Thresholds(max_size=size - 1), reference=ORIGINAL).verdict.findings
    assert f"{size:,}" in finding.text
    assert f"{size - 1:,}" in finding.text
    exact = check_folder(compressed, Thresholds(max_drop=50), evaluation=data, reference=ORIGINAL).verdict
    limit = exact.accuracy["top1"]["drop"] - 0.0004
    broken = check_folder(compressed, Thresholds(max_drop=limit), evaluation=data, reference=ORIGINAL).verdict
    assert broken.status == "failed"
    shown, allowed = broken.findings[0].text.split(" points")[0], broken.findings[0].text.split("allowed ")[1]
    assert float(shown) > float(allowed)


def test_a_pointer_of_git_lfs_is_named(folder: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (folder / "model.safetensors").write_text(pointer)
    with pytest.raises(OutputError, match="git lfs pull"):
        check_folder(folder, Thresholds(min_speedup=1.1), reference=ORIGINAL)


def test_a_plan_that_contradicts_itself_is_refused(folder: Path, data: tuple) -> None:
    plan = json.loads((folder / "plan.json").read_text())
    plan["input_size"] = [3, 8, 8]  # would count costs of smaller images than are run
    (folder / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(OutputError, match="compress the network again"):
        check_folder(folder, Thresholds(min_speedup=1.1), reference=ORIGINAL)
