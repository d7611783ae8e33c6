"""What engines count of speculation for each request, under the names that they gave it over the years."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from traces.errors import InputError
from traces.importers.values import whole

ACCEPTED_PROPOSED = (
    ("spec_num_correct_drafts", "spec_num_proposed_drafts"),
    ("spec_accepted_drafts", "spec_proposed_drafts"),
    ("spec_accept_token_num", "spec_draft_token_num"),
)
"""What SGLang calls accepted and proposed draft tokens of a request, newest first."""
HISTOGRAMS = ("spec_correct_drafts_histogram", "spec_accept_histogram")
"""Verify steps by how many of their drafts were accepted, in the same order."""
VERIFIED = "spec_verify_ct"


def accepted_of(counts: Mapping[str, Any]) -> Any:
    """SGLang's accepted draft tokens of a request; None where they are missing.

    Some versions write a 0 that they never counted: it is none where more tokens came out than were verified in steps.
    """
    told = first_of(counts, [accepted for accepted, _ in ACCEPTED_PROPOSED])
    completed, steps = counts.get("completion_tokens"), counts.get(VERIFIED)
    never = told == 0 and isinstance(completed, int) and isinstance(steps, int) and completed > steps
    return None if never else told


def first_of(counts: Mapping[str, Any], names: Sequence[str]) -> Any:
    """The value of the first name that is there."""
    return next((counts[name] for name in names if counts.get(name) is not None), None)


Placed = Sequence[tuple[str, Mapping[str, Any]]]
"""What was counted for requests, each with where it was found."""


def columns_of(requests: Placed) -> dict[str, Any]:
    """Steps, drafted and accepted tokens of SGLang's requests; nothing where none was verified."""
    proposed = [proposed for _, proposed in ACCEPTED_PROPOSED]
    return _columns(requests, lambda one: (one.get(VERIFIED), first_of(one, proposed), accepted_of(one)))


def columns_of_vllm(requests: Placed) -> dict[str, Any]:
    """The same of vLLM's `metrics.speculative_decoding`."""
    names = ("num_spec_steps", "num_draft_tokens", "num_accepted_draft_tokens")
    return _columns(requests, lambda one: tuple(one.get(name) for name in names))


def _columns(requests: Placed, counts_of: Callable[[Mapping[str, Any]], tuple[Any, ...]]) -> dict[str, Any]:
    rows = [(place, counts_of(one)) for place, one in requests]
    if not any(steps for _, (steps, *_) in rows):
        return {}
    return {
        name: counts_column([(place, counts[index]) for place, counts in rows], name)
        for index, name in enumerate(("spec_steps", "spec_drafted_tokens", "spec_accepted_tokens"))
    }


def counts_column(values: Sequence[tuple[str, Any]], name: str) -> Any:
    """A column of counts, null where there is none; InputError for what is no count."""
    counts = [None if value is None else whole(value, f"{place}, {name}", 0) for place, value in values]
    if wrong := [count for count in counts if count is not None and count >= 2**53]:
        raise InputError(
            f"{values[counts.index(wrong[0])][0]}, {name}: {wrong[0]} is no count of tokens: correct the value"
        )
    return pa.array(counts, pa.int64())
