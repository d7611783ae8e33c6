"""Lines of Prometheus text, as engines serve their metrics."""

import re
from collections.abc import Iterator
from typing import NamedTuple

_SAMPLE = re.compile(r"(?P<name>[a-zA-Z_:][\w:]*)(?:\{(?P<labels>.*)\})?\s+(?P<value>\S+)(?:\s+\S+)?$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class Sample(NamedTuple):
    """One value as it is written, with its labels; the name of a counter is without `_total`."""

    line: int
    name: str
    labels: dict[str, str]
    value: str


def samples(text: str) -> Iterator[Sample]:
    """The samples of a text, one by one; comments and what is none are left out."""
    for number, line in enumerate(text.splitlines(), 1):
        found = _SAMPLE.match(line.strip())
        if found is not None and not line.lstrip().startswith("#"):
            labels = dict(_LABEL.findall(found["labels"] or ""))
            yield Sample(number, found["name"].removesuffix("_total"), labels, found["value"])
