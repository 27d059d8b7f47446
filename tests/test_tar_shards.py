"""Tar shards: what the unpacked folder gives, to the bit; damage is named, memory bounded."""

import io
import json
import tarfile
import tracemalloc
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cnncompress.data import check_disjoint, open_source
from cnncompress.errors import DataError
from cnncompress.image_source import ImageSource
from cnncompress.network import Preprocess
from cnncompress.shard_names import shards_matching
from cnncompress.tar_index import TarIndex, read_index
from cnncompress.tar_shards import TarSource

SMALL = Preprocess(resize=12, crop=(10, 10))
Files = Iterable[tuple[str, bytes]]


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 20, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def pack(path: Path, files: Files) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def labelled(numbers: Iterable[int]) -> list[tuple[str, bytes]]:
    pairs = ((f"{n:04}.png", png(n), f"{n:04}.cls", b"%d\n" % (n % 7)) for n in numbers)
    return [file for one, image, other, label in pairs for file in ((one, image), (other, label))]


def unpack(folder: Path, files: Files) -> Path:
    for name, content in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def opened(source: str | Path, **options: object) -> ImageSource:
    return open_source(source, preprocess=SMALL, **options)  # type: ignore[arg-type]


def read(source: ImageSource, batch_size: int = 3, order: list[int] | None = None) -> tuple[Tensor, ...]:
    batches = list(source.batches(batch_size, order))
    labels = [batch.labels for batch in batches if batch.labels is not None]
    images, indices = (
        torch.cat([getattr(batch, name) for batch in batches]) for name in ("images", "indices")
    )
    return images, indices, torch.cat(labels) if labels else torch.empty(0, dtype=torch.int64)


def same(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(ours, theirs) for ours, theirs in zip(one, other, strict=True))


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = tmp_path / "shards"
    for number in range(3):
        pack(folder / f"val-{number:03}.tar", labelled(range(4 * number, 4 * number + 4)))
    return folder


# --- the same as the unpacked folder


def test_images_and_labels_are_those_of_the_unpacked_folder(shards: Path, tmp_path: Path) -> None:
    folder = unpack(tmp_path / "flat", [file for file in labelled(range(12)) if file[0].endswith("png")])
    (tmp_path / "labels.csv").write_text("".join(f"{n:04}.png,{n % 7}\n" for n in range(12)))
    ours, theirs = opened(shards, need_labels=True), opened(folder, labels=tmp_path / "labels.csv")
    assert len(ours) == len(ours.keys) == len(theirs) == 12
    for batch_size in (1, 3, 5, 50):
        for order in (None, [7, 0, 11, 3], [5]):
            assert same(read(ours, batch_size, order), read(theirs, batch_size, order))


@pytest.mark.parametrize(("threads", "cache_bytes"), [(1, 0), (4, 0), (4, 700), (2, 10**6)])
def test_threads_and_cache_change_nothing(shards: Path, threads: int, cache_bytes: int) -> None:
    index = read_index(sorted(shards.iterdir()))
    source = TarSource(index, None, SMALL, description="", threads=threads, cache_bytes=cache_bytes)
    plain = read(TarSource(index, None, SMALL, description="", threads=1))
    for _ in range(2):
        assert same(read(source), plain)


def test_one_shard_a_folder_and_patterns_are_the_same_list(shards: Path) -> None:
    whole = opened(shards)
    for form in (
        "val-{000..002}.tar",
        "val-*.tar",
        "val-{000,001,002}.tar",
        "val-00[012].tar",
        "v{al,al}-00{0..2}.tar",
    ):
        source = opened(str(shards / form))
        assert list(source.keys[:12]) == list(whole.keys)
        assert (source.hash == whole.hash) == (len(source) == 12)
    one = opened(shards / "val-001.tar")
    assert list(one.keys) == list(whole.keys[4:8])
    assert same(read(one)[::2], read(whole, order=[4, 5, 6, 7])[::2])


def test_hash_follows_the_list_and_not_its_place(shards: Path, tmp_path: Path) -> None:
    first = opened(shards / "val-000.tar").hash
    copy = pack(tmp_path / "b" / "val-000.tar", labelled(range(4)))
    assert opened(copy).hash == first
    assert opened(shards / "val-000.tar", limit=3).hash != first
    pack(
        copy,
        [
            (name, content.replace(b"3", b"5") if name == "0003.cls" else content)
            for name, content in labelled(range(4))
        ],
    )
    assert opened(copy).hash != first
    assert opened(pack(tmp_path / "b" / "other.tar", labelled(range(4)))).hash != first


def test_limit_draws_what_it_draws_of_a_folder(shards: Path, tmp_path: Path) -> None:
    folder = unpack(tmp_path / "flat", [file for file in labelled(range(12)) if file[0].endswith("png")])
    for seed in (0, 1):
        ours, theirs = opened(shards, limit=5, seed=seed), opened(folder, limit=5, seed=seed)
        assert [Path(key).name for key in ours.keys] == [Path(key).name for key in theirs.keys]
        assert torch.equal(read(ours)[0], read(theirs)[0])
        assert read(ours)[2].tolist() == [int(Path(key).stem) % 7 for key in ours.keys]
        assert list(opened(shards, limit=3, seed=seed).keys) == list(ours.keys[:3])
    with pytest.raises(DataError, match="at least 1, got 0"):
        opened(shards, limit=0)


# --- samples and labels


def test_labels_as_numbers_names_and_json(tmp_path: Path) -> None:
    files = [
        ("a/x.jpeg.png", png(0)),
        ("a/x.cls", b"tabby cat"),
        ("a/y.json", json.dumps({"label": "dog", "cls": 0}).encode()),
        ("a/y.PNG", png(1)),
        ("b/y.png", png(2)),
        ("b/y.json", json.dumps({"cls": "Tabby_Cat"}).encode()),
    ]
    source = opened(
        pack(tmp_path / "a.tar", files), categories=("fish", "tabby cat", "dog"), need_labels=True
    )
    assert read(source)[2].tolist() == [1, 2, 1]


def test_the_image_of_a_sample_is_the_plain_one(tmp_path: Path) -> None:
    files = [("x.mask.png", png(0)), ("x.png", png(1)), ("y.mask.png", png(2)), ("y.txt", b"caption")]
    source = opened(pack(tmp_path / "a.tar", files))
    assert [Path(key).name for key in source.keys] == ["x.png", "y.mask.png"]
    with pytest.raises(DataError, match=r"x\.jpg and x\.png are two images"):
        opened(pack(tmp_path / "b.tar", [("x.jpg", png(0)), ("x.png", png(1))]))


def test_what_is_no_image_is_passed_over_and_told(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            link = tarfile.TarInfo(f"link{kind.decode()}.png")
            link.type, link.linkname = kind, "/etc/passwd"
            archive.addfile(link)
        folder = tarfile.TarInfo("folder.png")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        files = [("alone.txt", b"x"), ("._x.png", b"x"), ("README", b"x"), ("../up/x.png", png(0))]
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    source = opened(path)
    assert list(source.keys) == [f"{path.resolve()}/../up/x.png"]
    assert len(read(source)[0]) == 1
    assert "1 sample without an image passed over" in source.description


def test_labels_of_a_part_are_no_labels(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.tar", [*labelled(range(3)), ("x/odd.png", png(9))])
    source = opened(path)
    assert not source.has_labels
    assert "1 of 4 images have no label" in source.description
    with pytest.raises(DataError, match=r"the first is x/odd\.png .*\.cls"):
        opened(path, need_labels=True)
    with pytest.raises(DataError, match="class of each image is needed"):
        opened(pack(tmp_path / "b.tar", [("odd.png", png(9))]), need_labels=True)


@pytest.mark.parametrize(
    "label",
    [
        ("x.json", b"{"),
        ("x.json", b"[1]"),
        ("x.json", b'{"label": true}'),
        ("x.json", b'{"label": [1]}'),
        ("x.json", b"[" * 100_000),
        ("x.cls", b""),
        ("x.cls", b"\xff\xfe"),
        ("x.cls", b"a caption " * 100),
    ],
)
def test_unusable_labels_are_none(tmp_path: Path, label: tuple[str, bytes]) -> None:
    assert not opened(pack(tmp_path / "a.tar", [("x.png", png(0)), label])).has_labels


def test_classes_that_do_not_fit(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.tar", [("x.png", png(0)), ("x.cls", b"9")])
    assert "out of range" in opened(path, categories=("a", "b")).description
    with pytest.raises(DataError, match=r"out of range.*labels file"):
        opened(path, categories=("a", "b"), need_labels=True)


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_and_foreign_names(tmp_path: Path, kind: int) -> None:
    names = ["ä" * 90 + "/" + "b" * 150 + ".png", "c\udcff.png", "ok.png"]
    with tarfile.open(tmp_path / "a.tar", "w", format=kind) as archive:
        for number, name in enumerate(names):
            member = tarfile.TarInfo(name)
            member.size = len(png(number))
            archive.addfile(member, io.BytesIO(png(number)))
    source = opened(tmp_path / "a.tar")
    assert [key.removeprefix(f"{tmp_path.resolve()}/a.tar/") for key in source.keys] == names
    flat = unpack(tmp_path / "flat", [(f"{number}.png", png(number)) for number in range(3)])
    assert torch.equal(read(source)[0], read(opened(flat))[0])


# --- damage


def test_damaged_shards_are_named(shards: Path, tmp_path: Path) -> None:
    content = (shards / "val-001.tar").read_bytes()
    with tarfile.open(shards / "val-001.tar") as archive:
        headers = [member.offset for member in archive.getmembers()]
    path = tmp_path / "bad.tar"
    cases = {
        "ends at byte": content[: headers[4] + 600],  # in an image
        "ends within a header at byte": content[: headers[4] + 100],
        f"damaged at byte {headers[4]}": content[: headers[4]] + b"\x01" * 512 + content[headers[4] + 512 :],
        "no tar archive": b"<html>not found</html>" * 99,
        "no tar archive ": b"",
        "no images in it": bytes(10240),
        r"gunzip bad\.tar": b"\x1f\x8b\x08" + content,
        r"unzstd bad\.tar": b"\x28\xb5\x2f\xfd" + content,
    }
    for message, damaged in cases.items():
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=message) as caught:
            opened(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_every_cut_is_an_error_or_loses_whole_samples_only(tmp_path: Path) -> None:
    content = pack(tmp_path / "a.tar", labelled(range(3))).read_bytes()
    end = len(content.rstrip(b"\0"))
    for length in range(1, end, 97):
        (tmp_path / "cut.tar").write_bytes(content[:length])
        with pytest.raises(DataError, match=r"cut\.tar"):
            opened(tmp_path / "cut.tar")


def test_flipped_bytes_never_hang_or_crash(tmp_path: Path, rng: np.random.Generator) -> None:
    content = pack(tmp_path / "a.tar", labelled(range(3))).read_bytes()
    for _ in range(60):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), 40):
            damaged[place] = rng.integers(0, 256)
        (tmp_path / "b.tar").write_bytes(damaged)
        try:
            source = opened(tmp_path / "b.tar", max_bad=1.0)
            list(source.batches(2))
        except DataError as error:
            assert "\n" not in str(error)


def test_a_header_that_points_backwards_ends(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.tar", labelled(range(2)))
    with tarfile.open(path) as archive:
        second = archive.getmembers()[1]
    content = bytearray(path.read_bytes())
    content[second.offset + 124 : second.offset + 136] = b"\xff" * 10 + b"\xf0\x00"  # size -4096
    content[second.offset + 148 : second.offset + 156] = b" " * 8
    checksum = sum(content[second.offset : second.offset + 512])
    content[second.offset + 148 : second.offset + 156] = b"%06o\0 " % checksum
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged at byte"):
        opened(path)


def test_broken_images_are_skipped_and_named(tmp_path: Path) -> None:
    files = [
        ("a.png", png(0)),
        ("b.png", b"text"),
        ("c.png", b""),
        ("d.png", png(3)[:200]),
        ("e.png", png(4)),
    ]
    source = opened(pack(tmp_path / "a.tar", files), max_bad=0.6)
    assert read(source)[1].tolist() == [0, 4]
    assert [Path(bad.key).name for bad in source.bad] == ["b.png", "c.png", "d.png"]
    assert [bad.reason for bad in source.bad[:2]] == ["not an image", "empty file"]


def test_a_shard_that_is_cut_or_gone_after_opening(shards: Path) -> None:
    source = opened(shards, max_bad=0.7)
    content = (shards / "val-000.tar").read_bytes()
    (shards / "val-000.tar").write_bytes(content[:700])
    (shards / "val-001.tar").unlink()
    assert read(source)[1].tolist() == [8, 9, 10, 11]
    assert "cut since" in source.bad[0].reason
    assert "No such file" in source.bad[4].reason


# --- which files


def test_patterns(tmp_path: Path) -> None:
    for name in ("t-8.tar", "t-9.tar", "t-10.tar", "x.png"):
        (tmp_path / name).write_bytes(b"")

    def names(pattern: str) -> list[str]:
        return [path.name for path in shards_matching(str(tmp_path / pattern))]

    assert names("t-{8..10}.tar") == ["t-8.tar", "t-9.tar", "t-10.tar"]
    assert names("t-{10..8}.tar") == ["t-10.tar", "t-9.tar", "t-8.tar"]
    assert names("t-{9,8}.tar") == ["t-9.tar", "t-8.tar"]
    assert names("t-*.tar") == ["t-10.tar", "t-8.tar", "t-9.tar"]
    assert names("t-{9,?}.tar") == ["t-9.tar", "t-8.tar", "t-9.tar"]
    assert names("t-8.tar") == []
    for pattern, missing in (
        ("t-{8..12}.tar", "t-11.tar"),
        ("t-{08..10}.tar", "t-08.tar"),
        ("u*.tar", r"u\*.tar"),
    ):
        with pytest.raises(DataError, match=f"{missing}: no such file"):
            names(pattern)
    with pytest.raises(DataError, match=r"x\.png: no tar archive"):
        names("*")


def test_a_folder_of_images_beside_a_tar_stays_one(shards: Path, tmp_path: Path) -> None:
    unpack(shards, [("x.png", png(0))])
    assert len(opened(shards)) == 1
    pack(tmp_path / "only" / "a.tar.gz", labelled(range(2)))
    (tmp_path / "only" / "a.tar.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(DataError, match="gunzip"):
        opened(tmp_path / "only")


# --- disjoint


def test_copies_between_shards_and_folders_are_found(shards: Path, tmp_path: Path) -> None:
    folder = unpack(tmp_path / "flat", [("other.png", png(99)), ("copy.png", png(6))])
    for one, other in ((shards, folder), (folder, shards)):
        with pytest.raises(DataError, match=r"1 image is in both .*(copy\.png|0006\.png).* is "):
            check_disjoint(opened(one), opened(other))
    with pytest.raises(DataError, match="4 images are in both"):
        check_disjoint(opened(shards), opened(shards / "val-001.tar"))
    check_disjoint(opened(shards / "val-000.tar"), opened(shards / "val-001.tar"))
    (folder / "copy.png").unlink()
    check_disjoint(opened(shards), opened(folder))


# --- memory


def test_an_index_takes_less_than_a_hundred_bytes_a_sample() -> None:
    count = 100_000
    tracemalloc.start()
    names = b"".join(b"train/n%08d/%08d.jpeg" % (n // 1000, n) for n in range(count))
    index = TarIndex(
        shards=(Path("a.tar"),),
        shard=np.zeros(count, np.int32),
        offset=np.arange(count) * 1024,
        size=np.full(count, 1000),
        names=names,
        ends=np.arange(1, count + 1) * (len(names) // count),
        label=np.zeros(count, np.int32),
        classes=("0",),
        without_image=0,
    )
    source = TarSource(index, None, SMALL, description="")
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used < 100 * count
    assert len(source) == count
    assert source.keys[-1].endswith("/a.tar/train/n00000099/00099999.jpeg")


def test_reading_headers_keeps_nothing_but_the_index(tmp_path: Path) -> None:
    count = 2000
    path = pack(
        tmp_path / "a.tar", ((f"{n:06}.{kind}", b"0") for n in range(count) for kind in ("jpg", "cls"))
    )
    tracemalloc.start()
    index = read_index([path])
    used, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(index) == count
    assert used < 100 * count
    assert peak < 300 * count + 100_000
