"""Groups ranked by the length that they had last: alike ones share a replica, overlong rollouts move (RhymeRL, 2508.18588)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from simulator.budgets.context import Context
from simulator.budgets.price import step_seconds
from simulator.scheduling.first_come import by_load
from simulator.scheduling.placement import KV, TO_THE_END, Decision, Event, Kind, Place, View
from simulator.spec import number, one_of, read

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
Order = Literal["ascending", "descending", "alternate"]
Split = Literal["balanced", "even"]
HALVINGS = 60
STAY: frozenset[Kind] = frozenset({"start", "arrival"})
MOVE: frozenset[Kind] = frozenset({"start", "arrival", "left"})


@dataclass(frozen=True)
class Settings:
    """`ranked:order=alternate|ascending|descending,split=balanced|even,migrate=SHARE,kv=recompute|pull`, each with a default.

    order: whether replica 0 has the shortest groups, the longest, or the shortest in the first RL step of a run, the longest in
    the second, and so on. split: parts that are expected to take equally long, so that long groups have more replicas, or parts
    of equally many groups. migrate: the share of a part's rollouts, as they were when their prompts were last seen, that had more
    tokens than one may have now before it moves to the replicas of longer groups; 0: nobody moves. kv: whether what it has is
    computed again there, or pulled.
    """

    order: Order = "alternate"
    split: Split = "balanced"
    migrate: float = 0.1
    kv: KV = "recompute"


READERS = {
    "order": one_of(*get_args(Order)),
    "split": one_of(*get_args(Split)),
    "migrate": number(0, 1),
    "kv": one_of(*get_args(KV)),
}


@dataclass(frozen=True)
class Part:
    """Groups of one replica. rollouts: int64[k], in the order in which they are queued; most_tokens: before one moves, or 0."""

    rollouts: Int64
    most_tokens: int


class Ranked:
    """A part for each replica, by rank of the mean length that a prompt's rollouts had when it was last seen.

    Prompts that were not are taken to be as long as the longest. In a replica the longest groups go first. Who has as many tokens
    as its part allows moves, once, to the replica with the fewest rollouts of those with longer groups. Who arrives later goes
    where the load is least. Without a history there is nothing to rank: parts are contiguous, and of equally many groups.
    """

    name = "ranked"

    def __init__(self, settings: Settings, context: Context | None) -> None:
        self._settings, self._context = settings, context
        self.events = MOVE if settings.migrate else STAY
        self._ascending = settings.order == "ascending"
        if settings.order == "alternate":
            self._ascending = context is None or context.rl_step % 2 == 0

    def __call__(self, event: Event, view: View) -> Iterable[Decision]:
        """Share out whoever is there at the start, and let those move that are too long for their part."""
        if event.kind == "start":
            return self._share_out(event.rollouts, view)
        if event.kind == "left":
            return self._move(event, view)
        return by_load(event, view)

    def _share_out(self, rollouts: Int64, view: View) -> list[Decision]:
        """Place each on the replica of its part."""
        emitted, decisions = view.emitted_tokens, list[Decision]()
        for rank, part in enumerate(self._parts(rollouts, view)):
            left = part.most_tokens - emitted[part.rollouts]
            replica = rank if self._ascending else view.replicas - 1 - rank
            if not part.most_tokens or rank == view.replicas - 1:
                decisions.append(Place(part.rollouts, replica))
                continue
            for rollout, tokens in zip(part.rollouts.tolist(), left.tolist(), strict=True):
                decisions.append(Place(rollout, replica, max(tokens, TO_THE_END)))
        return decisions

    def _move(self, event: Event, view: View) -> list[Decision]:
        """Place each on the emptiest replica of those with longer groups."""
        running, waiting, _, _ = view.loads
        loads, decisions = running + waiting, list[Decision]()
        longer = slice(event.replica + 1, None) if self._ascending else slice(0, event.replica)
        first = event.replica + 1 if self._ascending else 0
        for rollout in event.rollouts.tolist():
            chosen = first + int(loads[longer].argmin())
            loads[chosen] += 1
            decisions.append(Place(rollout, chosen, TO_THE_END, self._settings.kv))
        return decisions

    def _parts(self, rollouts: Int64, view: View) -> list[Part]:
        """A part for each replica, those of shorter groups first."""
        prompt = view.requests.prompt[rollouts]
        prompts, first, group, sizes = np.unique(prompt, return_index=True, return_inverse=True, return_counts=True)
        lengths = self._last_seen(prompts, sizes)
        mean = np.array([float(of.mean()) if of.size else np.inf for of in lengths])
        known = mean[np.isfinite(mean)]
        mean = np.minimum(mean, known.max() if known.size else 0.0)
        order = np.lexsort((first, mean))
        split = np.array_split(order, view.replicas)
        if self._settings.split == "balanced" and self._context is not None and known.size:
            split = np.split(order, balanced(mean[order], sizes[order], view, self._context))
        parts = list[Part]()
        for groups in split:
            mine = np.flatnonzero(np.isin(group, groups))
            longest_first = np.argsort(-mean[group[mine]], kind="stable")
            parts.append(Part(rollouts[mine[longest_first]], self._most_tokens([lengths[one] for one in groups])))
        return parts

    def _last_seen(self, prompts: Int64, counts: Int64) -> list[Int64]:
        """Lengths of the last so many rollouts of each prompt in the history, int64[] each."""
        if self._context is None:
            return [np.empty(0, np.int64)] * prompts.size
        order = np.argsort(self._context.prompt, kind="stable")
        of, lengths = self._context.prompt[order], self._context.output_tokens[order]
        begins, ends = np.searchsorted(of, prompts), np.searchsorted(of, prompts, side="right")
        begins = np.maximum(begins, ends - counts)
        return [lengths[begin:end] for begin, end in zip(begins.tolist(), ends.tolist(), strict=True)]

    def _most_tokens(self, lengths: list[Int64]) -> int:
        """The fewest tokens that no more than the share `migrate` of these lengths exceed; 0 where nothing is known."""
        known = np.sort(np.concatenate(lengths)) if lengths else np.empty(0, np.int64)
        if not known.size or not self._settings.migrate:
            return TO_THE_END
        longer = int(self._settings.migrate * known.size + 1e-9)
        return int(known[max(known.size - 1 - longer, 0)])


def balanced(mean: Float64, sizes: Int64, view: View, context: Context) -> list[int]:
    """Where the parts of all replicas but the first begin, so that the last one is expected to be done soonest; by halving.

    mean: float64[groups], ascending; sizes: int64[groups], rollouts.
    """
    expected = Expected(mean, sizes, view.max_num_seqs, context)
    low_s, high_s = 0.0, expected.seconds(0, mean.size)
    for _ in range(HALVINGS):
        middle_s = (low_s + high_s) / 2
        if expected.begins(middle_s, view.replicas)[0] == 0:
            high_s = middle_s
        else:
            low_s = middle_s
    return expected.begins(high_s, view.replicas)[1:]


class Expected:
    """How long a replica is expected to decode groups i to j - 1, of groups in ascending order of mean length.

    As many steps as the longest group has tokens, or as all have over the slots if that is more; each takes what a step takes of
    as many rollouts as are there, or fit, at half of the mean length of all.
    """

    def __init__(self, mean: Float64, sizes: Int64, slots: int, context: Context) -> None:
        self._mean, self._slots = mean, slots
        self._rollouts = np.concatenate([[0], np.cumsum(sizes)])
        self._tokens = np.concatenate([[0.0], np.cumsum(mean * sizes)])
        half = float(self._tokens[-1]) / float(self._rollouts[-1]) / 2
        most = min(slots, int(self._rollouts[-1]))
        each = [float(step_seconds(context, n, int(n * half), np.zeros(1))[0]) for n in range(1, most + 1)]
        self._step_s = np.array([0.0, *each])

    def seconds(self, begin: int, end: int) -> float:
        """Seconds for groups begin to end - 1."""
        rollouts = int(self._rollouts[end] - self._rollouts[begin])
        steps = max(self._mean[end - 1], (self._tokens[end] - self._tokens[begin]) / self._slots)
        return float(steps * self._step_s[min(rollouts, self._slots)])

    def begins(self, most_s: float, replicas: int) -> list[int]:
        """Where the replicas' parts begin, each as large as its time allows, made from the longest groups down."""
        begins, end = list[int](), self._mean.size
        for _ in range(replicas):
            low, high = 0, max(end - 1, 0)  # one group at least
            while low < high:
                middle = (low + high) // 2
                if self.seconds(middle, end) <= most_s:
                    high = middle
                else:
                    low = middle + 1
            begins.append(high)
            end = high
        return begins[::-1]


def ranked(argument: str, context: Context | None) -> Ranked:
    """Groups in order of the length that they had last, alike ones on one replica."""
    return Ranked(Settings(**read("ranked", argument, READERS, "placement")), context)
