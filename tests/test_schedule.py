"""Groups along depth (Ioannou et al., Deep Roots, section 4.2 and tables 1, 3 and 7)."""

import pytest

from cnncompress.errors import OptionError
from cnncompress.zoo.schedule import KINDS, schedule


@pytest.mark.parametrize(
    ("kind", "n", "stages", "degrees"),
    [
        ("root", 2, 2, (2, 1)),
        ("root", 8, 2, (8, 4)),
        ("column", 4, 2, (4, 4)),
        ("tree", 4, 2, (4, 8)),
        ("root", 8, 4, (8, 4, 2, 1)),
        ("root", 64, 4, (64, 32, 16, 8)),
        ("root", 4, 4, (4, 2, 1, 1)),
        ("root", 24, 4, (24, 12, 6, 3)),
        ("tree", 3, 3, (3, 6, 12)),
    ],
)
def test_degrees_of_the_papers_tables(kind: str, n: int, stages: int, degrees: tuple[int, ...]) -> None:
    assert schedule(kind, n, stages) == degrees


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stages", [1, 3, 5])
def test_the_first_stage_has_the_groups_that_were_asked_for(kind: str, stages: int) -> None:
    degrees = schedule(kind, 16, stages)
    assert (degrees[0], len(degrees)) == (16, stages)


@pytest.mark.parametrize("stages", [1, 2, 4])
def test_without_groups_a_root_and_a_column_are_the_original(stages: int) -> None:
    assert schedule("root", 1, stages) == schedule("column", 1, stages) == (1,) * stages


@pytest.mark.parametrize(
    ("kind", "n", "stages", "message"),
    [
        ("roots", 4, 2, "unknown schedule 'roots'; did you mean root"),
        ("bush", 4, 2, "unknown schedule 'bush'; known: column, root, tree"),
        ("root", 0, 2, "at least 1, got 0 groups and 2 stages"),
        ("tree", 4, 0, "at least 1, got 4 groups and 0 stages"),
        ("root", 6, 3, "root: 6 groups can't be halved over 3 stages, 3 is odd; .* multiple of 4"),
    ],
)
def test_what_can_not_be_says_why(kind: str, n: int, stages: int, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        schedule(kind, n, stages)
