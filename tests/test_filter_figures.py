"""Pictures of filters: small, of the page's colours, and the right tile in the right place."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from cnncompress.filter_figures import color_clouds, filter_tiles


@pytest.fixture
def filters(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    before, after = rng.normal(size=(2, 12, 3, 5, 5))
    return before, after


def pictures(svg: str) -> list[Image.Image]:
    found = re.findall(r"data:image/png;base64,([^\"]+)", svg)
    return [Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA") for data in found]


@pytest.mark.parametrize("draw", [color_clouds, filter_tiles])
def test_figures_are_small_and_leave_their_colours_to_the_page(
    draw: object, rng: np.random.Generator
) -> None:
    before, after = rng.normal(size=(2, 96, 3, 11, 11))
    svg = draw(before, after)  # type: ignore[operator]  # parametrized
    assert len(svg) < 300_000
    assert set(re.findall(r"#[0-9a-fA-F]{6}\b", svg)) <= {"#000000"}
    assert "original" in svg
    assert "replaced" in svg
    assert svg == draw(before, after)  # type: ignore[operator]  # parametrized


def test_each_filter_is_stretched_over_its_own_range(filters: tuple[np.ndarray, np.ndarray]) -> None:
    before, _ = filters
    scaled = before * np.arange(1, 13)[:, None, None, None] - 7
    left, right = pictures(filter_tiles(before, scaled))
    np.testing.assert_allclose(np.asarray(left, int), np.asarray(right, int), atol=1)


def test_a_tile_shows_its_filter(filters: tuple[np.ndarray, np.ndarray]) -> None:
    before, after = filters
    # the darkest and the brightest entry of the second filter
    before[1], after[1] = 0.0, 0.0
    before[1, :, 0, 0], before[1, :, 4, 4], before[1, 0, 0, 4] = -1, 1, 1
    left, right = (np.asarray(one) for one in pictures(filter_tiles(before, after)))
    # 12 filters lie in 4 columns; between them one can see through
    size = next(column for column in range(left.shape[1]) if left[0, column, 3] == 0)
    gap = next(column for column in range(left.shape[1]) if left[0, size + column, 3] != 0)
    tile = left[:size, size + gap : 2 * size + gap]
    assert left.shape[:2] == (3 * size + 2 * gap, 4 * size + 3 * gap)
    assert tile[0, 0].tolist() == [0, 0, 0, 255]
    assert tile[-1, -1].tolist() == [255, 255, 255, 255]
    assert tile[0, -1].tolist() == [255, 128, 128, 255]
    assert (right[:size, size + gap : 2 * size + gap] == [128, 128, 128, 255]).all()


def test_points_lie_where_the_filters_are() -> None:
    gray = np.ones((4, 3, 2, 2)) * np.linspace(-1, 1, 4).reshape(1, 1, 2, 2)
    line, cloud = (
        color_clouds(gray, gray),
        color_clouds(gray, np.random.default_rng(0).normal(size=gray.shape)),
    )
    assert line != cloud
    inked = [np.asarray(one)[..., 3].astype(bool).sum() for one in pictures(cloud)]
    assert all(inked)


@pytest.mark.parametrize("count", [1, 7])
def test_any_number_of_filters_and_of_zeros_is_drawn(count: int) -> None:
    nothing = np.zeros((count, 3, 3, 3))
    assert len(pictures(filter_tiles(nothing, nothing))) == 2
    assert color_clouds(nothing, nothing).startswith("<svg")
