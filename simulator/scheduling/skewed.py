"""Skewness-aware dispatch: rollouts that a ranker expects to be long have replicas of their own (StreamRL, arXiv 2504.15930)."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from heapq import heapreplace

import numpy as np
import numpy.typing as npt

from simulator.budgets.context import Context
from simulator.cost.model import CostModel
from simulator.cost.work import StepWork
from simulator.drafting.draws import levels
from simulator.scheduling.longest_first import mean_lengths
from simulator.scheduling.placement import Decision, Event, Kind, Place, View
from simulator.spec import number, one_of, read, refuse

Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]
Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]
Ranker = Callable[[View], tuple[Float64, Bool]]
"""From the view to expected tokens of each rollout, float64[n], and which it takes for the tail, bool[n]."""

TAIL, RECALL = 0.2, 0.87
"""Published: the fifth that is longest, of which the ranker finds so many."""
TAIL_QUANTILE, REGULAR_QUANTILE = 0.9, 0.5
"""Published: of all lengths, the one that a rollout of either pool is taken to have."""


class Skewed:
    """Two pools of replicas, for the tail and for the rest, split so that the slower one is done soonest.

    Within a pool rollouts go longest first to the replica with the fewest expected tokens so far (LPT); those that arrive later
    go to the one with the fewest rollouts. lengths: those by which pools are weighed; it is made anew for each RL step.
    """

    name = "skewed"
    events: frozenset[Kind] = frozenset({"start", "arrival"})

    def __init__(self, ranker: Ranker, lengths: Int64, cost: CostModel | None) -> None:
        self._ranker, self._cost, self._tail_replicas = ranker, cost, 0
        self._tokens = np.quantile(lengths, (TAIL_QUANTILE, REGULAR_QUANTILE)).tolist() if lengths.size else [0.0, 0.0]

    def __call__(self, event: Event, view: View) -> Iterable[Decision]:
        """Dispatch to the pools."""
        rollouts, starts = event.rollouts, event.kind == "start"
        if starts:
            self._expected, self._marked = self._ranker(view)
            self._tail_replicas = self._split(rollouts, view)
        marked, first = self._marked[rollouts], self._tail_replicas
        pools = [(rollouts[marked], np.arange(first)), (rollouts[~marked], np.arange(first, view.replicas))]
        for mine, replicas in pools if first else [(rollouts, np.arange(view.replicas))]:
            if starts:
                order, where = longest_first(self._expected[mine], replicas.size)
                yield Place(mine[order], replicas[where])
            else:
                yield from _arrive(mine, replicas, view)

    def _split(self, rollouts: Int64, view: View) -> int:
        if self._cost is None or not rollouts.size:
            return 0
        marked = int(self._marked[rollouts].sum())
        prompt_tokens = float(view.requests.prompt_tokens[rollouts].mean())
        tail, rest = (marked, self._tokens[0]), (rollouts.size - marked, self._tokens[1])
        return split([tail, rest], prompt_tokens, view.replicas, view.max_num_seqs, self._cost)


def _arrive(rollouts: Int64, replicas: Int64, view: View) -> Iterable[Decision]:
    """One after another to the replica of a pool with the fewest rollouts."""
    running, waiting, _, _ = view.loads
    loads = (running + waiting)[replicas]
    for rollout in rollouts.tolist():
        least = int(loads.argmin())
        loads[least] += 1
        yield Place(rollout, int(replicas[least]))


def split(
    pools: list[tuple[int, float]], prompt_tokens: float, replicas: int, max_num_seqs: int, cost: CostModel
) -> int:
    """Replicas for the first of two pools of (rollouts, tokens of each), so that the slower one takes the least time.

    Returns 0 where one pool has nobody, or there is one replica: then all are one pool.
    """
    (tail, tail_tokens), (rest, rest_tokens) = pools
    if replicas < 2 or not tail or not rest:
        return 0
    first = np.arange(1, replicas)
    slower_s = np.maximum(
        pool_s(tail, tail_tokens, first, prompt_tokens, max_num_seqs, cost),
        pool_s(rest, rest_tokens, replicas - first, prompt_tokens, max_num_seqs, cost),
    )
    return int(first[slower_s.argmin()])


def pool_s(
    rollouts: int, tokens: float, replicas: Int64, prompt_tokens: float, max_num_seqs: int, cost: CostModel
) -> Float64:
    """Seconds of a pool by its replicas: time per token at the batch x tokens, as often as the slots are filled anew."""
    each = -(-rollouts // replicas)
    batch = np.minimum(each, max_num_seqs)
    return cost.step_time_s(StepWork.decode(batch, prompt_tokens + tokens / 2)) * tokens * (each / batch)


def longest_first(expected_tokens: Float64, replicas: int) -> tuple[Int64, Int64]:
    """List scheduling, longest first: (the order, the replica of each in that order), int64[n] both.

    Each goes where the fewest tokens are, of those to the fewest rollouts; the last is done within 4/3 - 1/(3m) of the optimum
    on m machines (Graham, Bounds on multiprocessing timing anomalies, 1969).
    """
    order = np.argsort(-expected_tokens, kind="stable")
    loads = [(0.0, 0, replica) for replica in range(replicas)]
    where = np.empty(order.size, np.int64)
    for place, tokens in enumerate(expected_tokens[order].tolist()):
        load, count, where[place] = loads[0]
        heapreplace(loads, (load + tokens, count + 1, int(where[place])))
    return order, where


def longest(expected_tokens: Float64, share: float) -> Bool:
    """The longest of them, so many of all, earlier ones first where they are equal; bool[n]."""
    marked = np.zeros(expected_tokens.size, np.bool_)
    marked[np.argsort(-expected_tokens, kind="stable")[: round(share * expected_tokens.size)]] = True
    return marked


def with_errors(tail: Bool, recall: float, draws: Float64) -> Bool:
    """A ranker's tail: as large as the true one, of which it finds each rollout with probability `recall`; bool[n].

    What it misses is made up for by rollouts that are not of the tail, whichever have the smallest draws; draws: float64[n].
    """
    found = tail & (draws < recall)
    others = np.flatnonzero(~tail)
    missed = min(int(tail.sum() - found.sum()), others.size)
    found[others[np.argsort(draws[others], kind="stable")[:missed]]] = True
    return found


@dataclass(frozen=True)
class SkewedOracle:
    """The dispatch before it has been shown lengths; its ranker errs as much as `recall` says, whatever the length."""

    tail: float
    recall: float
    cost: CostModel | None
    name = "skewed"
    events: frozenset[Kind] = frozenset({"start", "arrival"})

    @property
    def knows(self) -> str:
        """What no deployed router knows."""
        return f"an oracle ranks rollouts by their true lengths, and finds {self.recall:.0%} of the longest {self.tail:.0%}"

    def shown(self, lengths: Int64, keys: UInt64) -> Skewed:
        """The dispatch of an RL step whose rollouts are so long."""
        expected = lengths.astype(np.float64)
        marked = with_errors(longest(expected, self.tail), self.recall, levels(keys))
        return Skewed(lambda view: (expected, marked), lengths, self.cost)

    def __call__(self, event: Event, view: View) -> Iterable[Decision]:
        """Nothing can be ranked."""
        raise AssertionError("it has not been shown lengths")


READERS = {"tail": number(0, 1), "recall": number(0, 1), "ranker": one_of("history", "recall")}


def skewed(argument: str, context: Context | None) -> "Skewed | SkewedOracle":
    """`skewed:tail=0.2,ranker=history` ranks by each prompt's earlier rollouts; `skewed:recall=0.87` is an oracle with errors."""
    given = read("skewed", argument, READERS, "placement")
    tail, oracle = (
        given.get("tail", TAIL),
        given.get("ranker", "recall" if "recall" in given else "history") == "recall",
    )
    if "recall" in given and not oracle:
        refuse(
            "skewed", argument, "ranks by history, which has no recall of its own: drop ranker or recall", "placement"
        )
    if oracle:
        return SkewedOracle(tail, given.get("recall", RECALL), None if context is None else context.cost)
    if context is None:
        return Skewed(_nobody, np.empty(0, np.int64), None)
    of_prompt, known = mean_lengths(context), context.output_tokens

    def by_history(view: View) -> tuple[Float64, Bool]:
        expected = of_prompt[view.requests.prompt]
        return expected, longest(expected, tail if known.size else 0.0)

    return Skewed(by_history, known, context.cost)


def _nobody(view: View) -> tuple[Float64, Bool]:
    """Nothing is known before an RL step is."""
    rollouts = view.requests.prompt.size
    return np.zeros(rollouts), np.zeros(rollouts, np.bool_)
