"""The reward that favours short right answers and long wrong ones (Demystifying long chains of thought, 2502.03373)."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from simulator.drafting.draws import GAMMA, parted
from simulator.spec import number, read, whole
from simulator.transforms.tables import RIGHT, end_facts, recorded, rewards_of, with_column
from traces.errors import UnfitTraceError
from traces.trace import Trace

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]
UInt64 = npt.NDArray[np.uint64]

MOST_REWARD = 1e6
CHUNK_TOKENS = 2**20


@dataclass(frozen=True)
class Cosine:
    """A reward by length: from one value for an empty answer to another one for the longest, along half a cosine.

    window: tokens of the longest answer; None: the longest of the trace. right_start, right_end: rewards of a right answer of no
    token and of a whole window; wrong_start, wrong_end: of a wrong one; exceed: of one within `margin` tokens of the window.
    penalty: for each token in a repetition of an earlier run of `ngram` tokens. right: the least recorded reward of a right one.
    """

    window: int | None = None
    right_start: float = 2.0
    right_end: float = 1.0
    wrong_start: float = -10.0
    wrong_end: float = 0.0
    exceed: float = -10.0
    margin: int = 16
    ngram: int = 40
    penalty: float = -0.05
    right: float = RIGHT
    name = "cosine"
    lossless = True

    @property
    def assumes(self) -> str:
        """What the rewards rest on."""
        return (
            f"cosine: rewards by recorded reward (right from {self.right:g}) and length; repetition counts where tokens are "
            "recorded; what training on them does to lengths is not known"
        )

    def rollouts(self, trace: Trace, seed: int) -> Trace:
        """Return the trace with rewards by length."""
        if not recorded(trace, "reward"):
            raise UnfitTraceError(
                f"{trace.source}: transform cosine: no rewards say which answers are right: record them"
            )
        recorded_rewards = rewards_of(trace)
        window = int(trace.output_tokens.max()) if self.window is None else self.window
        lengths = trace.output_tokens.astype(np.int64)
        if lengths.max() > window:
            row = int(np.argmax(lengths))
            raise UnfitTraceError(
                f"{trace.source}: transform cosine: row {row} has {lengths[row]} tokens, more than the window of {window}: "
                "give a larger one, or cut them with grow:factor=1,window= before"
            )
        rewards = self.of(recorded_rewards >= self.right, lengths, window)
        if self.penalty and trace.has_tokens:
            rewards += self.penalty * repeated_tokens(trace.tokens, trace.offsets, self.ngram)
        return with_column(trace, "reward", np.where(np.isnan(recorded_rewards), np.nan, rewards))

    def of(self, right: Bool, lengths: Int64, window: int) -> Float64:
        """The rewards of answers by their length alone: end + (start - end) (1 + cos(pi t / T)) / 2, or that of exceeding."""
        start = np.where(right, self.right_start, self.wrong_start)
        end = np.where(right, self.right_end, self.wrong_end)
        by_length = end + 0.5 * (start - end) * (1 + np.cos(np.pi * lengths / window))
        return np.where(lengths + self.margin >= window, self.exceed, by_length)

    def facts(self, trace: Trace) -> Mapping[str, float]:
        """Mean tokens, truncation share and mean reward of a trace that it made."""
        return end_facts(trace)


def repeated_tokens(tokens: npt.NDArray[np.int32], offsets: Int64, ngram: int) -> Int64:
    """How many tokens of each rollout lie in a run of `ngram` that it has had before, int64[n].

    Runs are told apart by 64 bits of hash: two that differ are taken for one in about one of 10^11 rollouts of 16,384 tokens.
    """
    counts = np.zeros(offsets.size - 1, np.int64)
    first = 0
    while first < counts.size:
        end = max(int(np.searchsorted(offsets, offsets[first] + CHUNK_TOKENS, side="right")) - 1, first + 1)
        part = tokens[offsets[first] : offsets[end]]
        counts[first:end] = _repeated(part, offsets[first : end + 1] - offsets[first], ngram)
        first = end
    return counts


def _repeated(tokens: npt.NDArray[np.int32], offsets: Int64, ngram: int) -> Int64:
    row = np.repeat(np.arange(offsets.size - 1), np.diff(offsets))
    begins = np.flatnonzero(np.arange(row.size) + ngram <= offsets[1:][row])  # of runs within one rollout
    if not begins.size:
        return np.zeros(offsets.size - 1, np.int64)
    runs = parted(_run_hashes(tokens, ngram)[begins], row[begins])
    order = np.argsort(runs, kind="stable")
    again = begins[order[1:][runs[order[1:]] == runs[order[:-1]]]]
    change = np.zeros(row.size + 1, np.int64)
    change[again] += 1
    change[again + ngram] -= 1
    covered = np.cumsum(change[:-1]) > 0
    return np.bincount(row[covered], minlength=offsets.size - 1)


def _run_hashes(tokens: npt.NDArray[np.int32], ngram: int) -> UInt64:
    """A hash of the `ngram` tokens from each place on, uint64[n - ngram + 1]: sum of hashed tokens times powers, modulo 2^64."""
    mixed = parted(np.zeros(tokens.size, np.uint64), tokens)
    hashes = np.zeros(tokens.size - ngram + 1, np.uint64)
    for place in range(ngram):
        hashes = hashes * GAMMA + mixed[place : place + hashes.size]
    return hashes


def cosine(argument: str) -> Cosine:
    """Rewards by length: `cosine:window=14336`."""
    value = number(-MOST_REWARD, MOST_REWARD)
    wholes = {"window": whole(1), "margin": whole(0), "ngram": whole(1, 1000)}
    readers = {field.name: wholes.get(field.name, value) for field in fields(Cosine)}
    return Cosine(**read("cosine", argument, readers, "transform"))
