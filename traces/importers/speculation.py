"""What engines count of speculation for each request, under the names that they gave it over the years."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

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


def columns_of(requests: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Steps, drafted and accepted tokens of SGLang's requests; nothing where none was verified."""
    if not any(one.get(VERIFIED) for one in requests):
        return {}
    proposed = [proposed for _, proposed in ACCEPTED_PROPOSED]
    return _whole_columns(
        ([one.get(VERIFIED), first_of(one, proposed), accepted_of(one)] for one in requests),
    )


def columns_of_vllm(requests: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The same of vLLM's `metrics.speculative_decoding`."""
    names = ("num_spec_steps", "num_draft_tokens", "num_accepted_draft_tokens")
    if not any(requests):
        return {}
    return _whole_columns([one.get(name) for name in names] for one in requests)


def _whole_columns(rows: Any) -> dict[str, Any]:
    names = ("spec_steps", "spec_drafted_tokens", "spec_accepted_tokens")
    values = [[value if type(value) is int else None for value in row] for row in rows]
    return {name: pa.array(column, pa.int64()) for name, column in zip(names, zip(*values, strict=True), strict=True)}
