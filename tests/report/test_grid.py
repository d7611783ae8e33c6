"""Tables keep every number whole on any terminal, and every letter of a name."""

import random
import re

import pytest

from simulator.report.grid import Column, grid, marked, wrapped

LONG = "schedule:[[1,1,8],[2,4,7],[5,8,6],[9,16,5],[17,32,4],[33,64,3],[65,128,2],[129,512,0]]"


def table(seed: int) -> list[Column]:
    rng = random.Random(seed)
    names = [LONG[: rng.randint(1, len(LONG))] for _ in range(4)]
    numbers = [[f"{10 ** rng.randint(0, 9) * rng.random():.2f}" for _ in names] for _ in range(rng.randint(1, 12))]
    columns = [Column(f"column\n{i}", cells) for i, cells in enumerate(numbers)]
    return [
        Column("policy", names, number=False),
        *columns,
        *[Column("why", names[::-1], number=False)] * rng.randint(0, 1),
    ]


@pytest.mark.parametrize("seed", range(60))
def test_nothing_is_cut_and_lines_fit(seed: int) -> None:
    columns, width = table(seed), random.Random(-seed).choice((40, 60, 80, 120, 132, 200))
    lines = grid(columns, width)
    assert max(map(len, lines)) <= width
    words = " ".join(lines).split()
    for column in columns:
        for cell in column.cells:
            assert not column.number or cell in words
    for name in columns[0].cells:
        assert name in re.sub(
            r"\s", "", "".join(line[1 : 1 + min(len(LONG), width)] for line in grid(columns[:1], width))
        )


@pytest.mark.parametrize("width", [7, 18, 24, 60])
def test_a_wrapped_name_keeps_its_letters_and_its_beginning(width: int) -> None:
    parts = wrapped(LONG, width)
    assert "".join(parts) == LONG
    assert all(len(part) <= width for part in parts)
    assert parts[0] == LONG[: len(parts[0])]


def test_where_all_fits_a_row_is_a_line() -> None:
    columns = [Column("policy", ["none", "das"], number=False), Column("makespan\ns", ["12.50", "7.25"])]
    assert grid(columns, 80) == [
        "         makespan",
        " policy         s",
        " ────────────────",
        " none       12.50",
        " das         7.25",
    ]


def test_a_number_wider_than_the_terminal_is_whole_all_the_same() -> None:
    assert "123,456,789,012" in "\n".join(grid([Column("a", ["b"], number=False), Column("n", ["123,456,789,012"])], 8))


def test_a_lossy_row_says_so() -> None:
    assert marked("dler", lossless=False) == "dler (lossy)"
    assert marked("das", lossless=True) == "das"
