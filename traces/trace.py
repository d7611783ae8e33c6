"""A validated trace: the Arrow table of its rollouts, and the flat arrays that the simulator reads."""

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from traces.errors import InputError

pc: Any = pyarrow.compute  # its stubs refuse valid calls


@dataclass(frozen=True, eq=False)
class Trace:
    """The rollouts of a trace, one row each, in queue order; n rollouts, `total` response tokens.

    `table` holds canonical columns (traces.schema) and any others that the file had. `source` names the file and
    `sha256` hashes its bytes; both stay as they are when rows are selected. `maps`: files in which values of long columns lie,
    outside memory. Array properties are C-contiguous, cached and read-only.
    """

    table: pa.Table
    source: str
    sha256: str
    maps: Sequence[mmap.mmap] = ()

    def __len__(self) -> int:
        """How many rollouts."""
        return self.table.num_rows

    @cached_property
    def step(self) -> npt.NDArray[np.int32]:
        """RL step of each rollout, int32[n]."""
        return self._owned("step")

    @cached_property
    def sample(self) -> npt.NDArray[np.int32]:
        """Index within the group of each rollout, int32[n]."""
        return self._owned("sample")

    @cached_property
    def prompt_tokens(self) -> npt.NDArray[np.int32]:
        """Prompt length of each rollout in tokens, int32[n]."""
        return self._owned("prompt_tokens")

    @cached_property
    def output_tokens(self) -> npt.NDArray[np.int32]:
        """Response length of each rollout in tokens, int32[n]."""
        return self._owned("output_tokens")

    @cached_property
    def prompt_ids(self) -> list[str]:
        """The distinct prompt ids, in order of first appearance."""
        names: list[str] = pc.unique(self.table.column("prompt_id")).to_pylist()
        return names

    @cached_property
    def prompt(self) -> npt.NDArray[np.int32]:
        """Prompt of each rollout as an index into prompt_ids, int32[n]."""
        names = self.table.column("prompt_id")
        codes = pc.index_in(names, value_set=pc.unique(names))
        return _read_only(np.asarray(codes.to_numpy(), dtype=np.int32))

    @cached_property
    def prompt_rank(self) -> npt.NDArray[np.int64]:
        """Place of each of prompt_ids when the short come first, then in alphabetical order, int64[len(prompt_ids)]."""
        order = np.lexsort((self.prompt_ids, [len(name) for name in self.prompt_ids]))  # p-2 before p-10
        return np.argsort(order)

    @cached_property
    def steps(self) -> list[int]:
        """The distinct RL steps, ascending."""
        return [int(step) for step in np.unique(self.step)]

    @property
    def has_tokens(self) -> bool:
        """Whether the response token ids were recorded (all rows have them, or none)."""
        return self._has("token_ids")

    @cached_property
    def tokens(self) -> npt.NDArray[np.int32]:
        """Response token ids of all rollouts, int32[total]; InputError where they were not recorded."""
        return self._flat("token_ids")

    @cached_property
    def offsets(self) -> npt.NDArray[np.int64]:
        """Rollout i is tokens[offsets[i] : offsets[i + 1]]; int64[n + 1], known from the lengths alone."""
        return _offsets(self.output_tokens)

    @property
    def has_accept_lengths(self) -> bool:
        """Whether a drafter's accepted tokens were recorded at every position (all rows have them, or none)."""
        return self._has("accept_lengths")

    @cached_property
    def accept_lengths(self) -> npt.NDArray[np.int32]:
        """Recorded accepted drafts at each position of all rollouts, int32[total]; InputError where not recorded."""
        return self._flat("accept_lengths")

    @property
    def has_draft_lengths(self) -> bool:
        """Whether that drafter's drafted tokens were recorded, too (all rows have them, or none)."""
        return self._has("draft_lengths")

    @cached_property
    def draft_lengths(self) -> npt.NDArray[np.int32]:
        """Recorded drafted tokens at each position of all rollouts, int32[total]; InputError where not recorded."""
        return self._flat("draft_lengths")

    @property
    def has_prompts(self) -> bool:
        """Whether the prompt token ids were recorded (all rows have them, or none)."""
        return self._has("prompt_token_ids")

    @cached_property
    def prompt_token_ids_flat(self) -> npt.NDArray[np.int32]:
        """Prompt token ids of all rollouts, row by row, int32[sum of prompt_tokens]; InputError where not recorded."""
        return self._flat("prompt_token_ids")

    @cached_property
    def prompt_offsets(self) -> npt.NDArray[np.int64]:
        """Row i's prompt is prompt_token_ids_flat[prompt_offsets[i] : prompt_offsets[i + 1]]; int64[n + 1]."""
        return _offsets(self.prompt_tokens)

    def release(self) -> None:
        """Let go of the memory of values outside memory that were read; they are read again where they are needed."""
        for mapped in self.maps if hasattr(mmap, "MADV_DONTNEED") else ():
            mapped.madvise(mmap.MADV_DONTNEED)

    def select(self, rows: npt.NDArray[Any]) -> "Trace":
        """The trace of the given rows, in the given order; `rows` is an index array or a bool mask of length n."""
        rows = np.asarray(rows)
        if rows.dtype == np.bool_:
            if rows.shape != (len(self),):
                raise InputError(f"{self.source}: row mask of shape {rows.shape}, needs ({len(self)},)")
            rows = np.flatnonzero(rows)
        if not len(rows):
            raise InputError(f"{self.source}: the selection leaves no rollouts: select at least one row")
        if rows.min() < 0 or rows.max() >= len(self):
            raise InputError(f"{self.source}: rows {rows.min()} to {rows.max()} selected, has 0 to {len(self) - 1}")
        return Trace(self.table.take(rows.astype(np.int64)), self.source, self.sha256)

    def _has(self, column: str) -> bool:
        return column in self.table.column_names and self.table.column(column).null_count == 0

    def _owned(self, column: str) -> npt.NDArray[np.int32]:
        return _read_only(np.asarray(self.table.column(column).to_numpy(), dtype=np.int32))

    def _flat(self, column: str) -> npt.NDArray[np.int32]:
        if not self._has(column):
            raise InputError(
                f"{self.source}: the trace has no {column}: export them, or choose what needs lengths only"
            )
        return _read_only(_values(self.table.column(column)))


def _values(lists: "pa.ChunkedArray[Any]") -> npt.NDArray[np.int32]:
    """The values of int32 lists, one after another: where they are, if they lie so in memory or in a mapped file."""
    arrays: Any = lists.chunks
    parts = [part for array in arrays if len(part := array.flatten())]
    if parts:
        begins = np.array([part.buffers()[1].address + 4 * part.offset for part in parts])
        sizes = np.array([4 * len(part) for part in parts])
        if (begins[1:] == (begins + sizes)[:-1]).all():
            buffer: Any = pa.foreign_buffer(int(begins[0]), int(sizes.sum()), parts)
            return np.frombuffer(buffer, np.int32)
    return np.asarray(pc.list_flatten(lists).to_numpy(), dtype=np.int32)


def _offsets(lengths: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    offsets.flags.writeable = False
    return offsets


def _read_only(array: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """The array, which nobody can write to any more: everybody reads the same one."""
    array.flags.writeable = False
    return array
