"""Policies and drafters that raise, answer nonsense, change what they are shown, print, or end the process."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.hostile.cases import PROFILE, Case, Done
from tests.hostile.settings import _trace

ANSWERS = (
    *(
        "None",
        "1",
        "'x'",
        "[]",
        "[0]",
        "{}",
        "object()",
        "[0] * (view.live + 1)",
        "[-1] * view.live",
        "[1.5] * view.live",
    ),
    *(
        "[float('nan')] * view.live",
        "[10**30] * view.live",
        "[None] * view.live",
        "['1'] * view.live",
        "[[0]] * view.live",
    ),
    *(
        "iter([0] * view.live)",
        "[256] * view.live",
        "[True] * view.live",
        "[2] * view.live",
        "np.zeros((view.live, 1))",
    ),
    *(
        "np.full(view.live, 1e300)",
        "1 / 0",
        "raise_(MemoryError())",
        "raise_(SystemExit(0))",
    ),
    *("raise_(Exception())", "sys.exit('gone')", "raise_(RecursionError())", "raise_(StopIteration())"),
    *("raise_(ValueError('é\\n\\x1b[31m' * 2000))", "view.seen.fill(0) or [0] * view.live"),
    *("setattr(view, 'live', 3) or [0] * 3", "print('told') or [0] * view.live"),
    *("np.asarray(view.requests.prompt).fill(9) or [0] * view.live",),
)
EVERY = ("1", "0", "-1", "10**30", "1.5", "None", "'x'", "True")
MODULE = """
import sys
import numpy as np
def raise_(error):
    raise error
class Policy:
    every = {every}
    def __call__(self, view):
        return {answer}
policy = Policy()
"""
DRAFTER = """
import numpy as np
class Drafter:
    lossless, learns_from, window, needs_tokens, cost = {fields}
    def describe(self):
        return {described}
    def accept(self, *arguments, **named):
        return {answer}
"""


def policies(seed: int, count: int) -> Iterator[Case]:
    """Every nonsense that a policy may answer, asked as often as it may want."""
    replay = (
        "replay",
        "trace.parquet",
        "--profile",
        PROFILE,
        "--policy",
        "none",
        "--policy",
        "theirs:policy",
        "--json",
    )
    cases = [(answer, "1") for answer in ANSWERS] + [("[1] * view.live", every) for every in EVERY]
    for number in range(count):
        answer, every = cases[(number + seed) % len(cases)]
        yield Case(
            f"policy answers {answer}, every {every}", replay, _module(MODULE.format(every=every, answer=answer)), _json
        )


def drafters(seed: int, count: int) -> Iterator[Case]:
    """Drafters that lack what a drafter has, or answer something else."""
    flags = ("--policy", "none", "--policy", "fixed:2", "--drafter", "theirs:Drafter", "--json")
    replay = ("replay", "trace.parquet", "--profile", PROFILE, *flags)
    fields = (
        "True, ('own',), 0, True, None",
        "None, None, None, None, None",
        "True, 'x', -1, True, 5",
        "1, (), 10**30, False, 'x'",
    )
    answers = ("None", "1", "[]", "np.zeros(3)", "1 / 0", "(None, None)", "object()")
    described = ("'theirs'", "None", "1 / 0", "5", "'x' * 9999")
    every = [(one, told, answer) for one in fields for told in described for answer in answers]
    for number in range(count):
        one, told, answer = every[(number + seed) % len(every)]
        text = DRAFTER.format(fields=one, described=told, answer=answer)
        yield Case(f"drafter of {one}, described {told}, accepts {answer}", replay, _module(text), _json)


def _module(text: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / "trace.parquet").write_bytes(_trace())
        (folder / "theirs.py").write_text(text)

    return make


def _json(done: Done, folder: Path) -> bool:
    return bool(json.loads(done.out)["runs"])
