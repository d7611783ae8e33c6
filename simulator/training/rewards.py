"""Rewards: servers that judge each rollout as it finishes."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from simulator.drafting.draws import levels, rollout_keys
from simulator.spec import Reader, number, read, refuse, whole
from simulator.training.stage import Per, Prices, Rollouts
from traces.errors import InputError
from traces.trace import Trace

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

LONGEST_S, MOST_TRIES = 1e6, 20


@dataclass(frozen=True, eq=False)
class Rewards:
    """`reward:seconds=S|column=NAME|file=PATH,servers=C,fail=P,tries=N,backoff=S`.

    seconds: of every rollout; column: of the trace, or file: of numbers, a line per row of the trace, with seconds of each.
    servers: at once. fail: probability that a try fails, at most tries - 1 times; backoff: seconds after the first failure,
    doubled after each further one.
    """

    each_s: Float64
    servers: int
    fail: float
    tries: int
    backoff_s: float
    trace: Trace = field(repr=False)
    seed: int
    basis: str
    name = "reward"
    per: Per = "rollout"

    def seconds(self, rollouts: Rollouts) -> Float64:
        """Of each rollout."""
        return self.each_s[rollouts.rows]

    def failures(self, rollouts: Rollouts) -> Int64:
        """Drawn for each rollout, whenever it is judged."""
        if self.fail == 0.0:
            return np.zeros(rollouts.rows.size, np.int64)
        draw = levels(rollout_keys(self.trace, rollouts.rows, self.seed, "reward"))
        failed = np.floor(np.log(draw) / np.log(self.fail)).astype(np.int64)  # P(failed >= i) = fail^i
        capped: Int64 = np.minimum(failed, self.tries - 1)
        return capped


READERS: dict[str, Reader] = {
    "seconds": number(0, LONGEST_S),
    "column": str,
    "file": str,
    "servers": whole(1, 1_000_000),
    "fail": number(0, 0.99),
    "tries": whole(1, MOST_TRIES),
    "backoff": number(0, LONGEST_S),
}


def reward(argument: str, prices: Prices | None) -> Rewards:
    """Judge every rollout, on so many servers."""
    given = read("reward", argument, READERS, "stage")
    sources = [key for key in ("seconds", "column", "file") if key in given]
    if len(sources) != 1:
        refuse("reward", argument, "needs one of seconds=, column= and file=, such as seconds=2", "stage")
    if prices is None:
        return Rewards(np.empty(0), 1, 0.0, 1, 0.0, None, 0, "")  # type: ignore[arg-type]
    trace, source = prices.trace, sources[0]
    each_s = _each_s(trace, source, given[source])
    basis = f"given: {source} {given[source]}"
    return Rewards(
        each_s, given.get("servers", len(trace)), given.get("fail", 0.0), given.get("tries", 3), given.get("backoff", 5.0),
        trace, prices.seed, basis,
    )  # fmt: skip


def _each_s(trace: Trace, source: str, value: "str | float") -> Float64:
    """Seconds of each row of the trace; InputError names the first that is none."""
    if source == "seconds":
        return np.full(len(trace), float(value))
    if source == "column":
        if value not in trace.table.column_names:
            known = ", ".join(trace.table.column_names)
            raise InputError(f"stage reward: {trace.source} has no column {value!r}: use one of {known}")
        try:
            found = trace.table.column(value).cast(pa.float64()).to_numpy()
        except Exception:
            raise InputError(
                f"stage reward: column {value!r} of {trace.source} holds no numbers: give seconds"
            ) from None
    else:
        try:
            found = np.loadtxt(Path(str(value)), ndmin=1)
        except (OSError, ValueError) as error:
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
