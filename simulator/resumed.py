"""The workload of rollouts that begin with what they keep of an earlier response."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from simulator.drafting.acceptance import Acceptance, no_drafts
from simulator.engine.workload import Texts, Workload
from simulator.transforms.prefixes import Kept
from traces.errors import InputError
from traces.trace import Trace

Int64 = npt.NDArray[np.int64]
UInt8 = npt.NDArray[np.uint8]


def resumed(workload: Workload, trace: Trace, rows: Int64, kept: Kept) -> Workload:
    """Return the workload of those that have something left, of the recorded workload of `rows`, all of an RL step.

    After its prefix a rollout is drafted for as recorded at the same position, and beyond its recorded end not at all. What is
    said there, where KV blocks are shared by content, is the response before. Raises InputError for what has no such account.
    """
    if not kept.prefix_tokens.any() and (kept.total_tokens == workload.output_tokens).all():
        return workload
    _check_account(workload, trace)
    left = kept.left
    if not left.size:
        return workload  # nobody decodes it
    tokens = kept.total_tokens[left]
    texts = None if workload.texts is None else _spliced(trace, rows, kept)
    acceptance = relaid(workload.acceptance, left, tokens)
    found = replace(workload, texts=texts).taken(left, acceptance, tokens)
    return replace(found, begun=kept.prefix_tokens[left])


def relaid(acceptance: Acceptance, rows: Int64, tokens: Int64) -> Acceptance:
    """Return the acceptance of some rollouts at other lengths, int64[k]: the same by position, none beyond what there was."""
    if acceptance.blank:
        return no_drafts(np.concatenate([[0], np.cumsum(tokens)]))
    lengths, offsets = np.diff(acceptance.offsets)[rows], np.concatenate([[0], np.cumsum(tokens)])
    position = np.arange(offsets[-1]) - np.repeat(offsets[:-1], tokens)
    known = np.flatnonzero(position < np.repeat(lengths, tokens))
    source = (np.repeat(acceptance.offsets[rows], tokens) + position)[known]
    left = (np.repeat(tokens, tokens) - position)[known].astype(np.int64)

    def table(budget: int) -> UInt8:
        acceptance.serve([budget])
        found = np.zeros((int(offsets[-1]), 2), np.uint8)
        found[known] = acceptance.tables[acceptance.table_of[budget]][source]
        found[known, 0] = np.minimum(found[known, 0], left)
        return found

    return Acceptance(offsets, table, acceptance.prefix, acceptance.least)


def _check_account(workload: Workload, trace: Trace) -> None:
    told = "turns end at recorded tokens" if workload.turns is not None else None
    told = told or (
        "rollouts arrive one by one (set engine.arrivals to false)" if workload.arrival_s is not None else None
    )
    told = told or ("the drafter drafts from what siblings write" if workload.siblings is not None else None)
    if told:
        raise InputError(
            f"{trace.source}: {told}, which says nothing of rollouts that begin with kept prefixes: leave it out"
        )


def _spliced(trace: Trace, rows: Int64, kept: Kept) -> Texts:
    """What these rollouts say: the kept prefix, what was recorded after it, and beyond that the response before."""
    total, offsets = kept.total_tokens, np.concatenate([[0], np.cumsum(kept.total_tokens)])
    position = np.arange(offsets[-1]) - np.repeat(offsets[:-1], total)
    own = (position >= np.repeat(kept.prefix_tokens, total)) & (position < np.repeat(trace.output_tokens[rows], total))
    begins = np.where(own, np.repeat(trace.offsets[rows], total), np.repeat(trace.offsets[kept.previous], total))
    said = trace.tokens.take(begins + position, mode="clip")
    return Texts(trace.prompt_token_ids_flat, trace.prompt_offsets[rows], said, offsets[:-1])
