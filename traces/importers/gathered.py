"""What is carried from chunk to chunk of an import: counts and keys, a few bytes a rollout, and what they must fulfil."""

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute

from traces.errors import InputError
from traces.importers.imported import Imported
from traces.schema import ALL_OR_NONE

pc: Any = pyarrow.compute  # its stubs refuse valid calls

COPY_TOKENS = 256
"""Files of so many equal response tokens are no coincidence."""
DISPENSABLE = ("logprobs", "next_logprobs")
"""Columns that a trace does well without, where some rollouts have them and others do not."""
KEYS = ["step", "prompt_id", "sample"]


@dataclass
class Gathered:
    """Counts over all chunks so far."""

    rows: int = 0
    """Rows found, dropped ones among them."""
    kept: int = 0
    dropped: int = 0
    output_tokens: int = 0
    lengths: Counter[int] = field(default_factory=Counter)
    reasons: bool = False
    first_arrival_s: float = float("inf")
    own_prompts: bool = False
    """Whether rows are prompts of their own, so that none can be there twice."""
    assumed: dict[str, None] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    _in_group: dict[int, int] = field(default_factory=dict)
    _contents: dict[Path, Any] = field(default_factory=dict)
    _tokens: Counter[Path] = field(default_factory=Counter)
    _keys: list[pa.Table] = field(default_factory=list)
    _holding: dict[str, Path] = field(default_factory=dict)
    _lacking: dict[str, Path] = field(default_factory=dict)

    def next_in_group(self, step: int, prompt_id: str) -> int:
        """Which of its group's rollouts the next one is, from 0. Groups are told apart by a hash, which takes little room."""
        group = hash((step, prompt_id))
        sample = self._in_group.get(group, 0)
        self._in_group[group] = sample + 1
        return sample

    def note(self, chunk: Imported) -> None:
        """Keep what was assumed and noted; lists grow together."""
        self.assumed |= dict.fromkeys(chunk.assumed)
        for name, value in chunk.notes.items():
            before = self.notes.get(name, [])
            self.notes[name] = list(dict.fromkeys([*before, *value])) if isinstance(value, list) else value

    def add(self, table: pa.Table, path: Path) -> None:
        """Count the rows of a valid chunk."""
        if "token_ids" in table.column_names and not table.column("token_ids").null_count:
            digest = self._contents.setdefault(path, hashlib.sha256())
            digest.update(pc.list_value_length(table.column("token_ids")).to_numpy().tobytes())
            digest.update(pc.list_flatten(table.column("token_ids")).to_numpy().tobytes())
            self._tokens[path] += pc.sum(table.column("output_tokens")).as_py()
        if not self.own_prompts:
            self._keys.append(table.select(KEYS))
        lengths = table.column("output_tokens")
        self.kept += table.num_rows
        self.output_tokens += pc.sum(lengths).as_py()
        counted = pc.value_counts(lengths)
        for tokens, count in zip(counted.field(0).to_pylist(), counted.field(1).to_pylist(), strict=True):
            self.lengths[tokens] += count
        if "finish_reason" in table.column_names:
            self.reasons |= table.column("finish_reason").null_count < table.num_rows
        if "arrival_s" in table.column_names:
            self.first_arrival_s = min(self.first_arrival_s, pc.min(table.column("arrival_s")).as_py())
        for name in ALL_OR_NONE:
            held = name in table.column_names and not table.column(name).null_count
            (self._holding if held else self._lacking).setdefault(name, path)

    def dispensed(self) -> list[str]:
        """Columns to leave out, as some rows are without."""
        return [name for name in self._partial() if name in DISPENSABLE]

    def _partial(self) -> list[str]:
        return [name for name in ALL_OR_NONE if name in self._holding and name in self._lacking]

    def refuse_what_no_chunk_shows(self, source: str) -> None:
        """Raise InputError for a rule of traces that is broken between chunks, of which each is valid."""
        if not self.kept:
            raise InputError(f"{source}: the trace has 0 rows ({self.dropped} dropped): export at least one rollout")
        for name in self._partial():
            if name not in DISPENSABLE:
                raise InputError(
                    f"{self._lacking[name]}: has rows without '{name}', which {self._holding[name]} has: "
                    f"import them apart, or export all with it"
                )
        self._refuse_copies()
        if not self._keys:
            return
        counts = pa.concat_tables(self._keys).group_by(KEYS).aggregate([([], "count_all")])
        repeated = counts.filter(pc.greater(counts.column("count_all"), 1))
        if repeated.num_rows:
            step, prompt, sample = (repeated.column(name)[0].as_py() for name in KEYS)
            raise InputError(
                f"{source}: step {step}, prompt {prompt!r:.60}, sample {sample} is there more than once: "
                f"give every file once, and number the samples of a prompt in a step 0, 1, 2, ..."
            )

    def _refuse_copies(self) -> None:
        """Refuse files with the same responses: the second would teach a drafter what it is to draft."""
        first: dict[bytes, Path] = {}
        for path, digest in self._contents.items():
            same = first.setdefault(digest.digest(), path)
            if same != path and self._tokens[path] >= COPY_TOKENS:
                raise InputError(f"{path}: holds the same responses as {same}: give one file for each generation")
