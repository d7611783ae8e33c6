"""The sequences of a live engine: memory for what they are learnt into, and a step of theirs from Python (`drafting.rows`)."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from simulator.drafting.automaton import block_size
from simulator.drafting.history import LARGEST_BLOCK, Forest
from simulator.drafting.live import GROUP, SIBLING, siblings_record
from simulator.drafting.memory import address
from simulator.drafting.rows import BATCH, NOBODY, SEQUENCE, begin_one, draft_rows, learn_rows, move, recognise
from simulator.drafting.suffix import Suffix
from simulator.records import Pointing, records
from traces.errors import InputError

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Records = npt.NDArray[Any]

FIRST_ROOM, FIRST_SEQUENCES = 4096, 64
"""What a group's automaton has room for beyond its history; whenever that is full it gets twice as much."""
KEPT = 4
"""Sequences remembered, in batches; of more, those that left longest ago are forgotten."""
NUMBERS = 16_384
"""Sequences after which their numbers come again, and prompts without history after which the first of those is forgotten."""


class Sequences:
    """Learns and drafts as `drafter` says, group by group, for the rows of a batch.

    history: what the drafter learnt; prompts: the index of each of n_prompts that it could, by its token ids as int32 bytes.
    max_num_seqs, max_model_len: the engine's. most: tokens drafted at most. stops, max_tokens: tokens that end a sequence, and
    how many do. records: one `rows.Sequence` each; prompt, sample, prompt_tokens: int64[NUMBERS], by number (`view.Requests`).
    """

    def __init__(
        self, drafter: Suffix, history: Forest, prompts: Mapping[bytes, int], n_prompts: int, max_num_seqs: int,
        max_model_len: int, most: int, stops: Sequence[int] = (), max_tokens: int | None = None,
    ) -> None:  # fmt: skip
        places, self.drafter, self.history, self._known = KEPT * max_num_seqs, drafter, history, prompts
        self.n_prompts, self.new, self.begun = n_prompts, dict[bytes, int](), 0
        self.prompt, self.sample, self.prompt_tokens = np.zeros((3, NUMBERS), np.int64)
        self._samples = np.zeros(self.n_prompts + NUMBERS, np.int64)
        self._tokens, self._own = np.empty((places, max_model_len), np.int32), dict[int, Int32]()
        self._ones, self._groups = records(SIBLING, places), self._frozen_groups()
        self._blocks, self._learnt = dict[int, Int32](), self._groups["tokens"] - FIRST_ROOM
        self.records = records(SEQUENCE, places)
        self.records["place"] = np.arange(places)
        self.records["tokens"] = address(self._tokens) + self._tokens.strides[0] * np.arange(places)
        self._drafts, self._ends = np.empty(max_num_seqs * most, np.int32), np.empty(max_num_seqs, np.int64)
        self._of_row = np.full(max_num_seqs, NOBODY)
        self._siblings = siblings_record(drafter, self._ones, self._groups)
        self._batch = Pointing(
            BATCH,
            max_model_len=max_model_len,
            most=most,
            max_tokens=max_tokens or max_model_len,
            drafts=address(self._drafts),
        )
        self._batch.point(
            sequences=self.records, of_row=self._of_row, learnt=self._learnt, ends=self._ends, siblings=self._siblings,
            stops=np.array(stops, np.int64),
        )  # fmt: skip

    @property
    def steps(self) -> int:
        """Steps taken in."""
        return int(self._batch["steps"])

    def take_in(self, rows: Int32, counts: Int32, emitted: Int64) -> Int64:
        """Learn a step; returns the places of the sequences in it.

        rows: int32[b, stride], tokens of each, contiguous; counts: how many are known, those `emitted` in this step included.
        """
        batch, of_row = self._batch, self._of_row[: counts.size]
        batch["rows"], batch["stride"] = address(rows), rows.shape[1]
        batch.point(counts=counts, emitted=emitted)
        if recognise(batch.record):
            for row in np.flatnonzero(of_row == NOBODY).tolist():
                of_row[row] = self._admit(rows[row, : counts[row] - emitted[row]])
        batch.point(order=np.argsort(self.records["entered"][of_row]))
        while (place := learn_rows(batch.record)) != NOBODY:
            self._widen(int(self._ones["group"][place]), rows.shape[1])
        return of_row

    def draft(self) -> list[list[int]]:
        """Tokens to be verified for each row of the step, within the budgets in the records."""
        drafts = self._drafts[: draft_rows(self._batch.record)].tolist()
        ends = self._ends[: self._batch["counts_size"]].tolist()
        return [drafts[start:end] for start, end in pairwise([0, *ends])]

    def _admit(self, prompt: Int32) -> int:
        """Begin with a sequence, in the place of the one that left longest ago; returns the place."""
        place, number, room = int(np.argmin(self.records["seen_at"])), self.begun % NUMBERS, self._tokens.shape[1]
        index = self._index(prompt.tobytes())
        group = index if self.drafter.scope == "problem" else 0
        self.begun += 1
        self._batch["entries"] += 1
        self.prompt[number], self.prompt_tokens[number], self.sample[number] = index, prompt.size, self._samples[index]
        self._samples[index] += 1
        self._tokens[place, : prompt.size] = prompt
        tokens, used = self.records["tokens"][place], prompt.size if self.drafter.prompt else 0
        _set(self.records[place], rollout=number, position=prompt.size, prompt_tokens=prompt.size, entered=self._batch["entries"],
             seen_at=self.steps, budget=0, drafted=0, emitting=0, proposed=0, ended=0)  # fmt: skip
        _set(self._ones[place], group=group, tokens=tokens + 4 * prompt.size, length=room - prompt.size, prompt=tokens,
             prompt_length=used)  # fmt: skip
        if self.drafter.own and place not in self._own:
            self._own[place] = np.empty(block_size(room, 1), np.int32)
            self._ones["own"][place] = address(self._own[place])
        self._let_in(group)
        begin_one(self._siblings.record, place)
        return place

    def _index(self, prompt: bytes) -> int:
        """The prompt's index in the history, else one beyond those."""
        found = self._known.get(prompt, self.new.get(prompt))
        if found is None:
            found = self.n_prompts + len(self.new)
            if len(self.new) == NUMBERS:
                found = self.new.pop(next(iter(self.new)))
                self._samples[found] = 0
                if self.drafter.scope == "problem":
                    self._groups["built"][found], self._learnt[found], self._begun[found] = 0, 0, 0
            self.new[prompt] = found
        return found

    def _frozen_groups(self) -> Records:
        """The groups, as the history has them."""
        history = self.history
        groups = records(GROUP, self.n_prompts + NUMBERS if self.drafter.scope == "problem" else 1)
        known = np.flatnonzero(history.at >= 0)
        groups["history"][known] = 4 * history.at[known]
        groups["tokens"][known], groups["sequences"][known] = history.tokens_of[known], history.sequences_of[known]
        groups["tokens"] += FIRST_ROOM
        groups["sequences"] += FIRST_SEQUENCES
        self._begun = groups["sequences"] - FIRST_SEQUENCES
        return groups

    def _let_in(self, group: int) -> None:
        """See to it that a group has a block, and room for one sequence more."""
        if not self._groups["built"][group]:
            self._block(group, *self._groups[["tokens", "sequences"]][group].tolist())
            self._groups["automaton"][group] = address(self._blocks[group])
        elif self._begun[group] == self._groups["sequences"][group]:
            self._widen(group, 0)
        self._begun[group] += 1

    def _widen(self, group: int, tokens: int) -> None:
        """Give a group twice the room, and so many tokens at least."""
        one = self._groups[group]
        old, tokens, sequences = self._blocks[group], 2 * int(one["tokens"]) + tokens, 2 * int(one["sequences"])
        self._block(group, tokens, sequences)
        move(self._groups, group, address(self._blocks[group]), tokens, sequences)
        del old  # until then it is read

    def _block(self, group: int, tokens: int, sequences: int) -> None:
        size = block_size(tokens, sequences)
        if size > LARGEST_BLOCK:
            raise InputError(
                f"{tokens:,} tokens in one suffix automaton: at most about 100 million fit: call reset, or use scope problem"
            )
        self._blocks[group] = np.empty(size, np.int32)


def _set(record: Any, **values: int) -> None:
    for name, value in values.items():
        record[name] = value
