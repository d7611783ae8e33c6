"""A real engine and its version, as `vllm==0.33` or `sglang`: whether its settings are known here."""

import difflib
from dataclasses import dataclass
from typing import NamedTuple

from packaging.version import InvalidVersion, Version

from traces.errors import InputError


class Known(NamedTuple):
    """The releases whose sources were read for what is emitted."""

    oldest: Version
    newest: Version


KNOWN = {
    "vllm": Known(Version("0.10"), Version("0.33")),
    "sglang": Known(Version("0.5.1"), Version("0.5.23")),
}
"""Before these vLLM drafted in another engine (V0), and SGLang other flags."""


@dataclass(frozen=True)
class Engine:
    """name: `vllm` or `sglang`; version: the release asked for; assumed: whether it was not said, and so is the newest known."""

    name: str
    version: Version
    assumed: bool = False

    def __str__(self) -> str:
        """As it is asked for."""
        return f"{self.name}=={self.version}"

    @property
    def too_new(self) -> bool:
        """Whether the release is newer than any that was read; patches of the newest are not."""
        newest = KNOWN[self.name].newest.release
        return self.version.release[: len(newest)] > newest

    def since(self, version: str) -> bool:
        """Whether what came with `version` is there; candidates and builds of a release count as it."""
        return self.version.release >= Version(version).release


def parse_engine(text: str) -> Engine:
    """Read `NAME` or `NAME==VERSION`; InputError says which names and releases are known."""
    name, pinned, release = text.strip().partition("==")
    name = name.strip().lower()
    if name not in KNOWN:
        near = difflib.get_close_matches(name, KNOWN, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(f"engine {text[:60]!r}: {hint}use {' or '.join(KNOWN)}, with ==VERSION behind it or without")
    known = KNOWN[name]
    if not pinned:
        return Engine(name, known.newest, assumed=True)
    try:
        version = Version(release)
    except InvalidVersion:
        raise InputError(
            f"engine {text[:60]!r}: {release[:40]!r} is no version: write for example {name}=={known.newest}"
        ) from None
    if version.release < known.oldest.release:
        raise InputError(
            f"engine {text[:60]!r}: settings are known from {name} {known.oldest} to {known.newest}: upgrade {name}, or name the "
            "release that you will run"
        )
    return Engine(name, version)
