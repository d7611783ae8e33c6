"""Rewards: servers that judge rollouts, as each finishes or once all have."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from simulator.drafting.draws import levels, rollout_keys
from simulator.spec import Reader, number, one_of, read, refuse, whole
from simulator.training.stage import Per, Prices, Rollouts
from traces.errors import InputError
from traces.io import read_bytes
from traces.trace import Trace

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

LONGEST_S, MOST_TRIES, MOST_TOKENS = 1e6, 20, 10_000_000


@dataclass(frozen=True, eq=False)
class Rewards:
    """`reward:seconds=S|column=NAME|file=PATH,s_per_token=X,reference=NAME,servers=C,fail=P,tries=N,backoff=S,...,when=batch`.

    seconds: of every rollout; column: of the trace, or file: of numbers, a line per row of the trace, with seconds of each.
    s_per_token: seconds besides for each token that a judge reads, of prompt and response, and of what it compares the response
    with: reference, a column of the trace with its tokens. servers: at once; share: servers over the mean rollouts of an RL step,
    one at least. fail: probability that a try fails, of `tries` at most; backoff: seconds after the first failure, times growth
    (2) after each further one. A rollout of which all tries fail has a default reward then, or with backoff_last after one more
    wait. hold: a server is kept meanwhile. when: `rollout`, as each finishes, or `batch`, once all of the RL step's have.
    """

    each_s: Float64
    s_per_token: float
    reference_tokens: Int64
    servers: int
    fail: float
    tries: int
    backoff_s: float
    growth: float
    holds: bool
    backoff_last: bool
    after_batch: bool
    trace: Trace = field(repr=False)
    seed: int
    basis: str
    name = "reward"
    per: Per = "rollout"

    def seconds(self, rollouts: Rollouts) -> Float64:
        """Of each rollout."""
        if self.s_per_token == 0.0:
            return self.each_s[rollouts.rows]
        read_tokens = rollouts.prompt_tokens + rollouts.output_tokens + self.reference_tokens[rollouts.rows]
        found: Float64 = self.each_s[rollouts.rows] + self.s_per_token * read_tokens
        return found

    def failures(self, rollouts: Rollouts) -> Int64:
        """Drawn for each rollout, whenever it is judged; of all tries, the last is left out where nothing follows it."""
        if self.fail == 0.0:
            return np.zeros(rollouts.rows.size, np.int64)
        draw = levels(rollout_keys(self.trace, rollouts.rows, self.seed, "reward"))
        failed = np.floor(np.log(draw) / np.log(self.fail)).astype(np.int64)  # P(failed >= i) = fail^i
        capped: Int64 = np.minimum(failed, self.tries if self.backoff_last else self.tries - 1)
        return capped


YES = one_of("yes", "no")
READERS: dict[str, Reader] = {
    "seconds": number(0, LONGEST_S),
    "column": str,
    "file": str,
    "s_per_token": number(0, LONGEST_S),
    "reference": str,
    "servers": whole(1, 1_000_000),
    "share": number(0, 1),
    "fail": number(0, 0.99),
    "tries": whole(1, MOST_TRIES),
    "backoff": number(0, LONGEST_S),
    "growth": number(1, 100),
    "hold": YES,
    "backoff_last": YES,
    "when": one_of("rollout", "batch"),
}


def reward(argument: str, prices: Prices | None) -> Rewards:
    """Judge every rollout, on so many servers."""
    given = read("reward", argument, READERS, "stage")
    sources = [key for key in ("seconds", "column", "file") if key in given]
    if len(sources) > 1 or not (sources or "s_per_token" in given):
        refuse(
            "reward", argument, "needs one of seconds=, column= and file=, such as seconds=2, or s_per_token=", "stage"
        )
    if "reference" in given and "s_per_token" not in given:
        refuse("reward", argument, "has a reference, whose tokens cost nothing: give s_per_token=, too", "stage")
    if "servers" in given and "share" in given:
        refuse("reward", argument, "has servers and share: one says how many there are", "stage")
    told = [f"{key} {given[key]}" for key in (*sources, "s_per_token", "reference") if key in given]
    source = sources[0] if sources else "seconds"
    none = np.empty(0)
    each_s = none if prices is None else _each_s(prices.trace, source, given.get(source, 0.0))
    return Rewards(
        each_s, given.get("s_per_token", 0.0),
        none.astype(np.int64) if prices is None else _reference_tokens(prices.trace, given.get("reference")),
        _servers(given, prices), given.get("fail", 0.0), given.get("tries", 3), given.get("backoff", 5.0),
        given.get("growth", 2.0), given.get("hold") == "yes", given.get("backoff_last") == "yes", given.get("when") == "batch",
        prices.trace if prices else None,  # type: ignore[arg-type]
        prices.seed if prices else 0, f"given: {', '.join(told)}",
    )  # fmt: skip


def _servers(given: Mapping[str, Any], prices: Prices | None) -> int:
    """How many there are: as given, else one for each row of the trace."""
    if "servers" in given or prices is None:
        return int(given.get("servers", 1))
    trace = prices.trace
    return max(round(given["share"] * len(trace) / len(trace.steps)), 1) if "share" in given else len(trace)


def _reference_tokens(trace: Trace, column: str | None) -> Int64:
    """Tokens of what each row of the trace is compared with, 0 where it is with nothing."""
    if column is None:
        return np.zeros(len(trace), np.int64)
    found = _numbers(trace, column, "reference tokens")
    if (bad := ~((found >= 0) & (found <= MOST_TOKENS) & (found == np.floor(found)))).any():
        row = int(bad.argmax())
        raise InputError(
            f"stage reward: reference {column}, row {row}: {found[row]} is no number of tokens: give 0 to {MOST_TOKENS:,}"
        )
    return found.astype(np.int64)


def _numbers(trace: Trace, column: str, what: str) -> Float64:
    """A column of the trace as float64[n]."""
    if column not in trace.table.column_names:
        known = ", ".join(trace.table.column_names)
        raise InputError(f"stage reward: {trace.source} has no column {column!r}: use one of {known}")
    try:
        found: Float64 = trace.table.column(column).cast(pa.float64()).to_numpy()
    except Exception:
        raise InputError(f"stage reward: column {column!r} of {trace.source} holds no numbers: give {what}") from None
    return found


def _each_s(trace: Trace, source: str, value: "str | float") -> Float64:
    """Seconds of each row of the trace; InputError names the first that is none."""
    if source == "seconds":
        return np.full(len(trace), float(value))
    if source == "column":
        found = _numbers(trace, str(value), "seconds")
    else:
        content = read_bytes(Path(str(value)))
        try:
            found = np.loadtxt(BytesIO(content), ndmin=1)
        except ValueError as error:
            told = " ".join(str(error).split())[:100]
            raise InputError(f"stage reward: {value}: cannot be read ({told}): give a number a line") from None
        if found.shape != (len(trace),):
            raise InputError(
                f"stage reward: {value} holds {found.size:,} numbers: give one for each of the trace's {len(trace):,} rows"
            )
    if (bad := ~((found >= 0) & (found <= LONGEST_S))).any():
        row = int(bad.argmax())
        raise InputError(
            f"stage reward: {source} {value}, row {row}: {found[row]} is no time: give seconds from 0 to 1e6"
        )
    return np.asarray(found, np.float64)
