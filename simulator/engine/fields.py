"""Names of the rows of numbers in which a replica's state lies: flat arrays, because compiled loops over them are fast."""

from simulator.budgets.view import SEEN_FIELDS

# rows of `rollouts` (what is given): first position, end, prompt tokens, row of the budget table, and its turns but for the
# last one in the flat lists of turns
START, END, PROMPT, ROW, TURN, TURNS_END = range(6)
# rows of `counts` (what becomes of a rollout); the last three: its next position, its next turn, and tokens that it did not
# have to compute because they were cached
R_STEPS, R_DRAFTED, R_ACCEPTED, R_REPLICA, R_PREEMPTED, R_CACHED, R_POSITION, R_TURN = range(8)
COUNTS = 8
# rows of `times`; a rollout arrives again after each turn, and is queued when the engine first looks
ARRIVAL_S, QUEUED_S, ADMITTED_S, FIRST_TOKEN_S, FINISHED_S = range(5)
TIMES = 5
# further rows of `slots`, the running rollouts, which a policy must not see: the next position at which anything but
# emitting happens; where the table of the current budget begins; the stage in the policy's table; tokens emitted in this
# step; where it leaves (end or turn); where it entered; tokens taken into this step; the position at which no token would
# have KV; where drafts are made in the loop, how many were proposed (and in EMITTED how many would be right)
LIMIT, SHIFT, STAGE, EMITTED, STOP, ENTRY, TAKE, BASE, PROPOSED = range(SEEN_FIELDS, SEEN_FIELDS + 9)
# of prefilling ones, tokens whose KV is there; with a block pool: tokens and blocks that its blocks hold, blocks published,
# its line in the pool, and the next slot that needs a block in the same step
COMPUTED, ROOM, HELD, KEYED, LINE, NEXT_DUE = range(SEEN_FIELDS + 9, SEEN_FIELDS + 15)
SLOT_FIELDS = SEEN_FIELDS + 15
# fields of `state`; decoding rollouts come first in `slots`, prefilling ones after them; SCHEDULED: of the decoding ones
LIVE, DECODING, SCHEDULED, HEAD, TAIL, PENDING, STEPS, LOGGED, NUMBER, ASKED, GHOSTS, PREEMPTED, ADMITTED = range(13)
STATE_FIELDS = 13
# fields of `clock`; VISIBLE_S: arrivals until then are seen by the next step's scheduling
NOW_S, EXTRAPOLATED_S, VISIBLE_S = range(3)
# fields of `rules`: vLLM's limits and switches, whether none of them can matter, whether drafts are made in the loop, and
# whether the cost of a step depends on its longest context
MAX_SEQS, MAX_TOKENS, CHUNKED, ASYNC, PAGED, PLAIN, LIVE_DRAFTS, UNEVEN = range(8)
# columns of `log`, one row per decode step
LOG_COLUMNS = (
    "start_s", "duration_s", "live", "query_tokens", "kv_tokens", "prefill_tokens",
    "drafted_tokens", "accepted_tokens", "emitted_tokens", "extrapolated", "draft_s",
    "waiting", "preempted", "prefill_seqs", "padded_tokens", "longest_context", "free_blocks",
    "pairs", "prefill_kv_tokens", "prefill_pairs",
)  # fmt: skip
# why `advance` returned
IDLE, FREED, ASK, LOG_FULL, UNTIL = range(5)
