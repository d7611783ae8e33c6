"""The state of Lookahead Reasoning as compiled code reads it (`simulator.records`).

A rollout is a `Chain` of reasoning steps. Those that the target works on at once are its `Lane`s, one after another in a ring;
each is a sequence of the engine, used again for a later step.
"""

from simulator.records import INT, INT32, UINT8, Array, array_field, layout

WANTED, ASKED, GIVEN = range(3)
"""Of a verdict: not asked for yet, being worked out, there."""
NEVER = 1 << 62


class Chain:
    """A rollout as a chain of reasoning steps; tokens are counted from its first one."""

    first: int  # where its steps begin in what is drawn
    steps: int
    start: int  # the position of its first token
    tokens: int
    replica: int  # -1 before it begins
    base: int  # the step after the target's own text that was kept last
    front: int  # the first step that is not decided
    drafted: int  # the next step to be drafted
    launched: int  # the next step for the target
    mismatch: int  # of those drafted since `base`, the first that will be rejected; NEVER where all are accepted
    draft_at: int  # tokens before the next step to be drafted
    launched_at: int  # tokens before the step launched last
    computed: int  # tokens of the kept text whose KV the draft model has; -1: not even the prompt's
    drafting: bool
    touched: bool  # whether something has happened to it at this moment
    admitted_s: float
    finished_s: float
    # counters
    drafts: int
    accepted: int
    verdicts: int
    launches: int
    cancelled: int
    own_tokens: int  # of the target's own text that was kept
    new_tokens: int  # that the target computed for the first time where a lane began


class Lane:
    """A step that the target works on."""

    active: bool
    done: bool
    verdict: int
    draft_at: int  # tokens before it
    draft_tokens: int  # of its draft
    target_tokens: int
    new_tokens: int  # of its prompt, that nobody computed before


class Look:
    """Lookahead Reasoning on some replicas, each `share` of them with a draft and a judge beside."""

    now_s: float
    begun: bool
    replicas: int
    share: int
    beside: int  # drafts, and as many judges
    width: int  # lanes of a rollout
    waits: bool  # whether all lanes are awaited before any is decided
    judged: bool  # whether a judge takes time
    drafts: int  # the first sequence that drafts
    verdicts: int  # the first sequence of a judge
    block_size: int  # 0 where KV blocks are not counted
    touching: int
    left: int  # rollouts that have not begun
    head: int  # of the common queue, the end of `order`
    chains: Array[Chain]
    lanes: Array[Lane]
    touched: Array[int]
    order: Array[int]  # rollouts in queue order: those of each replica, then the common queue
    heads: Array[int]  # where each replica's part goes on
    tails: Array[int]  # and where it ends
    bounds: Array[int]
    accepted: Array[int]
    draft_tokens: Array[int]
    target_tokens: Array[int]


CHAIN, LANE, LOOK = layout(Chain), layout(Lane), layout(Look)

chains_of, lanes_of = array_field("chains", CHAIN), array_field("lanes", LANE)
touched_of, order_of = array_field("touched", INT), array_field("order", INT)
heads_of, tails_of, bounds_of = array_field("heads", INT), array_field("tails", INT), array_field("bounds", INT)
accepted_of = array_field("accepted", UINT8)
draft_tokens_of, target_tokens_of = array_field("draft_tokens", INT32), array_field("target_tokens", INT32)
