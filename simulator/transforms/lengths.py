"""Responses that get shorter or longer from RL step to RL step, up to a cap (DLER, 2510.15110; Long CoT, 2502.03373)."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from simulator.spec import number, read, refuse, whole
from simulator.transforms.tables import BY_TOKEN, cut, end_facts, recorded, with_column, with_values, without
from traces.errors import UnfitTraceError
from traces.trace import Trace

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

MOST_TOKENS = 2**31 - 1


def scaled(trace: Trace, factor: Float64, cap: int, name: str) -> Trace:
    """The trace with every response `factor` times as long, float64[n], and at most `cap` tokens; `name`: of the transform.

    Lengths are rounded to whole tokens, one at least. What the cap cuts ends by length, with reward 0 where the trace has
    rewards. Responses that were only cut keep their first tokens; once any is scaled, no token of any is known.
    """
    recorded_tokens = trace.output_tokens.astype(np.int64)
    wanted = np.maximum(np.rint(recorded_tokens * factor), 1)
    lengths = np.minimum(wanted, cap).astype(np.int64)
    too_long = wanted > cap
    if (lengths == recorded_tokens).all() and not too_long.any():
        return trace
    if (wanted == recorded_tokens).all():
        made = cut(trace, lengths)
    elif recorded(trace, "turns"):
        raise UnfitTraceError(
            f"{trace.source}: transform {name}: its rollouts have turns, and nothing says how those are scaled: leave them out"
        )
    else:
        made = with_column(without(trace, BY_TOKEN), "output_tokens", lengths)
    if not too_long.any():
        return made
    return _ended(made, too_long)


def _ended(trace: Trace, too_long: npt.NDArray[np.bool_]) -> Trace:
    """The trace with these rollouts ended by length."""
    made = with_values(trace, "finish_reason", too_long, "length")
    return with_values(made, "reward", too_long, 0.0) if recorded(trace, "reward") else made


@dataclass(frozen=True)
class Compress:
    """Lengths shrink from RL step to RL step, and a cap cuts what is still too long.

    to: what a response's length comes down to, over what it was; over: RL steps that this takes, None: to the trace's last one;
    cap: tokens, or cap_share of the mean response of the trace's first RL step; neither: no cap.
    """

    to: float = 1.0
    over: int | None = None
    cap: int | None = None
    cap_share: float | None = None
    name = "compress"
    lossless = False

    @property
    def assumes(self) -> str:
        """What the law of lengths is."""
        when = "over the RL steps of the trace" if self.over is None else f"over {self.over} RL steps"
        shrinks = f"every response shrinks to {self.to:g} of its length, by the same factor each RL step, {when}"
        capped = f"cut at {self._cap} with reward 0" if self._cap else ""
        return "compress: " + "; ".join(filter(None, [shrinks if self.to != 1 else "", capped])) or "compress: nothing"

    def rollouts(self, trace: Trace, seed: int) -> Trace:
        """Shorten the responses: in RL step j by to ** min(j / over, 1)."""
        begun, over = trace.steps[0], trace.steps[-1] - trace.steps[0] if self.over is None else self.over
        if over == 0 and self.over is None and self.to != 1:
            raise UnfitTraceError(
                f"{trace.source}: transform compress: one RL step only, and nothing has shrunk in it: say over=0 for all at once"
            )
        done = np.minimum((trace.step - begun) / over, 1.0) if over else np.ones(len(trace))
        return scaled(trace, self.to**done, self._tokens(trace), self.name)

    def facts(self, trace: Trace) -> Mapping[str, float]:
        """Mean tokens, truncation share and mean reward of a trace that it made."""
        return end_facts(trace)

    @property
    def _cap(self) -> str:
        return f"{self.cap} tokens" if self.cap else f"{self.cap_share:g} of the first mean" if self.cap_share else ""

    def _tokens(self, trace: Trace) -> int:
        if self.cap_share is None:
            return self.cap or MOST_TOKENS
        first = trace.output_tokens[trace.step == trace.steps[0]]
        return max(int(np.rint(self.cap_share * first.mean())), 1)


@dataclass(frozen=True)
class Grow:
    """Lengths change by a factor each RL step, up to the window.

    window: tokens of a response at most; None: the longest recorded one.
    """

    factor: float = 1.0
    window: int | None = None
    name = "grow"
    lossless = False

    @property
    def assumes(self) -> str:
        """What the law of lengths is."""
        end = "the longest recorded response" if self.window is None else f"{self.window} tokens"
        return f"grow: every response is {self.factor:g} times as long each RL step, cut at {end} with reward 0"

    def rollouts(self, trace: Trace, seed: int) -> Trace:
        """Lengthen the responses: in RL step j by factor ** j."""
        window = int(trace.output_tokens.max()) if self.window is None else self.window
        with np.errstate(over="ignore"):  # what is too long for a float is cut like any other
            factor = np.power(self.factor, (trace.step - trace.steps[0]).astype(np.float64))
        return scaled(trace, factor, window, self.name)

    def facts(self, trace: Trace) -> Mapping[str, float]:
        """Mean tokens, truncation share and mean reward of a trace that it made."""
        return end_facts(trace)


def compress(argument: str) -> Compress:
    """Lengths shrink over RL steps, under a cap: `compress:cap=4000,to=0.31,over=100`."""
    readers = {"cap": whole(1), "cap_share": number(1e-6, 1e6), "to": number(1e-6, 1), "over": whole(0)}
    given = read("compress", argument, readers, "transform")
    if {"cap", "cap_share"} <= given.keys():
        refuse("compress", argument, "has two caps: give cap= in tokens, or cap_share= of the first mean", "transform")
    if not {"cap", "cap_share", "to"} & given.keys():
        refuse(
            "compress", argument, "says neither how far nor where it cuts: write compress:cap=4000,to=0.31", "transform"
        )
    return Compress(**given)


def grow(argument: str) -> Grow:
    """Lengths grow each RL step, up to the window: `grow:factor=1.02,window=14336`."""
    given = read("grow", argument, {"factor": number(1e-3, 1e3), "window": whole(1)}, "transform")
    if "factor" not in given:
        refuse("grow", argument, "needs a factor for each RL step: write grow:factor=1.02", "transform")
    return Grow(**given)
