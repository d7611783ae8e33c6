"""The state of a replica as compiled code reads it: records with named fields (`simulator.records`).

A replica is one `Core`. Its running rollouts are slots: the first `decoding` of `live` ones decode, the others compute their
prompts. What becomes of a rollout stands in its `Rollout`, which all replicas share; what a decode step did in its `Step`.
"""

from simulator.budgets.choosing import CHOOSER, Chooser
from simulator.budgets.following import FOLLOWER
from simulator.budgets.sharing import SHARER
from simulator.budgets.view import Seen
from simulator.cost.draft_cost import DRAFT_COST, Drafting
from simulator.cost.kernel import COST, Cost
from simulator.cost.work import Work
from simulator.drafting.acceptance import DRAFT, Draft
from simulator.drafting.live import SIBLINGS, Siblings
from simulator.records import INT, Array, array_field, layout, record_at, record_field

NO_KEY = -1
"""Of a KV block that is not found by key."""
GOING, IDLE, FREED, TOLD, ASK, LOG_FULL, AGAIN = range(7)
"""Why a replica stopped; GOING: it was told to; AGAIN: it goes on."""
NOBODY = -1
NO_LIMIT = 1 << 62


class Slot(Seen):
    """A running rollout: what a policy sees of it, and what it must not see."""

    limit: int  # the next position at which anything but emitting happens
    shift: int  # where the table of the current budget begins
    take: int  # tokens taken into this step
    stop: int  # the position at which it leaves, at its end or for a turn
    entry: int  # the position at which it entered
    stage: int  # in the policy's table
    base: int  # the position at which no token would have KV
    computed: int  # while it prefills: tokens whose KV is there
    proposed: int  # where drafts are made in the loop: how many were proposed
    right: int  # and how many of them will be accepted
    held: int  # where KV blocks are counted: its blocks
    keyed: int  # leading blocks that others can find
    line: int  # its line in the pool
    next_due: int  # the next slot that needs a block in the same step


class Rollout:
    """A rollout of the workload: what is given, where it stands while it waits, and what became of it."""

    start: int  # its first position
    end: int
    prompt_tokens: int
    row: int  # of the policy's table
    turns_end: int  # its last turn, after which nothing waits
    shared_blocks: int  # leading blocks whose keys other prompts may have
    chain_at: int  # where those begin in the pool's chain
    own_key: int  # the first key that is its own
    kept_blocks: int  # leading blocks that are found by key; NO_LIMIT for all
    position: int  # where it goes on
    turn: int  # its next turn
    stay_end: int  # the position after which it leaves its replica; `end` if it stays
    pulled: int  # where its KV is there when it is admitted: tokens at its end that are still to be computed; else 0
    replica: int  # that completed it; -1 before
    steps: int
    drafted: int
    accepted: int
    preempted: int
    cached: int  # tokens that it did not have to compute
    recomputed: int  # tokens that it had to compute again
    noted: int  # its position when budgets were chosen last, on this replica; NOTHING before
    arrival_s: float  # again after every turn
    queued_s: float  # when the engine first looked
    admitted_s: float
    first_token_s: float
    finished_s: float


class Turn:
    """Where a rollout waits for a tool or an environment."""

    end: int  # the position after which it does
    wait_s: float


class Departure:
    """Blocks of a rollout that completed while the next step was being scheduled (async scheduling): freed a step later."""

    line: int
    held: int


class Step(Work):
    """One decode step: a row of the log. Its work is what it was priced by."""

    start_s: float
    duration_s: float
    draft_s: float
    waited_s: float  # for slower ranks
    drafted_tokens: float
    accepted_tokens: float
    emitted_tokens: float
    extrapolated: float
    waiting: float
    preempted: float
    free_blocks: float


class Block:
    """A KV block."""

    following: int  # in the free queue
    previous: int
    refs: int  # who refers to it
    key: int  # under which it is found; NO_KEY for none
    twin: int  # the next block with the same key, which is found when those before it are gone; 0 for none


class Pool:
    """The blocks of one replica."""

    block_size: int  # tokens
    caching: bool  # whether blocks are found by key
    endless: bool  # whether there are blocks for everybody, so that none that is found by key is ever needed elsewhere
    lookahead: int  # tokens reserved ahead, while anything drafts
    whole: bool  # whether a rollout is admitted only if it fits whole
    per_entry: int  # keys that one entry of the chain stands for
    free: int
    free_lines: int
    line_width: int
    blocks: Array[Block]
    cached: Array[int]  # the block found by a key, 0 for none
    lines: Array[int]  # block tables of running rollouts, line_width each
    spare: Array[int]  # lines that are free
    chain: Array[int]  # first keys of shared prompt blocks


class Core:
    """One replica: where it stands, the limits that it keeps, and where its arrays are."""

    number: int
    # its batch
    live: int
    decoding: int
    scheduled: int  # of the decoding ones, those that take part in this step
    departed: int  # rollouts that completed and hold their slots for one step more
    # its queue is queue[head:tail]; arrivals[next_arrival:] are still to come
    head: int
    tail: int
    next_arrival: int
    # its counters
    steps: int
    logged: int  # steps in the log at hand
    asked_at: int  # steps when the policy was asked last
    admitted: int  # rollouts, into this step
    preempted: int  # rollouts, since the last step
    released: int  # departures, in this step
    changed: bool  # whether rollouts were admitted into this step or preempted for it, and the policy may want to know
    # its clock
    now_s: float
    next_s: float  # when its next step may begin
    resume_s: float  # no step begins before: it is paused until then
    visible_s: float  # arrivals until then are seen by the next step's scheduling
    until_s: float
    extrapolated_s: float
    waited_s: float  # for slower ranks, in steps and in dummy steps
    # steps without drafts that it takes beyond `until_s`, since only news would change them (`coasting.withdraw`)
    reach: int  # how many it tries
    ahead: int  # how many the last ones in the log are
    settled_s: float  # `extrapolated_s` before them
    # how it was called
    wait_when_free: bool
    reason: int  # why it stopped
    watched: bool  # whether it stops when a rollout ends or a stay of its
    telling: int  # rollouts of the last step of which it has to tell
    evicted: int  # rollouts taken out since the last step
    asked: bool  # whether budgets are the policy's answers, not its table
    due: bool  # whether it must be asked before the next step
    chooses: int  # how its answers are found here (`policy.Chooses.way`); 0: they are not
    every: int  # decode steps between questions; 0: only when the batch changes
    trailing: bool  # whether its table goes by the sequences of the step before
    batch: int  # how many those were
    # its policy's switch (`budgets.switch`)
    on: bool  # whether it drafts; until it does, the policy is neither asked nor looked up
    few: int  # running rollouts with which it may begin
    patience: int  # decode steps in a row before which there must be so few
    calm: int  # how many there were
    counted: int  # `steps` when that was counted last
    reprefill: bool  # whether all that runs is computed again then
    # its limits, by vLLM's names
    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int  # drafts go no further
    enable_chunked_prefill: bool
    async_scheduling: bool
    step_overhead_s: float
    uneven_step_s: float  # of a step whose sequences run different numbers of tokens
    eager_step_s: float  # of a step of more tokens than any CUDA graph
    lookahead: int  # KV slots that drafting reserves ahead; the drafts of a step of a rank without work
    paged: bool  # whether KV blocks are counted
    plain: bool  # whether nothing of this can matter
    uneven: bool  # whether the cost of a step depends on its longest context
    trees: bool  # whether drafts are trees, verified whole or not at all
    # of the sequences that decode, true until `stale`
    stale: bool
    context_tokens: int
    drafting: int  # how many may draft
    longest_context: int  # where the cost depends on it
    # of the step under way
    asking: int  # sequences that may draft
    longest_draft: int  # tokens
    ended: int  # sequences that reached their limit
    first_tokens: int  # prefills that were completed
    completed: int  # rollouts, or turns or stays of theirs
    returned: int  # of those, turns after which nothing waits
    # its arrays
    slots: Array[Slot]
    rollouts: Array[Rollout]
    queue: Array[int]
    arrivals: Array[int]
    turns: Array[Turn]
    departures: Array[Departure]
    told: Array[int]
    log: Array[Step]
    padding: Array[int]  # the size that a batch of so many tokens runs at
    pool: Pool
    # what is drafted and accepted at each position, one table after another; which table serves a budget
    drafts: Array[Draft]
    positions: int
    places: int  # bits of a position that tell where it stands in the tables: none where one entry stands for all
    table_of: Array[int]
    passes: Array[int]  # serial draft passes that a draft of so many tokens takes
    # the policy's table: boundaries[row, stage], budgets[row, stage, live]
    boundaries: Array[int]
    budgets: Array[int]
    stages: int
    widths: int
    # costs, and where drafts are made in the loop, what siblings have emitted
    cost: Cost
    draft_cost: Drafting
    siblings: Siblings
    chooser: Chooser  # or a `Follower`, or a `Sharer`


class Fleet:
    """Replicas under one clock, by the addresses of their cores."""

    cores: Array[int]
    ranks: int  # as many consecutive ones step together; 1: each by itself
    until_s: float  # when somebody else must know
    watched: bool  # whether anybody else must know what a step ends with
    teller: int  # of those that have to tell of a step's end, whose ended first; NOBODY if none has
    told_s: float  # when that was
    left: Array[int]  # who left in it
    finished: Array[int]  # who finished, and was not told of yet: so many
    finishing: int
    where: Array[int]  # of every rollout, where it is, and
    last: Array[int]  # where it was last, and
    emitted: Array[int]  # how many tokens it has emitted, as far as was told
    on_the_way: Array[int]  # rollouts, to each replica
    # the common queue is a ring
    queue: Array[int]
    first: int
    queued: int
    full: bool  # whether nobody had room for its head when last looked at
    returning: bool  # whether rollouts leave for a turn, which frees a slot, and nobody is told
    # where only whole groups are told of
    by_group: bool
    group: Array[int]  # of every rollout
    missing: Array[int]  # rollouts of each group that have not finished
    whole_s: float  # when one was whole that nobody was told of; infinite while none is


SLOT, ROLLOUT, TURN, DEPARTURE, STEP = layout(Slot), layout(Rollout), layout(Turn), layout(Departure), layout(Step)
BLOCK, POOL, CORE, FLEET = layout(Block), layout(Pool), layout(Core), layout(Fleet)

slots_of, rollouts_of, turns_of = (
    array_field("slots", SLOT),
    array_field("rollouts", ROLLOUT),
    array_field("turns", TURN),
)
queue_of, arrivals_of, padding_of = array_field("queue", INT), array_field("arrivals", INT), array_field("padding", INT)
departures_of, log_of, drafts_of = (
    array_field("departures", DEPARTURE),
    array_field("log", STEP),
    array_field("drafts", DRAFT),
)
tables_of, passes_of, boundaries_of, budgets_of = (
    array_field("table_of", INT),
    array_field("passes", INT),
    array_field("boundaries", INT),
    array_field("budgets", INT),
)
pool_of, cost_of, draft_cost_of = (
    record_field("pool", POOL),
    record_field("cost", COST),
    record_field("draft_cost", DRAFT_COST),
)
cores_of, core_at, told_of = array_field("cores", INT), record_at(CORE), array_field("told", INT)
left_of, finished_of = array_field("left", INT), array_field("finished", INT)
where_of, emitted_of = array_field("where", INT), array_field("emitted", INT)
last_of, on_the_way_of, common_of = array_field("last", INT), array_field("on_the_way", INT), array_field("queue", INT)
group_of, missing_of = array_field("group", INT), array_field("missing", INT)
siblings_of = record_field("siblings", SIBLINGS)
chooser_of, follower_of = record_field("chooser", CHOOSER), record_field("chooser", FOLLOWER)
sharer_of = record_field("chooser", SHARER)
blocks_of, cached_of, lines_of = array_field("blocks", BLOCK), array_field("cached", INT), array_field("lines", INT)
spare_of, chain_of = array_field("spare", INT), array_field("chain", INT)
