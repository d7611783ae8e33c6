"""What a serving engine is allowed to do in a step: vLLM V1's limits and switches, by the names that vLLM gives them."""

from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from simulator.engine.blocks import make_pool
from simulator.engine.state import NO_LIMIT, POOL
from simulator.engine.workload import Workload
from simulator.limits import (
    BATCHED_TOKENS,
    BLOCK_SIZE,
    GPU_BLOCKS,
    GRAPH_SIZE,
    LARGEST_BUDGET,
    LOOKAHEAD,
    MODEL_LEN,
    STEP_OVERHEAD_S,
)
from simulator.records import Pointing
from simulator.validated import Validated, within
from traces.errors import InputError

Int64 = npt.NDArray[np.int64]

LARGEST_GRAPH = 512
"""Largest size that vLLM captures a CUDA graph for, in tokens, unless told otherwise."""


Tokens = Annotated[int, within(BATCHED_TOKENS)]
Blocks = Annotated[int, within(GPU_BLOCKS)]
Lookahead = Annotated[int, within(LOOKAHEAD)]
HostTime = Annotated[float, within(STEP_OVERHEAD_S), Field(strict=False)]
GraphSizes = Annotated[tuple[Annotated[int, within(GRAPH_SIZE)], ...], Field(min_length=1, strict=False)]


class EngineLimits(Validated):
    """Limits and switches that a scenario says as the engine takes them; the defaults switch off whatever could hold a
    rollout back.

    max_num_batched_tokens: tokens per step, prefill and decode together; max_model_len: tokens of a sequence, prompt, output and
    the drafts behind it, which never are more than KV blocks hold; enable_chunked_prefill: whether a prompt may be split
    over steps; enable_prefix_caching: prompts of a group (or with equal block hashes) share blocks of `block_size` tokens, and
    a rollout that comes back finds its own. scheduler_reserve_full_isl: admit only what fits whole. async_scheduling: a step is
    scheduled while the one before it runs. uneven_step_s: host time, besides, of a step whose
    sequences run different numbers of tokens, as where only some draft or prompts are computed: no CUDA graph of a whole step
    serves it. eager_step_s: besides, of a step of more tokens than the largest graph. None: no limit.
    """

    max_num_batched_tokens: Tokens | None = None
    max_model_len: Annotated[int, within(MODEL_LEN)] | None = None
    enable_chunked_prefill: bool = True
    block_size: Annotated[int, within(BLOCK_SIZE)] = 16
    enable_prefix_caching: bool = False
    scheduler_reserve_full_isl: bool = True
    async_scheduling: bool = False
    uneven_step_s: HostTime = 0.0
    eager_step_s: HostTime = 0.0


class Serving(EngineLimits):
    """Limits and switches of one engine instance.

    num_gpu_blocks: KV blocks, one of which is vLLM's null block; without blocks for all, the rollouts admitted last are
    preempted and recomputed. lookahead_tokens: slots that a model-based drafter reserves beyond its drafts.
    cudagraph_capture_sizes: a batch of at most the largest runs at the next size. step_overhead_s: host time that no step hides.
    None: no limit, or no padding.
    """

    num_gpu_blocks: Blocks | None = None
    lookahead_tokens: Lookahead = 0
    cudagraph_capture_sizes: GraphSizes | None = None
    step_overhead_s: HostTime = 0.0

    @property
    def paged(self) -> bool:
        """Whether KV blocks are counted."""
        return self.num_gpu_blocks is not None or self.enable_prefix_caching

    @property
    def _longest_tokens(self) -> int:
        """Tokens that no sequence exceeds, those reserved ahead not counted."""
        longest = NO_LIMIT if self.max_model_len is None else self.max_model_len
        if self.num_gpu_blocks is None:
            return longest
        return min(longest, (self.num_gpu_blocks - 1) * self.block_size - self.lookahead_tokens)

    @property
    def padding(self) -> Int64:
        """The size that a batch of so many tokens runs at; int64[largest capture size + 1], empty without padding."""
        sizes = np.unique(np.array(self.cudagraph_capture_sizes or (), np.int64))
        if not sizes.size:
            return sizes
        tokens = np.arange(sizes[-1] + 1)
        return sizes[np.searchsorted(sizes, tokens)]

    def limits(self, workload: Workload, max_num_seqs: int) -> dict[str, float]:
        """The limits of `state.Core`, for this workload; raises InputError where a prompt can never be prefilled."""
        tokens = NO_LIMIT if self.max_num_batched_tokens is None else self.max_num_batched_tokens
        longest = workload.longest_prefill(self.num_gpu_blocks is not None)
        if not self.enable_chunked_prefill and longest > tokens:
            raise InputError(
                f"max_num_batched_tokens = {tokens} is less than the {longest:,} tokens of the longest prefill, and chunked "
                "prefill is off: raise it, or switch enable_chunked_prefill on"
            )
        if self.max_model_len is not None and workload.longest_whole > self.max_model_len:
            whole = np.maximum(workload.prompt_tokens, 1) + workload.output_tokens
            worst = int(whole.argmax())
            raise InputError(
                f"max_model_len = {self.max_model_len}: rollout {worst} of the queue has {whole[worst]:,} tokens, prompt and "
                "output: raise it"
            )
        comes_and_goes = workload.arrival_s is not None or workload.turns is not None
        return {
            "max_num_seqs": max_num_seqs,
            "max_num_batched_tokens": tokens,
            "max_model_len": self._longest_tokens,
            "enable_chunked_prefill": self.enable_chunked_prefill,
            "async_scheduling": self.async_scheduling,
            "step_overhead_s": self.step_overhead_s,
            "uneven_step_s": self.uneven_step_s,
            "eager_step_s": self.eager_step_s,
            "lookahead": self.lookahead_tokens,
            "paged": self.paged,
            "plain": not (
                self.paged or self.async_scheduling or min(tokens, self._longest_tokens) < NO_LIMIT or comes_and_goes
            ),
        }

    def pools(
        self, workload: Workload, max_num_seqs: int, rollouts: "npt.NDArray[Any]", lanes: int = 1
    ) -> Iterator[Pointing]:
        """Yield an empty block pool for each replica, and say in `state.Rollout`s which keys their blocks have.

        lanes: sequences that a rollout is decoded in at once. Raises InputError if some rollout cannot fit.
        """
        if not self.paged:
            while True:
                yield Pointing(POOL)
        whole = np.maximum(workload.prompt_tokens, 1) + workload.output_tokens + self.lookahead_tokens
        blocks = -(-whole // self.block_size)
        drafts = -(-LARGEST_BUDGET // self.block_size)  # blocks that drafts past a rollout's end may take besides
        endless = self.num_gpu_blocks is None
        # one each besides: the last full block is computed again where all of a rollout is cached
        available = int((blocks + drafts + 1).sum()) + 2 if self.num_gpu_blocks is None else self.num_gpu_blocks
        lines = min(max_num_seqs, lanes * len(workload)) * (1 + self.async_scheduling)
        if endless and lanes > 1:  # of a rollout only one copy stays behind
            available += lines * (int(blocks.max()) + drafts)
        worst = int(blocks.argmax())
        if blocks[worst] > available - 1:
            raise InputError(
                f"num_gpu_blocks = {available} ({(available - 1) * self.block_size:,} tokens): rollout {worst} of the queue, of "
                f"{whole[worst]:,} tokens, needs {blocks[worst]:,} blocks by itself; give more memory or shorter rollouts"
            )
        shared, chain_at, chain, per_entry = workload.shared_blocks(self.block_size, self.enable_prefix_caching)
        own = int((chain + per_entry).max(initial=0)) + np.concatenate([[0], np.cumsum(blocks - shared)])
        rollouts["shared_blocks"], rollouts["chain_at"], rollouts["own_key"] = shared, chain_at, own[:-1]
        keys = int(own[-1]) if self.enable_prefix_caching else 0
        while True:
            yield make_pool(
                available, self.block_size, self.lookahead_tokens, self.scheduler_reserve_full_isl, lines,
                min(int(blocks.max()) + drafts, available),
                keys, chain, per_entry, endless,
            )  # fmt: skip


def capture_sizes(
    max_num_seqs: int, max_num_batched_tokens: int = LARGEST_GRAPH, num_speculative_tokens: int = 0
) -> tuple[int, ...]:
    """Sizes in tokens that vLLM 0.19 captures CUDA graphs for unless told otherwise: 1, 2, 4, by 8, from 256 by 16."""
    largest = min(2 * max_num_seqs * (1 + num_speculative_tokens), LARGEST_GRAPH, max_num_batched_tokens)
    return tuple(size for size in (1, 2, 4, *range(8, 256, 8), *range(256, LARGEST_GRAPH + 1, 16)) if size <= largest)


ANYTHING = Serving()
"""An engine that nothing holds back but its slots."""
