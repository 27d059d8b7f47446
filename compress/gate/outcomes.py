"""Which images a network gets right, in a form that keeps: a bit for each image of a list."""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnncompress.answers import Answers
from cnncompress.errors import DataError

Bits = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """Right and wrong answers of one network on a list of images.

    Attributes:
        read: whether the image could be read.
        top1: whether the class with the largest score was right; False where the image couldn't be read.
        top5: whether the right class was among the best five; None where there are no more than five.
    """

    read: Bits
    top1: Bits
    top5: Bits | None

    @classmethod
    def of(cls, answers: Answers, images: int) -> "Outcomes":
        """What answers amount to.

        Args:
            answers: of a network on images with labels.
            images: length of their list, unreadable ones included.

        Returns:
            One entry for each image of the list.

        Raises:
            DataError: the images have no labels.
        """
        if answers.correct is None:
            raise DataError("the images have no labels, so there is no accuracy")

        def spread(values: NDArray[Any]) -> Bits:
            bits = np.zeros(images, dtype=bool)
            bits[answers.indices] = values
            return bits

        return cls(
            read=spread(np.ones(len(answers.indices), dtype=bool)),
            top1=spread(answers.correct),
            top5=None if answers.in_top5 is None else spread(answers.in_top5),
        )

    def to_json(self) -> dict[str, Any]:
        """The bits as text.

        Returns:
            A dictionary that `from_json` reads back: eight images a byte, in base64.
        """
        columns = {"read": self.read, "top1": self.top1, "top5": self.top5}
        return {name: None if bits is None else _packed(bits) for name, bits in columns.items()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], images: int) -> "Outcomes":
        """Read what `to_json` wrote.

        Args:
            value: the fields.
            images: length of the list.

        Returns:
            The outcomes.

        Raises:
            ValueError: a field is missing or doesn't hold a bit for each image.
        """
        if not isinstance(value, Mapping):
            raise ValueError("outcomes are missing")
        top5 = value.get("top5")
        return cls(
            read=_unpacked(value.get("read"), images),
            top1=_unpacked(value.get("top1"), images),
            top5=None if top5 is None else _unpacked(top5, images),
        )


def _packed(bits: Bits) -> str:
    return base64.b64encode(np.packbits(bits).tobytes()).decode("ascii")


def _unpacked(text: Any, images: int) -> Bits:
    if not isinstance(text, str):
        raise ValueError("a row of bits is missing")
    try:
        packed = np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint8)
    except binascii.Error as error:
        raise ValueError(f"a row of bits can't be read ({error})") from None
    if len(packed) != -(-images // 8):
        raise ValueError(f"a row of bits has {len(packed)} bytes, {images} images need {-(-images // 8)}")
    return np.unpackbits(packed, count=images).astype(bool)
