"""Sources of images: every kind opens, order is fixed, bad images are named, nothing is in both sets."""

import gc
import io
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from cnncompress.data import check_disjoint, open_source, paths_source
from cnncompress.errors import DataError
from cnncompress.network import Preprocess

SMALL = Preprocess(resize=12, crop=(10, 10))


def picture(seed, size=(20, 16)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


def fill(folder, count, first=0):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        picture(number).save(folder / f"{number:03}.png")
    return folder


def everything(source, batch_size=4):
    batches = list(source.batches(batch_size))
    labels = None if batches[0].labels is None else torch.cat([batch.labels for batch in batches])
    return torch.cat([b.images for b in batches]), torch.cat([b.indices for b in batches]), labels


def same(one, other):
    torch.testing.assert_close(everything(one)[0], everything(other)[0], rtol=0, atol=0)


def open_small(source, **options):
    return open_source(source, preprocess=SMALL, **options)


# --- folders


def test_flat_folder_gives_what_preprocess_gives(tmp_path):
    source = open_small(fill(tmp_path / "flat", 6))
    images, indices, labels = everything(source)
    expected = torch.stack([SMALL(picture(number)) for number in range(6)])
    torch.testing.assert_close(images, expected, rtol=0, atol=0)
    assert images.dtype == torch.float32
    assert indices.tolist() == list(range(6))
    assert labels is None
    assert not source.has_labels
    assert len(source) == len(source.keys) == 6
    assert [len(batch.images) for batch in source.batches(4)] == [4, 2]


@pytest.mark.parametrize("threads", [1, 5])
@pytest.mark.parametrize("cache_bytes", [0, 700, 10**6])
def test_threads_and_cache_change_nothing(tmp_path, threads, cache_bytes):
    paths = sorted(fill(tmp_path, 7).iterdir())
    plain = paths_source(paths, None, SMALL, tmp_path)
    other = paths_source(paths, None, SMALL, tmp_path, threads=threads, cache_bytes=cache_bytes)
    for _ in range(3):
        same(plain, other)
    assert plain.hash == other.hash


def test_cache_is_used_and_bounded(tmp_path):
    paths = sorted(fill(tmp_path, 3).iterdir())
    source = paths_source(paths, None, SMALL, tmp_path, max_bad=1.0, cache_bytes=2 * 3 * 10 * 10)
    first = everything(source)[0]
    for path in paths:
        path.unlink()
    images, indices, _ = everything(source)
    assert indices.tolist() == [0, 1]
    torch.testing.assert_close(images, first[:2], rtol=0, atol=0)


def test_a_pass_can_be_abandoned(tmp_path):
    source = open_small(fill(tmp_path, 9))
    passing = source.batches(2)
    next(passing)
    passing.close()
    assert len(everything(source)[0]) == 9


def test_limit_draws_a_nested_sample_fixed_by_seed(tmp_path):
    folder = fill(tmp_path, 12)
    ten, five, other = (open_small(folder, limit=n, seed=s) for n, s in ((10, 0), (5, 0), (5, 1)))
    assert ten.keys[:5] == five.keys
    assert set(five.keys) != set(other.keys)
    assert len(five) == len(everything(five)[0]) == 5
    same(five, open_small(folder, limit=5, seed=0))
    assert len(open_small(folder, limit=99)) == 12
    with pytest.raises(DataError, match="at least 1, got 0"):
        open_small(folder, limit=0)


def test_hash_follows_the_list_and_not_its_place(tmp_path):
    one, copy = fill(tmp_path / "a", 4), fill(tmp_path / "b", 4)
    before = open_small(one).hash
    assert before == open_small(copy).hash
    assert before != open_small(one, limit=3).hash
    picture(99, size=(30, 30)).save(one / "000.png")
    assert before != open_small(one).hash


def test_hidden_other_files_and_link_loops_are_passed_over(tmp_path):
    folder = fill(tmp_path / "flat", 3)
    (folder / "labels.csv").write_text("000.png,1\n")
    (folder / "._000.png").write_bytes(b"\0")
    fill(folder / ".thumbs", 2)
    (folder / "loop").symlink_to(folder)
    assert len(open_small(folder)) == 3


@pytest.mark.parametrize(
    "make",
    [lambda p: p.mkdir(), lambda p: (p.mkdir(), (p / "notes.txt").write_text("x"))],
    ids=["empty", "text"],
)
def test_folder_without_images(tmp_path, make):
    make(tmp_path / "void")
    with pytest.raises(DataError, match="void: no images"):
        open_small(tmp_path / "void")


def test_missing_and_unfit_paths(tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        open_small(tmp_path / "nowhere")
    picture(0).save(tmp_path / "one.png")
    with pytest.raises(DataError, match="give the folder"):
        open_small(tmp_path / "one.png")
    (tmp_path / "data.xyz").write_text("x")
    with pytest.raises(DataError, match="unknown kind"):
        open_small(str(tmp_path / "data.xyz"))


def test_folder_that_vanishes_after_opening(tmp_path):
    source = open_small(fill(tmp_path / "flat", 5))
    for path in (tmp_path / "flat").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="no such file"):
        everything(source)


# --- labels


def class_folders(folder, names):
    for number, name in enumerate(names):
        fill(folder / name, 2, first=10 * number)
    return folder


@pytest.mark.parametrize(
    ("names", "categories", "expected"),
    [
        (["b", "a"], (), [0, 0, 1, 1]),
        (["tabby_cat", "Dog"], ("fish", "tabby cat", "dog"), [2, 2, 1, 1]),
        (["n02", "n01"], ("zebra", "ape"), [0, 0, 1, 1]),
        (["10", "9"], tuple(map(str, range(11))), [10, 10, 9, 9]),
    ],
    ids=["sorted", "by-name", "by-count", "by-number"],
)
def test_class_folders(tmp_path, names, categories, expected):
    source = open_small(class_folders(tmp_path, names), categories=categories, need_labels=True)
    assert everything(source)[2].tolist() == expected


def test_class_folders_that_do_not_fit(tmp_path):
    folder = class_folders(tmp_path, ["n01", "n02"])
    categories = ("ape", "bee", "cat")
    assert not open_small(folder, categories=categories).has_labels
    with pytest.raises(DataError, match="2 classes, but the network has 3 and 'n01'"):
        open_small(folder, categories=categories, need_labels=True)


def test_a_category_named_twice_decides_nothing(tmp_path):
    source = open_small(class_folders(tmp_path, ["crane"]), categories=("crane", "ape", "crane"))
    assert not source.has_labels


def test_labels_are_needed(tmp_path):
    with pytest.raises(DataError, match="class of each image is needed"):
        open_small(fill(tmp_path, 2), need_labels=True)


@pytest.mark.parametrize(
    "text",
    [
        "filename,label\n000.png,2\n001.png,0\n002.png,1\nother.png,7\n",
        "000.png 2\n001.png 0\n002.png 1\n",
        "./002.png\t1\n./001.png\t0\n./000.png\t2\n",
        '000.png,cat,x\n001.png,"ape",x\n002.png,bee,x\n',
        "val/000.png;cat\nval/001.png;ape\nval/002.png;bee\n",
    ],
)
def test_labels_file(tmp_path, text):
    (tmp_path / "labels.csv").write_text(text)
    source = open_small(
        fill(tmp_path / "flat", 3), labels=tmp_path / "labels.csv", categories=("ape", "bee", "cat")
    )
    assert everything(source)[2].tolist() == [2, 0, 1]


def test_labels_stay_with_their_images_in_a_sample(tmp_path):
    (tmp_path / "labels.txt").write_text("".join(f"{n:03}.png {n}\n" for n in range(8)))
    source = open_small(fill(tmp_path / "flat", 8), labels=tmp_path / "labels.txt", limit=5, seed=3)
    assert everything(source)[2].tolist() == [int(Path(key).stem) for key in source.keys]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("000.png,1\n", "no label for 001.png"),
        ("000.png,0\n001.png,3\n", "out of range"),
        ("", "no label for"),
    ],
)
def test_unfit_labels_file(tmp_path, text, message):
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        open_small(fill(tmp_path / "flat", 2), labels=tmp_path / "labels.csv", categories=("a", "b", "c"))
    with pytest.raises(DataError, match="can't be read"):
        open_small(tmp_path / "flat", labels=tmp_path / "missing.csv")


# --- unusual and broken files


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def truncated():
    content = encoded(picture(0, size=(200, 200)), "JPEG")
    return content[: len(content) // 2]


def bomb():
    # the header of a PNG of 40000 x 40000, with a checksum that fits
    import struct
    import zlib

    chunk = b"IHDR" + struct.pack(">IIBBBBB", 40000, 40000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


BROKEN = {
    "truncated.jpg": truncated,
    "empty.png": lambda: b"",
    "text.jpg": lambda: b"not an image at all",
    "bomb.png": bomb,
    "script.png": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
    "strip.png": lambda: encoded(Image.new("RGB", (900, 1)), "PNG"),
    "float.tif": lambda: encoded(Image.new("F", (20, 20), 0.5), "TIFF"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_skipped_counted_and_named(tmp_path, name):
    folder = fill(tmp_path, 9)
    (folder / f"004{name}").write_bytes(BROKEN[name]())
    source = open_small(folder, max_bad=0.1)
    assert source.bad == ()
    for _ in range(2):
        images, indices, _ = everything(source)
        assert indices.tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9]
        assert len(images) == 9
        assert [bad.key for bad in source.bad] == [str(folder / f"004{name}")]
        assert source.bad[0].reason
    torch.testing.assert_close(images[4], SMALL(picture(4)), rtol=0, atol=0)


def test_too_many_broken_files_are_an_error(tmp_path):
    folder = fill(tmp_path, 8)
    for number in (2, 5):
        (folder / f"{number:03}.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"2 of 8 .*002.png \(empty file\).*005.png.*replace") as caught:
        everything(open_small(folder))
    assert "\n" not in str(caught.value)
    assert len(everything(open_small(folder, max_bad=0.25))[0]) == 6


def test_nothing_readable_is_an_error_whatever_is_allowed(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match="none of the 1"):
        everything(open_small(tmp_path, max_bad=1.0))


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    eight = np.random.default_rng(0).integers(0, 256, (16, 20), dtype=np.uint8)
    Image.fromarray(eight.astype(np.uint16) * 257).save(tmp_path / "a.png")
    Image.fromarray(eight).save(tmp_path / "b.png")
    images, _, _ = everything(open_small(tmp_path))
    torch.testing.assert_close(images[0], images[1], rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_modes_become_rgb(tmp_path, mode):
    suffix = "tif" if mode in {"CMYK", "YCbCr"} else "png"
    Image.new("RGB", (20, 16), (255, 255, 255)).convert(mode).save(tmp_path / f"a.{suffix}")
    images, _, _ = everything(open_small(tmp_path))
    torch.testing.assert_close(images[0], SMALL(Image.new("RGB", (20, 16), (255, 255, 255))))


def test_palette_with_transparency_gives_no_warning(tmp_path):
    image = picture(0).convert("P")
    image.save(tmp_path / "a.png", transparency=bytes(range(256)))
    torch.testing.assert_close(everything(open_small(tmp_path))[0][0], SMALL(image.convert("RGB")))


def test_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    image = picture(0)
    image.save(tmp_path / "a.png", exif=exif)
    upright = SMALL(image.transpose(Image.Transpose.ROTATE_270))
    torch.testing.assert_close(everything(open_small(tmp_path))[0][0], upright, rtol=0, atol=0)


def test_grey_network_gets_grey(tmp_path):
    grey = Preprocess(resize=12, crop=(10, 10), mean=(0.5,), std=(0.5,))
    images, _, _ = everything(open_source(fill(tmp_path, 2), preprocess=grey))
    assert images.shape == (2, 1, 10, 10)
    torch.testing.assert_close(images[0], grey(picture(0)), rtol=0, atol=0)


def test_pictures_for_a_network_of_many_channels(tmp_path):
    with pytest.raises(DataError, match="takes 5 channels"):
        open_source(fill(tmp_path, 1), preprocess=Preprocess(mean=(0.0,) * 5, std=(1.0,) * 5))


# --- arrays


@pytest.fixture
def pictures():
    return np.stack([np.asarray(picture(number)) for number in range(6)])


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
@pytest.mark.parametrize("kind", ["npz", "pt", "numpy", "torch", "pair", "dict"])
def test_pictures_in_arrays_equal_files(tmp_path, pictures, layout, kind):
    images = pictures if layout == "nhwc" else np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))
    labels = np.arange(6) % 3
    np.savez(tmp_path / "a.npz", images=images, labels=labels)
    torch.save({"images": torch.tensor(images), "labels": torch.tensor(labels)}, tmp_path / "a.pt")
    given = {
        "npz": tmp_path / "a.npz",
        "pt": str(tmp_path / "a.pt"),
        "numpy": images,
        "torch": torch.tensor(images),
        "pair": (images, labels),
        "dict": {"images": torch.tensor(images), "labels": labels.tolist()},
    }
    source = open_small(given[kind])
    same(source, open_small(fill(tmp_path / "flat", 6)))
    assert source.has_labels == (kind not in {"numpy", "torch"})
    if source.has_labels:
        assert everything(source)[2].tolist() == labels.tolist()


def test_read_only_and_reversed_arrays(pictures):
    frozen = pictures[::-1]
    frozen.flags.writeable = False
    same(open_small(frozen), open_small(pictures[::-1].copy()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_floating_point_counts_as_preprocessed(dtype):
    images = torch.randn(5, 3, 10, 10).to(dtype)
    source = open_small((images, torch.arange(5)), limit=4, seed=2)
    found, indices, labels = everything(source, batch_size=3)
    torch.testing.assert_close(found, images[labels].float(), rtol=0, atol=0)
    assert indices.tolist() == [0, 1, 2, 3]
    assert source.hash != open_small((images, torch.arange(5)), limit=4, seed=3).hash


def test_pt_of_tensor_and_pair(tmp_path):
    images = torch.randn(4, 3, 10, 10)
    torch.save(images, tmp_path / "a.pt")
    torch.save((images, torch.arange(4)), tmp_path / "b.pt")
    same(open_small(tmp_path / "a.pt"), open_small(tmp_path / "b.pt"))
    assert open_small(tmp_path / "a.pt").hash != open_small(tmp_path / "b.pt").hash  # labels count


def test_tensors_with_nan_are_bad():
    images = torch.randn(6, 3, 10, 10)
    images[2, 0, 0, 0] = float("nan")
    source = open_small(images)
    assert everything(source)[1].tolist() == [0, 1, 3, 4, 5]
    assert [bad.key for bad in source.bad] == ["image 2"]
    images[3] = float("inf")
    with pytest.raises(DataError, match="2 of 6"):
        open_small(images)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.randn(2, 3, 9, 9), r"must have shape \(n, 3, 10, 10\), got \(2, 3, 9, 9\)"),
        (torch.randn(2, 1, 10, 10), "must have shape"),
        (torch.zeros(2, 3, 10, 10, dtype=torch.int64), "uint8 or floating point"),
        (torch.zeros(2, 5, 10, 7, dtype=torch.uint8), "1, 3 or 4 channels"),
        (torch.zeros(0, 3, 10, 10), "expected"),
        (np.array(["a", "b"]), "array of numbers"),
        ((torch.randn(2, 3, 10, 10), torch.arange(3)), "2 images but 3 labels"),
        ((torch.randn(2, 3, 10, 10), torch.tensor([0.5, 1])), "one class number"),
        (7, "can't read images from int"),
        (["a.png"], "got str"),
        ([], "no images"),
    ],
)
def test_unfit_arrays(images, message):
    with pytest.raises(DataError, match=message):
        open_small(images)


def test_broken_array_files(tmp_path):
    (tmp_path / "text.npz").write_text("x")
    (tmp_path / "text.pt").write_text("x")
    np.savez(tmp_path / "other.npz", photos=np.zeros(3))
    np.savez(tmp_path / "objects.npz", images=np.array([{}], dtype=object))
    torch.save({"images": Path("x")}, tmp_path / "pickle.pt")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "checkpoint.pt")
    for name in ("text.npz", "text.pt", "other.npz", "objects.npz", "pickle.pt", "checkpoint.pt"):
        with pytest.raises(DataError, match=name) as caught:
            open_small(tmp_path / name)
        assert "\n" not in str(caught.value)


# --- iterables


def test_data_loader_with_and_without_labels():
    images, labels = torch.randn(7, 3, 10, 10), torch.arange(7)
    labelled = open_small(DataLoader(TensorDataset(images, labels), batch_size=3))
    assert everything(labelled)[2].tolist() == list(range(7))
    same(labelled, open_small(images))
    same(open_small(DataLoader(TensorDataset(images), batch_size=3)), open_small(images))
    same(open_small(TensorDataset(images, labels)), open_small(images))


def test_shuffling_loader_is_fixed_at_opening():
    source = open_small(DataLoader(TensorDataset(torch.randn(9, 3, 10, 10)), batch_size=2, shuffle=True))
    same(source, source)


def test_generator_is_read_up_to_the_limit():
    read = []

    def endless():
        while True:
            read.append(1)
            yield {"images": torch.randn(4, 3, 10, 10), "labels": torch.zeros(4)}

    source = open_small(endless(), limit=6)
    assert len(source) == len(everything(source)[0]) == 6
    assert len(read) == 2
    same(source, source)


def test_lists_of_pictures_equal_files(tmp_path, pictures):
    folder = open_small(fill(tmp_path, 6))
    same(open_small([picture(number) for number in range(6)]), folder)
    same(open_small([torch.tensor(pictures[:4]), torch.tensor(pictures[4:])]), folder)
    labelled = open_small([(picture(number), number) for number in range(6)])
    same(labelled, folder)
    assert everything(labelled)[2].tolist() == list(range(6))


# --- iterables that don't fit in memory


def float_batches(count=9, size=10):
    images = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))
    return [(part, torch.arange(len(part))) for part in images.split(4)]


def picture_batches():
    return [(picture(number), number) for number in range(6)] + [(Image.new("F", (20, 20)), 6)]


@pytest.mark.parametrize("make", [float_batches, picture_batches])
@pytest.mark.parametrize("memory_bytes", [0, 2000])
def test_spooled_equals_in_memory(make, memory_bytes, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    kept = open_small(make(), max_bad=0.3)
    spooled = open_small(make(), max_bad=0.3, memory_bytes=memory_bytes)
    assert list(tmp_path.iterdir()) == []  # the file has no name
    assert (spooled.hash, spooled.description, tuple(spooled.keys)) == (
        (kept.hash, kept.description, tuple(kept.keys))
    )
    for order in (None, [5, 0, 6, 2], [3, 3]):
        for batch_size in (1, 4):
            ours, theirs = spooled.batches(batch_size, order), kept.batches(batch_size, order)
            for one, other in zip(ours, theirs, strict=True):
                assert torch.equal(one.images, other.images)
                assert torch.equal(one.indices, other.indices)
                assert torch.equal(one.labels, other.labels)
    assert spooled.bad == kept.bad
    assert len(kept.bad) == (make is picture_batches)


def test_spooled_nan_is_bad():
    images = torch.randn(5, 3, 10, 10)
    images[2, 0, 0, 0] = float("nan")
    for memory_bytes in (0, 10**6):
        source = open_small([images], memory_bytes=memory_bytes)
        assert everything(source)[1].tolist() == [0, 1, 3, 4]
        assert [bad.key for bad in source.bad] == ["image 2"]
        with pytest.raises(DataError, match="1 of 5"):
            open_small([images], memory_bytes=memory_bytes, max_bad=0)


def test_images_beyond_the_limit_leave_the_memory():
    read = []

    def batches():
        for _ in range(30):
            batch = torch.randn(2, 3, 10, 10)
            read.append(weakref.ref(batch))
            yield batch

    source = open_small(batches(), memory_bytes=10 * 1200)
    gc.collect()
    assert sum(batch() is not None for batch in read) <= 1  # the generator's own
    assert source._spool._kept == []
    assert len(everything(source)[0]) == 60


def test_a_full_disk_is_named():
    class Full(io.BytesIO):
        def write(self, content):
            if self.tell() > 5000:
                raise OSError(28, "No space left on device")
            return super().write(content[:1000])  # a disk may take less than it is given

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cnncompress.spool.TemporaryFile", lambda buffering: Full())
        with pytest.raises(DataError, match=r"image 5 fits neither in .*No space left.*TMPDIR"):
            open_small(float_batches(), memory_bytes=0)


# --- datasets with items by number


class Items:
    """The smallest dataset with items by number; counts what is read."""

    def __init__(self, make, count):
        self.make, self.count, self.read = make, count, []

    def __len__(self):
        return self.count

    def __getitem__(self, place):
        self.read.append(place)
        return self.make(place)


def floats(place):
    return torch.full((3, 10, 10), float(place)), place % 4


@pytest.mark.parametrize(
    "make",
    [
        lambda n: (picture(n), n % 4),
        lambda n: {"image": np.asarray(picture(n)), "label": n % 4},
        lambda n: (torch.tensor(np.asarray(picture(n))).permute(2, 0, 1), torch.tensor(n % 4)),
    ],
)
def test_datasets_of_pictures_equal_files(tmp_path, make):
    source = open_small(Items(make, 12), need_labels=True)
    same(source, open_small(fill(tmp_path, 12)))
    assert everything(source)[2].tolist() == [n % 4 for n in range(12)]


def test_a_dataset_is_read_when_it_is_needed():
    items = Items(floats, 1000)
    source = open_small(items, limit=20, seed=1)
    assert len(items.read) <= 16
    items.read.clear()
    images, indices, labels = everything(source)
    assert len(items.read) == len(source) == 20
    assert images[:, 0, 0, 0].tolist() == [float(place) for place in items.read]
    assert labels.tolist() == [place % 4 for place in items.read]
    assert indices.tolist() == list(range(20))
    assert max(items.read) > 100  # a sample of all
    same(source, source)
    assert list(open_small(items, limit=5, seed=1).keys) == list(source.keys[:5])


def test_datasets_are_told_apart_by_their_items():
    first, second = (Items(lambda n, s=start: (picture(s + n), 0), 20) for start in (0, 20))
    one, other = open_small(first), open_small(second)
    assert one.hash != other.hash
    check_disjoint(one, other)
    assert open_small(first).hash == one.hash
    with pytest.raises(DataError, match="20 images are in both"):
        check_disjoint(one, open_small(first))


def test_random_items_are_fixed_at_opening():
    source = open_small(Items(lambda n: (torch.randn(3, 10, 10), n), 20), limit=6)
    same(source, source)
    assert len(set(source.keys)) == 6


def test_a_dataset_of_batches_is_an_iterable():
    images = torch.randn(8, 3, 10, 10)
    source = open_small(Items(lambda n: (images[2 * n : 2 * n + 2], [n, n]), 4), limit=5)
    torch.testing.assert_close(everything(source)[0], images[:5], rtol=0, atol=0)
    assert everything(source)[2].tolist() == [0, 0, 1, 1, 2]


def test_bad_items_are_skipped_and_named():
    def make(place):
        if place == 3:
            raise OSError("broken\nfile")
        odd = {5: None, 6: (torch.full((3, 10, 10), torch.nan), 0), 7: (picture(0), 0), 8: floats(8)[0]}
        return odd.get(place, floats(place))

    source = open_small(Items(make, 20), max_bad=0.3)
    for _ in range(2):
        assert everything(source)[1].tolist() == [0, 1, 2, 4, *range(9, 20)]
    reasons = ("broken file", "got NoneType", "NaN", "not preprocessed", "no label")
    for bad, reason in zip(source.bad, reasons, strict=True):
        assert reason in bad.reason
    with pytest.raises(DataError, match="20 images can't be read"):
        everything(open_small(Items(make, 20)))


def test_unfit_datasets():
    with pytest.raises(DataError, match="no images in it"):
        open_small(Items(floats, 0))
    with pytest.raises(DataError, match=r"none of items 0, 1, 2 can be read: .*got str"):
        open_small(Items(lambda _: "x", 3))
    with pytest.raises(DataError, match="class of each image is needed"):
        open_small(Items(picture, 3), need_labels=True)


def test_mixed_iterables_are_refused():
    with pytest.raises(DataError, match="one kind"):
        open_small([picture(0), torch.randn(1, 3, 10, 10)])
    with pytest.raises(DataError, match="all or none"):
        open_small([(picture(0), 1), picture(1)])
    with pytest.raises(DataError, match="2 labels"):
        open_small([(torch.randn(3, 3, 10, 10), [1, 2])])


def test_without_preprocess_tensors_may_have_any_shape(pictures):
    images = torch.randn(4, 2, 7, 5)
    for given in (images, [images[:3], images[3]]):
        torch.testing.assert_close(everything(open_source(given, preprocess=None))[0], images, rtol=0, atol=0)
    same(open_source(pictures, preprocess=None), open_source(pictures, preprocess=Preprocess()))
    for given in (torch.randn(4, 7, 5), [images, torch.randn(1, 2, 7, 6)]):
        with pytest.raises(DataError, match="shape"):
            open_source(given, preprocess=None)


def test_a_source_opens_as_itself():
    source = open_small(torch.randn(2, 3, 10, 10))
    assert open_small(source) is source


def test_batch_size_is_positive(tmp_path):
    for source in (open_small(fill(tmp_path, 1)), open_small(torch.randn(2, 3, 10, 10))):
        with pytest.raises(DataError, match="at least 1 image"):
            next(source.batches(0))


# --- disjoint


def test_disjoint_folders_pass(tmp_path):
    check_disjoint(open_small(fill(tmp_path / "a", 3)), open_small(fill(tmp_path / "b", 3, first=3)))


def test_shared_file_copy_and_link_are_found(tmp_path):
    calibration = open_small(fill(tmp_path / "a", 3))
    with pytest.raises(DataError, match="3 images are in both"):
        check_disjoint(calibration, open_small(tmp_path / "a"))
    fill(tmp_path / "b", 2, first=5)
    (tmp_path / "b" / "renamed.png").write_bytes((tmp_path / "a" / "001.png").read_bytes())
    with pytest.raises(DataError, match=r"1 image is in .*renamed.png is .*001.png"):
        check_disjoint(calibration, open_small(tmp_path / "b"))
    fill(tmp_path / "c", 2, first=7)
    (tmp_path / "c" / "link.png").symlink_to(tmp_path / "a" / "002.png")
    with pytest.raises(DataError, match="1 image is in both"):
        check_disjoint(calibration, open_small(tmp_path / "c"))


def test_shared_tensor_is_found():
    images = torch.randn(6, 3, 10, 10)
    check_disjoint(open_small(images[:3]), open_small(images[3:]))
    with pytest.raises(DataError, match="1 image is in both"):
        check_disjoint(open_small(images[:4]), open_small(images[3:]))


def test_files_that_differ_in_one_byte_are_no_copies(tmp_path):
    content = encoded(picture(0, size=(60, 60)), "PNG")
    for folder in ("a", "b", "c"):
        (tmp_path / folder).mkdir()
    (tmp_path / "a" / "x.png").write_bytes(content + b"12")
    (tmp_path / "b" / "y.png").write_bytes(content + b"13")
    (tmp_path / "c" / "z.png").write_bytes(content + b"12")
    check_disjoint(open_small(tmp_path / "a"), open_small(tmp_path / "b"))
    with pytest.raises(DataError, match=r"z\.png is .*x\.png"):
        check_disjoint(open_small(tmp_path / "a"), open_small(tmp_path / "c"))


def test_a_file_named_like_an_ending_is_no_image(tmp_path):
    fill(tmp_path, 2)
    for name in ("png", "x.", "x"):
        (tmp_path / name).write_bytes(b"")
    assert len(open_small(tmp_path)) == 2


def test_a_folder_behind_a_link_is_the_folder(tmp_path, monkeypatch):
    folder = open_small(fill(tmp_path / "a" / "sub", 3).parent)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    for path in ("link", "./a/sub/..", "a"):
        source = open_small(path)
        assert list(source.keys) == list(folder.keys)
        assert source.hash == folder.hash
