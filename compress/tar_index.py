"""What lies where in tar shards, from one pass over their headers; nothing is extracted.

The layout is that of webdataset (https://github.com/webdataset/webdataset): members that follow each other
and agree up to the first dot of the file name are one sample, for example ``a/0001.jpg`` and ``a/0001.cls``.
"""

import json
import os
import tarfile
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from cnncompress.errors import DataError
from cnncompress.image_decoding import SUFFIXES

COMPRESSED = {
    b"\x1f\x8b": "gunzip",
    b"\x28\xb5\x2f\xfd": "unzstd",
    b"\xfd7zXZ": "unxz",
    b"BZh": "bunzip2",
    b"\x04\x22\x4d\x18": "unlz4",
}
_LONGEST_CLASS = 200  # bytes; what is longer is a caption
_LONGEST_JSON = 2**20  # bytes


class Member(NamedTuple):
    """One file within a shard: name, and where its bytes are."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class TarIndex:
    """The samples of some shards that hold an image, at about 60 bytes each.

    Attributes:
        shards: the archives.
        shard: int32 (samples,), which of them holds it.
        offset: int64 (samples,), where the image's bytes begin in it.
        size: int64 (samples,), bytes of the image.
        names: the images' names in UTF-8, one after another.
        ends: int64 (samples,), where each name ends in ``names``.
        label: int32 (samples,), position in ``classes``, -1 where a sample has no class.
        classes: their names or numbers, as they are written.
        without_image: number of samples that hold no image and are passed over.
    """

    shards: tuple[Path, ...]
    shard: npt.NDArray[np.int32]
    offset: npt.NDArray[np.int64]
    size: npt.NDArray[np.int64]
    names: bytes
    ends: npt.NDArray[np.int64]
    label: npt.NDArray[np.int32]
    classes: tuple[str, ...]
    without_image: int

    def __len__(self) -> int:
        return len(self.shard)

    def name(self, position: int) -> str:
        """Name of an image within its shard.

        Args:
            position: of the sample.

        Returns:
            With forward slashes.
        """
        return self._encoded(position).decode("utf-8", "surrogateescape")

    def take(self, positions: Sequence[int]) -> "TarIndex":
        """Choose samples.

        Args:
            positions: of these, in any order.

        Returns:
            An index of them alone, in this order.
        """
        chosen = np.asarray(positions, dtype=np.int64)
        encoded = [self._encoded(position) for position in positions]
        return replace(
            self,
            shard=self.shard[chosen],
            offset=self.offset[chosen],
            size=self.size[chosen],
            names=b"".join(encoded),
            ends=np.cumsum([len(name) for name in encoded], dtype=np.int64),
            label=self.label[chosen],
        )

    def _encoded(self, position: int) -> bytes:
        return self.names[self.ends[position - 1] if position else 0 : self.ends[position]]


def read_index(shards: Sequence[Path]) -> TarIndex:
    """Look through the headers of some shards.

    Args:
        shards: uncompressed tar archives, in the order of the samples.

    Returns:
        The samples with an image. Links, hidden files and files without an extension count for nothing.

    Raises:
        DataError: one is compressed, no archive, truncated or damaged, or a sample has several images.
    """
    found = _Found()
    for number, shard in enumerate(shards):
        try:
            with shard.open("rb") as file:
                for sample in _samples(_members(shard, file)):
                    found.add(number, shard, file, sample)
        except OSError as error:
            raise DataError(f"{shard}: can't be read ({error.strerror or error})") from None
    return found.index(shards)


class _Found:
    """The samples found so far, in arrays that grow."""

    def __init__(self) -> None:
        self._columns = {name: array(kind) for name, kind in _COLUMNS.items()}
        self._names = bytearray()
        self._classes: dict[str, int] = {}
        self._without_image = 0

    def add(self, number: int, shard: Path, file: BinaryIO, sample: Sequence[Member]) -> None:
        """Note a sample, if it holds an image."""
        image = _image(sample, shard)
        if image is None:
            self._without_image += 1
            return
        label = _label(sample, file)
        self._names += image.name.encode("utf-8", "surrogateescape")
        row = {
            "shard": number,
            "offset": image.offset,
            "size": image.size,
            "ends": len(self._names),
            "label": -1 if label is None else self._classes.setdefault(label, len(self._classes)),
        }
        for name, value in row.items():
            self._columns[name].append(value)

    def index(self, shards: Sequence[Path]) -> TarIndex:
        """All of them."""
        return TarIndex(
            shards=tuple(shards),
            names=bytes(self._names),
            classes=tuple(self._classes),
            without_image=self._without_image,
            **{name: np.array(column) for name, column in self._columns.items()},
        )


_COLUMNS = {"shard": "i", "offset": "q", "size": "q", "ends": "q", "label": "i"}


def _members(shard: Path, file: BinaryIO) -> Iterator[Member]:
    """The regular files of an archive whose bytes are all there."""
    length = os.fstat(file.fileno()).st_size
    _check_plain(shard, _read(file, 0, 8))
    file.seek(0)
    offset = 0
    try:
        archive = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115  # the file is the caller's
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # it would keep a kilobyte for each
            if not offset <= member.offset < archive.offset or member.size < 0:
                raise tarfile.ReadError("a header points backwards")
            offset = archive.offset
            if offset > length:
                raise DataError(
                    f"{shard}: truncated, it ends at byte {length} within {member.name}; fetch it again"
                )
            if member.isreg() and not member.issparse():
                yield Member(member.name.removeprefix("./"), member.offset_data, member.size)
    except (DataError, OSError):
        raise
    except Exception as error:  # damaged headers provoke whatever comes up
        kind = "no tar archive" if offset == 0 else f"damaged at byte {offset}"
        raise DataError(f"{shard}: {kind} ({error or type(error).__name__}); fetch it again") from None
    _check_end(shard, _read(file, offset, tarfile.BLOCKSIZE), offset)


def _read(file: BinaryIO, offset: int, count: int) -> bytes:
    file.seek(offset)  # tarfile looks where it is before it reads on
    return file.read(count)


def _check_plain(shard: Path, head: bytes) -> None:
    for magic, program in COMPRESSED.items():
        if head.startswith(magic):
            raise DataError(
                f"{shard}: compressed, so that single images can't be reached; decompress it first "
                f"({program} {shard.name}); images shrink no further anyway"
            )


def _check_end(shard: Path, block: bytes, offset: int) -> None:
    # tarfile takes a damaged header for the end of the archive
    if len(block) not in {0, tarfile.BLOCKSIZE}:
        raise DataError(f"{shard}: truncated, it ends within a header at byte {offset}; fetch it again")
    if any(block):
        raise DataError(f"{shard}: damaged at byte {offset}, no header there; fetch it again")


def _samples(members: Iterator[Member]) -> Iterator[list[Member]]:
    """Runs of members that agree up to the first dot of the file name."""
    sample: list[Member] = []
    current = ""
    for member in members:
        folder, slash, file_name = member.name.rpartition("/")
        stem, _, extension = file_name.partition(".")
        if not stem or not extension:
            continue
        if folder + slash + stem != current:
            if sample:
                yield sample
            sample, current = [], folder + slash + stem
        sample.append(member)
    if sample:
        yield sample


def _extension(member: Member) -> str:
    return "." + member.name.rpartition("/")[2].partition(".")[2].lower()


def _image(sample: Sequence[Member], shard: Path) -> Member | None:
    # x.jpg before x.mask.png, which is the image only where it is alone
    images = [member for member in sample if _extension(member) in SUFFIXES]
    images = images or [member for member in sample if Path(_extension(member)).suffix in SUFFIXES]
    if len(images) > 1:
        raise DataError(
            f"{shard}: {images[0].name} and {images[1].name} are two images of one sample, names count up to "
            "the first dot; rename or leave out one of the two"
        )
    return images[0] if images else None


def _label(sample: Sequence[Member], file: BinaryIO) -> str | None:
    for member in sample:
        if _extension(member) == ".cls" and member.size <= _LONGEST_CLASS:
            text = _read(file, member.offset, member.size)
            return _text(text.decode("utf-8", "replace").strip())
    for member in sample:
        if _extension(member) == ".json" and member.size <= _LONGEST_JSON:
            return _json_label(_read(file, member.offset, member.size))
    return None


def _json_label(content: bytes) -> str | None:
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError):
        return None
    label = fields.get("label", fields.get("cls")) if isinstance(fields, dict) else None
    if isinstance(label, bool) or not isinstance(label, int | str):
        return None
    return _text(str(label).strip())


def _text(label: str) -> str | None:
    return label if label and label.isprintable() and "\ufffd" not in label else None
