"""What one RL step asks of the engine: rollouts in queue order, and what would be accepted of their drafts."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from simulator.budgets.view import Requests
from simulator.drafting.acceptance import Acceptance
from simulator.drafting.live import SiblingIndex
from traces.errors import InputError
from traces.trace import Trace

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

LONGEST_S = 1e9
"""Thirty years: beyond, a double cannot tell microseconds apart."""
HASHED_TOKENS = 512
"""Prompt tokens that one hash of the trace's `block_hashes` stands for."""


@dataclass(frozen=True, eq=False)
class Turns:
    """Where rollouts wait for a tool or an environment: those of rollout i are [offsets[i], offsets[i + 1]).

    offsets: int64[n + 1]; generated_tokens: int64[], of each turn; wait_s: float64[], seconds after it (after the last one
    nothing waits).
    """

    offsets: Int64
    generated_tokens: Int64
    wait_s: Float64


class Texts(NamedTuple):
    """What n rollouts say, as token ids: prompt i begins at prompts[prompt_starts[i]], output i at outputs[output_starts[i]]."""

    prompts: Int32
    prompt_starts: Int64
    outputs: Int32
    output_starts: Int64

    def taken(self, rows: Int64) -> "Texts":
        """Return those of these rows."""
        return self._replace(prompt_starts=self.prompt_starts[rows], output_starts=self.output_starts[rows])

    def block(self, rows: Int64, prompt_tokens: Int64, number: int, block_size: int) -> Int32:
        """Return int32[rows, block_size], block `number` of each row's prompt and output together; all have as many tokens."""
        at = number * block_size + np.arange(block_size)
        inside = at < prompt_tokens[rows, None]
        found: Int32 = np.where(
            inside,
            self.prompts.take(self.prompt_starts[rows, None] + at, mode="clip"),
            self.outputs.take(self.output_starts[rows, None] + at - prompt_tokens[rows, None], mode="clip"),
        )
        return found


@dataclass(frozen=True, eq=False)
class Workload:
    """The n rollouts of an RL step in queue order; arrays are int64[n] but for those in seconds.

    prompt: index of the prompt in the trace; sample: index in the group; prompt_tokens, output_tokens: lengths
    (output_tokens >= 1); acceptance: tables whose offsets are the rollouts' cumulative lengths; siblings: makes drafts in
    the engine's loop instead, where they depend on what siblings emitted meanwhile. arrival_s: when each arrives (None: all are
    there at 0), in seconds after the first; turns: None where nobody waits; hashes: int64[], prefix block hashes of the
    prompts, in rollout i from hash_offsets[i] on; texts: what they say, where there are no hashes (None of both: the prompts of a
    group are equal, others share nothing); copy: of rollouts that were drawn more than once, which of their copies each is:
    copies share no prefix (None: there are none).
    begun: tokens that each has emitted in an earlier RL step (None: nobody has).
    """

    prompt: Int64
    sample: Int64
    prompt_tokens: Int64
    output_tokens: Int64
    acceptance: Acceptance
    siblings: SiblingIndex | None = None
    arrival_s: Float64 | None = None
    turns: Turns | None = None
    hashes: Int64 | None = None
    hash_offsets: Int64 | None = None
    texts: Texts | None = None
    copy: Int64 | None = None
    begun: Int64 | None = None

    def __post_init__(self) -> None:
        """Assert that lengths and acceptance describe the same rollouts."""
        assert (np.diff(self.acceptance.offsets) == self.output_tokens).all()
        assert (self.output_tokens >= 1).all()
        assert self.begun is None or ((self.begun >= 0) & (self.begun < self.output_tokens)).all()

    @cached_property
    def begun_tokens(self) -> Int64:
        """Tokens that each rollout has emitted before."""
        return np.zeros(len(self), np.int64) if self.begun is None else self.begun

    @cached_property
    def requests(self) -> Requests:
        """What a policy may know of the rollouts."""
        return Requests(self.prompt, self.sample, self.prompt_tokens)

    @cached_property
    def arrivals_s(self) -> Float64:
        """When each rollout arrives, in seconds after the RL step's start."""
        return np.zeros(len(self)) if self.arrival_s is None else self.arrival_s

    @cached_property
    def waits_s(self) -> Float64:
        """Seconds that each rollout waits for tools, after every turn but its last."""
        if self.turns is None:
            return np.zeros(len(self))
        sums = np.concatenate([[0.0], np.cumsum(self.turns.wait_s)])[self.turns.offsets]
        last = np.append(self.turns.wait_s, 0.0)[np.maximum(self.turns.offsets[1:] - 1, 0)]
        return np.diff(sums) - np.where(np.diff(self.turns.offsets) > 0, last, 0.0)

    def __len__(self) -> int:
        """Return the number of rollouts."""
        return self.prompt.size

    def taken(self, rows: Int64, acceptance: Acceptance, output_tokens: Int64 | None = None) -> "Workload":
        """Return the workload of these rows, which may repeat, with the acceptance of theirs, and other lengths where given."""
        turns, hashes, hash_offsets = self.turns, self.hashes, self.hash_offsets
        if turns is not None:
            offsets, places = _gathered(turns.offsets, rows)
            turns = Turns(offsets, turns.generated_tokens[places], turns.wait_s[places])
        if hashes is not None and hash_offsets is not None:
            hash_offsets, places = _gathered(hash_offsets, rows)
            hashes = hashes[places]
        return Workload(
            self.prompt[rows], self.sample[rows], self.prompt_tokens[rows],
            self.output_tokens[rows] if output_tokens is None else output_tokens, acceptance,
            None, None if self.arrival_s is None else self.arrival_s[rows], turns, hashes, hash_offsets,
            None if self.texts is None else self.texts.taken(rows), _copies(rows),
        )  # fmt: skip

    @cached_property
    def longest_prompt(self) -> int:
        """Tokens of the longest prompt, at least one."""
        return max(int(self.prompt_tokens.max()), 1)

    @cached_property
    def longest_sequence(self) -> int:
        """Tokens of the longest prompt, at least one, and output together."""
        return int((np.maximum(self.prompt_tokens, 1) + self.output_tokens).max())

    def longest_prefill(self, preemptible: bool) -> int:
        """Tokens of the longest prefill: of a prompt, or of all but the last token of a rollout that can come back."""
        comes_back = preemptible or self.turns is not None or self.begun is not None
        return self.longest_sequence - 1 if comes_back else self.longest_prompt

    def shared_blocks(self, block_size: int, caching: bool) -> tuple[Int64, Int64, Int64, int]:
        """How rollouts share KV blocks: (blocks int64[n], where each begins in the chain int64[n], chain, blocks per entry).

        The first `blocks` blocks of a rollout have keys that others may have too: entry by entry of the chain, each the first of
        so many consecutive keys. They are blocks of its prompt, and, where it is known what was said, of output that others begin
        with as well.
        """
        full = self.prompt_tokens // block_size
        if not caching:
            return np.zeros(len(self), np.int64), np.zeros(len(self), np.int64), np.zeros(1, np.int64), 1
        if self.texts is not None:
            return self._alike_blocks(self.texts, block_size)
        if self.hashes is None or self.hash_offsets is None:
            alike = self.prompt if self.copy is None else self.prompt + (int(self.prompt.max()) + 1) * self.copy
            groups, group = np.unique(alike, return_inverse=True)
            most = np.zeros(groups.size, np.int64)
            np.maximum.at(most, group, full)
            return full, group, np.concatenate([[0], np.cumsum(most)])[:-1], max(int(most.max()), 1)
        if HASHED_TOKENS % block_size:
            raise InputError(
                f"block_size = {block_size}: block_hashes stand for {HASHED_TOKENS} tokens each: use a divisor of that"
            )
        per = HASHED_TOKENS // block_size
        _, rank = np.unique(self.hashes, return_inverse=True)
        if self.copy is not None:
            rank = rank + (int(rank.max(initial=0)) + 1) * np.repeat(self.copy, np.diff(self.hash_offsets))
        return (
            np.minimum(full, np.diff(self.hash_offsets) * per),
            self.hash_offsets[:-1],
            rank.astype(np.int64) * per,
            per,
        )

    def _alike_blocks(self, texts: Texts, block_size: int) -> tuple[Int64, Int64, Int64, int]:
        """`shared_blocks` by content: a key stands for a block and all before it, up to where no other rollout has the same."""
        full = (self.prompt_tokens + self.output_tokens) // block_size
        key = np.zeros(len(self), np.int64) if self.copy is None else self.copy.copy()
        blocks, found, keys = np.zeros(len(self), np.int64), list[tuple[Int64, Int64]](), 0
        active = np.arange(len(self))
        for number in range(int(full.max(initial=0))):
            active = active[full[active] > number]
            _, place, counts = np.unique(key[active], return_inverse=True, return_counts=True)
            active = active[counts[place] > 1]
            if not active.size:
                break
            tokens = texts.block(active, self.prompt_tokens, number, block_size)
            _, alike = np.unique(np.column_stack([key[active], tokens]), axis=0, return_inverse=True)
            key[active] = keys + alike.ravel()
            found.append((active, key[active]))
            keys += int(alike.max()) + 1
            blocks[active] += 1
        at = np.concatenate([[0], np.cumsum(blocks)]).astype(np.int64)
        chain = np.zeros(max(int(at[-1]), 1), np.int64)
        for number, (rows, theirs) in enumerate(found):
            chain[at[rows] + number] = theirs
        return blocks, at[:-1], chain, 1


def workload_of(
    trace: Trace, rows: Int64, acceptance: Acceptance, siblings: SiblingIndex | None, arrivals: bool
) -> Workload:
    """The rollouts in `rows` of a trace as it recorded them; `arrivals`: as they arrived, or all at once."""
    arrival_s = _arrivals(trace, rows) if arrivals else None
    turns, hashes = _recorded(trace, "turns"), _recorded(trace, "block_hashes")
    spans = None
    if turns is not None:
        parts = turns.take(pa.array(rows.tolist())).combine_chunks()
        flat = pc.list_flatten(parts)
        spans = Turns(
            _offsets(parts),
            pc.struct_field(flat, "generated_tokens").to_numpy().astype(np.int64),
            pc.struct_field(flat, "wait_s").to_numpy().astype(np.float64),
        )
    prefixes = None if hashes is None else hashes.take(pa.array(rows.tolist())).combine_chunks()
    return Workload(
        prompt=trace.prompt[rows].astype(np.int64),
        sample=trace.sample[rows].astype(np.int64),
        prompt_tokens=trace.prompt_tokens[rows].astype(np.int64),
        output_tokens=trace.output_tokens[rows].astype(np.int64),
        acceptance=acceptance,
        siblings=siblings,
        arrival_s=arrival_s,
        turns=spans,
        hashes=None if prefixes is None else pc.list_flatten(prefixes).to_numpy().astype(np.int64),
        hash_offsets=None if prefixes is None else _offsets(prefixes),
        texts=_texts(trace, rows) if prefixes is None and trace.has_tokens and trace.has_prompts else None,
    )


def _texts(trace: Trace, rows: Int64) -> Texts:
    return Texts(trace.prompt_token_ids_flat, trace.prompt_offsets[rows], trace.tokens, trace.offsets[rows])


def _arrivals(trace: Trace, rows: Int64) -> Float64 | None:
    """When the rollouts arrive, counted from the first of them: step times would be lost beside a calendar's seconds."""
    column = _recorded(trace, "arrival_s")
    if column is None:
        return None
    recorded = column.to_numpy().astype(np.float64)[rows]
    arrival_s: Float64 = recorded - recorded.min()
    if arrival_s.max() > LONGEST_S:
        raise InputError(
            f"{trace.source}: arrival_s spans {arrival_s.max():.4g} s, from {recorded.min():.4g} to {recorded.max():.4g}: "
            "give seconds, and each RL step its own rollouts"
        )
    return arrival_s


def _recorded(trace: Trace, name: str) -> "pa.ChunkedArray[Any] | None":
    """The column, or None where the trace has none or nothing in it."""
    column = trace.table.column(name) if name in trace.table.column_names else None
    return None if column is None or column.null_count == len(column) else column


def _offsets(lists: "pa.Array[Any]") -> Int64:
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    return np.concatenate([[0], np.cumsum(lengths.astype(np.int64))])


def _copies(rows: Int64) -> Int64:
    """How often each row was there before."""
    order = np.argsort(rows, kind="stable")
    first = np.searchsorted(rows[order], rows[order])
    copies = np.empty(rows.size, np.int64)
    copies[order] = np.arange(rows.size) - first
    return copies


def _gathered(offsets: Int64, rows: Int64) -> tuple[Int64, Int64]:
    """Offsets of the chosen lists one after another, and the places of their elements."""
    lengths = np.diff(offsets)[rows]
    chosen = np.concatenate([[0], np.cumsum(lengths)])
    return chosen, np.arange(chosen[-1]) + np.repeat(offsets[:-1][rows] - chosen[:-1], lengths)
