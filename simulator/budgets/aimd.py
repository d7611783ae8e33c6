"""A window per sequence that grows while drafts are accepted whole (RhymeRL's HistoSpec, arXiv 2508.18588)."""

from dataclasses import dataclass
from typing import Literal

from simulator.budgets.context import Context
from simulator.budgets.following import Follows
from simulator.budgets.policy import UNLIMITED
from simulator.budgets.trees import chains_only
from simulator.spec import one_of, read, refuse, whole

CAPS = {"add": 32, "double": 16}


@dataclass(frozen=True)
class Settings:
    """`aimd:variant=add|double,start=K,cap=K`, each with a default.

    variant: add grows by 2 and falls back to the start, as the paper has it; double doubles and halves, never below the
    start, as the released code has it. cap: largest window (default 32 for add, 16 for double).
    """

    variant: Literal["add", "double"] = "add"
    start: int = 2
    cap: int | None = None

    @property
    def largest(self) -> int:
        """The largest window."""
        return CAPS[self.variant] if self.cap is None else self.cap


READERS = {"variant": one_of(*CAPS), "start": whole(1, UNLIMITED), "cap": whole(1, UNLIMITED)}


def aimd(argument: str, context: Context) -> Follows:
    """A draft window per sequence: wider after a draft accepted whole, narrower after any other step."""
    chains_only("aimd", argument, context)
    settings = Settings(**read("aimd", argument, READERS))
    if settings.start > settings.largest:
        refuse("aimd", argument, f"has start={settings.start} above cap={settings.largest}: give start <= cap")
    double = settings.variant == "double"
    return Follows(settings.start, window=True, double=double, low=settings.start, high=settings.largest, delta=2)
