"""Tables in plain text: numbers are never cut, names wrap, and where a line is too short the numbers go on in a further block."""

from collections.abc import Sequence
from itertools import zip_longest
from typing import NamedTuple

GAP = "  "
PIPED = 132
"""Letters of a line where there is no terminal."""
NAME_LEAST, TEXT_LEAST = 18, 22
"""Letters that a name or another text gets at least before a table is divided, unless all are shorter."""


class Column(NamedTuple):
    """heading: may have several lines; cells: one a row; number: aligned right and kept whole, else a text that may wrap."""

    heading: str
    cells: Sequence[str]
    number: bool = True

    @property
    def width(self) -> int:
        """Letters of its longest line."""
        return max(map(len, [*self.heading.split("\n"), *self.cells]), default=0)


def grid(columns: Sequence[Column], width: int) -> list[str]:
    """Return the lines of a table within `width` letters; the first column names the rows, in every block again.

    Only where one number beside a name of NAME_LEAST letters takes more than `width` is a line longer than that.
    """
    name, *rest = columns
    half = max((width - 1 - len(GAP)) // 2, 1)
    least = [min(name.width, NAME_LEAST, half)]
    least += [one.width if one.number else min(one.width, TEXT_LEAST, half) for one in rest]
    blocks: list[list[int]] = [[]]
    for at in range(1, len(columns)):
        if blocks[-1] and _total([least[0], *(least[i] for i in blocks[-1]), least[at]]) > width:
            blocks.append([])
        blocks[-1].append(at)
    lines: list[str] = []
    for block in blocks:
        shown, widths = [name, *(columns[at] for at in block)], [least[0], *(least[at] for at in block)]
        for i, one in enumerate(shown):  # what is left over goes to texts, the name first
            widths[i] = min(one.width, widths[i] + max(width - _total(widths), 0))
        lines += [*([""] if lines else []), *_block(shown, widths)]
    return lines


def marked(name: str, lossless: bool) -> str:
    """The name of a row, which says so where outputs do not keep the target model's distribution."""
    return name if lossless else f"{name} (lossy)"


def wrapped(text: str, width: int) -> list[str]:
    """Break a text into lines of at most `width` letters: behind a bracket, a space or a mark if one is near, else anywhere."""
    lines = []
    while len(text) > width:
        ends = (
            max(text.rfind(mark, width // 2, width) + len(mark) for mark in marks) for marks in (("],", "},"), " ,:;/")
        )
        cut = next((end for end in ends if end > width // 2), width)
        lines.append(text[:cut].rstrip())
        text = text[cut:].lstrip()
    return [*lines, text]


def _total(widths: Sequence[int]) -> int:
    return 1 + sum(widths) + len(GAP) * (len(widths) - 1)


def _block(columns: Sequence[Column], widths: Sequence[int]) -> list[str]:
    headings = [one.heading.split("\n") for one in columns]
    high = max(map(len, headings))
    head = [[""] * (high - len(one)) + one for one in headings]
    rows = zip(*(one.cells for one in columns), strict=True)
    body = [
        [[cell] if one.number else wrapped(cell, size) for one, cell, size in zip(columns, row, widths, strict=True)]
        for row in rows
    ]
    rule = " " + "─" * (_total(widths) - 1)
    return [*_lines(head, columns, widths), rule, *(line for row in body for line in _lines(row, columns, widths))]


def _lines(cells: Sequence[Sequence[str]], columns: Sequence[Column], widths: Sequence[int]) -> list[str]:
    """A row of the table, of as many lines as its longest cell has."""
    return [
        " " + GAP.join(
            text.rjust(size) if one.number else text.ljust(size)
            for one, text, size in zip(columns, line, widths, strict=True)
        ).rstrip()
        for line in zip_longest(*cells, fillvalue="")
    ]  # fmt: skip
