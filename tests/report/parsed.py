"""A page taken apart, and what holds of every page."""

import re
from html.parser import HTMLParser
from itertools import pairwise

VOID = {"meta", "line", "rect", "path", "br", "link", "img"}


class Read(HTMLParser):
    """A page taken apart: every element closed that was opened, its attributes, tables as rows of text, headings."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.captions: list[str] = []
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in {"td", "th"}:
            self.tables[-1][-1].append("")
        elif tag == "caption":
            self.captions.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data
        if "caption" in self.open:
            self.captions[-1] += data
        elif {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def checked(text: str) -> Read:
    """The page, once everything holds that holds of every page."""
    read = Read(text)
    assert not read.open
    assert not {"script", "img", "iframe", "object", "link", "form", "base"} & {name for name, _ in read.elements}
    assert not [one for _, one in read.elements if {"src", "href", "srcset", "xlink:href"} & one.keys()]
    assert not [key for _, one in read.elements for key in one if key.startswith("on")]
    assert not re.search(
        r"url\(|@import|https?://[^ <]*['\"]?\s*>", text[text.index("<style>") : text.index("</style>")]
    )
    (policy,) = [one["content"] for one in read.named("meta") if "http-equiv" in one]
    assert (policy or "").startswith("default-src 'none'; style-src 'unsafe-inline'")
    levels = [int(name[1]) for name, _ in read.elements if re.fullmatch("h[1-6]", name)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = [one["id"] for _, one in read.elements if "id" in one]
    assert len(set(ids)) == len(ids)
    assert {one["aria-labelledby"] for _, one in read.elements if "aria-labelledby" in one} <= set(ids)
    assert len(read.captions) == len(read.tables)
    assert all("scope" in one for one in read.named("th"))
    outer = [one for one in read.named("svg") if "viewbox" not in one or "role" in one]
    assert all(one.get("aria-hidden") == "true" or one.get("aria-label") for one in outer)
    for table in read.tables:
        assert len({len(row) for row in table}) == 1
    return read
