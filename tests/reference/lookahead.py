"""Lookahead Reasoning from its definition: three engines a replica, texts written out token by token, and no shortcut.

A text is a tuple of labels: tokens of what is recorded, of a draft that is not kept, of a target's step that is not kept. What an
engine has to compute of a prompt is what no sequence of the rollout has computed there before, one token at least.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Text = tuple[object, ...]
Cost = Callable[[int, int, int, int], float]
"""Seconds of a step: sequences, query tokens, KV tokens, prefill tokens."""


@dataclass(frozen=True)
class Steps:
    """A rollout: tokens of its prompt and steps; whether drafts are accepted; tokens of other text by draft and target.

    right, guessed: by position, tokens drafted inside a step that are accepted, and all that are drafted.
    """

    prompt_tokens: int
    tokens: Sequence[int]
    accepted: Sequence[bool]
    draft_tokens: Sequence[int]
    target_tokens: Sequence[int]
    right: Sequence[int] = ()
    guessed: Sequence[int] = ()


@dataclass(eq=False)
class Request:
    """A sequence on an engine: what it begins with, how much it writes, and where it stands.

    right, guessed: token drafts by position in what it writes; take: tokens that the step under way emits at most.
    """

    rollout: int
    step: int
    prompt: Text
    writes: Text
    right: Sequence[int] = ()
    guessed: Sequence[int] = ()
    take: int = 1
    emitted: int = 0
    admitted_s: float = math.nan
    done: bool = False
    cancelled: bool = False

    @property
    def computed(self) -> Text:
        return self.prompt + self.writes[: max(self.emitted - 1, 0)]


@dataclass(eq=False)
class Engine:
    """Continuous batching: who has a slot computes its prompt in one step and then emits a token a step."""

    slots: int
    cost: Cost
    remembers: bool
    budget: int = 0
    batch: list[Request] = field(default_factory=list)
    queue: deque[Request] = field(default_factory=deque)
    known: dict[int, list[Text]] = field(default_factory=dict)
    end_s: float = math.inf
    busy_s: float = 0.0
    emitted: int = 0

    def begin(self, now_s: float) -> None:
        if self.end_s < math.inf:
            return
        while self.queue and len(self.batch) < self.slots:
            one = self.queue.popleft()
            one.admitted_s = now_s
            self.batch.append(one)
        if not self.batch:
            return
        query = kv = prefill = 0
        for one in self.batch:
            kv += len(one.prompt) + one.emitted
            one.take = 1
            if one.emitted and self.budget:
                query += 1 + min(self.budget, one.guessed[one.emitted])
                one.take += min(self.budget, one.right[one.emitted])
            elif one.emitted:
                query += 1
            else:
                new = len(one.prompt) - (self.common(one) if self.remembers else 0)
                new = max(new, 1)
                query, prefill = query + new, prefill + new
                self.known.setdefault(one.rollout, []).append(one.prompt)
        seconds = self.cost(len(self.batch), query, kv, prefill)
        self.busy_s += seconds
        self.end_s = now_s + seconds

    def common(self, one: Request) -> int:
        return max((shared(one.prompt, other) for other in self.known.get(one.rollout, [])), default=0)

    def end(self) -> list[Request]:
        """Everybody who was in the step emits; those cancelled meanwhile are gone then."""
        self.end_s = math.inf
        for one in self.batch:
            more = min(one.take, len(one.writes) - one.emitted)
            one.emitted += more
            self.emitted += more
        leaving = [one for one in self.batch if one.cancelled or one.emitted == len(one.writes)]
        for one in leaving:
            one.done = one.emitted == len(one.writes)
            self.forget(one)
        return [one for one in leaving if not one.cancelled]

    def cancel(self, one: Request) -> None:
        one.cancelled = True
        if one in self.queue:
            self.queue.remove(one)
        elif one in self.batch and self.end_s == math.inf:
            self.forget(one)

    def forget(self, one: Request) -> None:
        self.batch.remove(one)
        self.known[one.rollout].append(one.computed)

    @property
    def room(self) -> int:
        return self.slots - len(self.batch) - len(self.queue)


def shared(one: Text, other: Text) -> int:
    for at, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return at
    return min(len(one), len(other))


@dataclass(eq=False)
class Chain:
    """A rollout: its text so far, drafts written after it, the target's sequences and verdicts by step."""

    number: int
    given: Steps
    replica: int = -1
    kept: int = 0
    drafts: dict[int, Text] = field(default_factory=dict)
    draft: Request | None = None
    lanes: dict[int, Request] = field(default_factory=dict)
    judging: dict[int, Request] = field(default_factory=dict)
    verdicts: dict[int, bool] = field(default_factory=dict)
    generation: int = 0
    admitted_s: float = math.nan
    finished_s: float = math.nan

    def recorded(self, steps: int) -> Text:
        """The prompt and so many steps."""
        told = [("prompt", i) for i in range(self.given.prompt_tokens)]
        return (*told, *(("kept", i, j) for i in range(steps) for j in range(self.given.tokens[i])))

    @property
    def most(self) -> int:
        return self.given.prompt_tokens + sum(self.given.tokens) - 1

    def before(self, step: int) -> Text:
        """What is kept, and what is drafted from there to before a step; never the rollout's last token."""
        text = self.recorded(self.kept)
        for one in range(self.kept, step):
            text += self.drafts[one]
        return text[: self.most]

    def right(self, step: int) -> bool:
        """Whether what is written before a step is what will be kept."""
        return self.before(step) == self.recorded(step)

    def written(self, step: int, tokens: int, who: str) -> Text:
        """Text of a step that is not kept; it does not go past the rollout's end."""
        tokens = min(tokens, self.most + 1 - len(self.before(step)))
        return tuple((who, self.generation, step, i) for i in range(tokens))

    def kept_text(self, step: int) -> Text:
        return tuple(("kept", step, j) for j in range(self.given.tokens[step]))


class Lookahead:
    """Rollouts on replicas, from 0 on; parts: those that each replica gets beforehand; rest: those in the common queue."""

    def __init__(
        self, rollouts: Sequence[Steps], parts: Sequence[Sequence[int]], rest: Sequence[int], slots: int, depth: int,
        waits: bool, target: Cost, draft: Cost, judge: Cost | None, share: int = 1, budget: int = 0,
    ) -> None:  # fmt: skip
        self.chains = [Chain(number, one) for number, one in enumerate(rollouts)]
        self.parts, self.rest = [deque(part) for part in parts], deque(rest)
        self.targets, self.drafts, self.judges = (
            [Engine(slots, cost or target, remembers) for _ in parts[::each]]
            for cost, remembers, each in ((target, True, 1), (draft, True, share), (judge, False, share))
        )
        self.share = share
        for engine in self.targets:
            engine.budget = budget
        self.depth, self.waits, self.judged, self.now_s = depth, waits, judge is not None, 0.0
        self.counts = dict.fromkeys(("drafted", "accepted", "launched", "cancelled", "verdicts", "own_tokens"), 0)

    def run(self) -> None:
        engines = [*self.targets, *self.drafts, *self.judges]
        self.begin_rollouts()
        while True:
            for engine in engines:
                engine.begin(self.now_s)
            self.now_s = min(engine.end_s for engine in engines)
            if self.now_s == math.inf:
                return
            touched = set[int]()
            for engine in engines:
                if engine.end_s == self.now_s:
                    touched |= {one.rollout for one in engine.end()}
            for number in sorted(touched):
                self.react(self.chains[number])
            self.begin_rollouts()

    def begin_rollouts(self) -> None:
        for replica, part in enumerate(self.parts):
            while part and self.targets[replica].room > 0:
                self.begin(part.popleft(), replica)
        while self.rest:
            rooms = [engine.room for engine in self.targets]
            if max(rooms) <= 0:
                return
            self.begin(self.rest.popleft(), rooms.index(max(rooms)))

    def begin(self, number: int, replica: int) -> None:
        self.chains[number].replica = replica
        self.go_on(self.chains[number])

    def react(self, chain: Chain) -> None:
        if chain.draft and chain.draft.done:
            chain.drafts[chain.draft.step], chain.draft = chain.draft.writes, None
            self.counts["drafted"] += 1
        self.judge(chain)
        self.decide(chain)
        if chain.kept < len(chain.given.tokens):
            self.go_on(chain)

    def judge(self, chain: Chain) -> None:
        for step, lane in chain.lanes.items():
            if not (lane.done and step in chain.drafts) or step in chain.verdicts:
                continue
            if step not in chain.judging:
                self.counts["verdicts"] += 1
                pair = tuple(range(len(chain.drafts[step]) + len(lane.writes)))
                chain.judging[step] = Request(chain.number, step, pair, ("verdict",))
                if self.judged:
                    self.judges[chain.replica // self.share].queue.append(chain.judging[step])
            if not self.judged or chain.judging[step].done:
                chain.verdicts[step] = chain.drafts[step] == chain.kept_text(step)

    def decide(self, chain: Chain) -> None:
        if self.waits:
            whole = min(chain.kept + self.depth + 1, len(chain.given.tokens))
            if len(chain.lanes) < whole - chain.kept or not all(lane.done for lane in chain.lanes.values()):
                return
            if any(step not in chain.verdicts for step in chain.drafts):
                return
        while (lane := chain.lanes.get(chain.kept)) is not None and lane.done:
            step = chain.kept
            if step in chain.drafts and step not in chain.verdicts:
                return
            if step == 0:
                chain.admitted_s = lane.admitted_s
            if chain.verdicts.get(step):
                chain.drafts.pop(step)
                chain.lanes.pop(step)
                chain.kept += 1
                self.counts["accepted"] += 1
            else:
                self.keep_own(chain)

    def keep_own(self, chain: Chain) -> None:
        for step, lane in chain.lanes.items():
            if not lane.done:
                self.targets[chain.replica].cancel(lane)
                self.counts["cancelled"] += 1
            if step in chain.judging and step not in chain.verdicts:
                self.judges[chain.replica // self.share].cancel(chain.judging[step])
        if chain.draft:
            chain.draft.writes = tuple(("given up", chain.generation, i) for i in range(len(chain.draft.writes)))
            self.drafts[chain.replica // self.share].cancel(chain.draft)
        self.counts["own_tokens"] += chain.given.tokens[chain.kept]
        chain.draft, chain.drafts, chain.lanes, chain.judging, chain.verdicts = None, {}, {}, {}, {}
        chain.kept += 1
        chain.generation += 1
        # what the target wrote there is the recorded text now, all of it computed but the last token
        self.targets[chain.replica].known[chain.number].append(chain.recorded(chain.kept)[:-1])
        if chain.kept == len(chain.given.tokens):
            chain.finished_s = self.now_s

    def go_on(self, chain: Chain) -> None:
        given, steps = chain.given, len(chain.given.tokens)
        ready = chain.kept + len(chain.drafts)  # the next step that has no draft
        launched = max(chain.lanes, default=chain.kept - 1) + 1
        while launched < min(chain.kept + self.depth + 1, steps) and launched <= ready:
            right = chain.right(launched)
            rejected = right and not (given.accepted[launched] and launched < steps - 1)
            writes = chain.written(
                launched, given.tokens[launched] if right else given.target_tokens[launched], "target"
            )
            if rejected or (right and self.waits and launched == chain.kept + self.depth):
                writes = chain.kept_text(launched)
            before = chain.before(launched)
            at = len(before) - given.prompt_tokens
            chain.lanes[launched] = Request(
                chain.number, launched, before, writes, given.right[at:], given.guessed[at:]
            )
            self.targets[chain.replica].queue.append(chain.lanes[launched])
            self.counts["launched"] += 1
            launched += 1
        ahead = chain.kept + self.depth + (0 if self.waits else 1)
        if chain.draft is None and ready < min(ahead, steps - 1):
            if chain.right(ready) and given.accepted[ready]:
                writes = chain.kept_text(ready)
            else:
                writes = chain.written(ready, given.draft_tokens[ready], "draft")
            chain.draft = Request(chain.number, ready, chain.before(ready), writes)
            self.drafts[chain.replica // self.share].queue.append(chain.draft)
