"""The columns of a trace: one row per rollout, in the order in which the rollouts queue."""

import pyarrow as pa

SCHEMA_VERSION = 1
METADATA_KEY = b"rolloutsim"
FINISH_REASONS = ("stop", "length", "aborted")
TURN = pa.struct([("generated_tokens", pa.int32()), ("wait_s", pa.float64())])


def _column(
    name: str, kind: pa.DataType, unit: str, description: str, *, required: bool = False
) -> "pa.Field[pa.DataType]":
    return pa.field(name, kind, nullable=not required, metadata={"unit": unit, "description": description})


SCHEMA = pa.schema(
    [
        _column("step", pa.int32(), "index", "RL step that generated the rollout, from 0", required=True),
        _column("prompt_id", pa.string(), "name", "prompt of the rollout; the same text in every step", required=True),
        _column("sample", pa.int32(), "index", "which of the group's rollouts this is, from 0", required=True),
        _column("prompt_tokens", pa.int32(), "tokens", "length of the prompt, at least 0", required=True),
        _column("output_tokens", pa.int32(), "tokens", "length of the response, at least 1", required=True),
        _column("policy", pa.string(), "name", "model or checkpoint that generated the rollout"),
        _column("epoch", pa.int32(), "index", "pass over the data set to which the step belongs, from 0"),
        _column(
            "finish_reason",
            pa.string(),
            "stop | length | aborted",
            "why generation ended; length and aborted are censored, null is unknown",
        ),
        _column("reward", pa.float32(), "reward", "score of the response; NaN or null where it has none"),
        _column(
            "arrival_s", pa.float64(), "s", "when the request arrived, from the start of its step; all rows or none"
        ),
        _column(
            "prompt_token_ids", pa.list_(pa.int32()), "token ids", "the prompt, prompt_tokens long; all rows or none"
        ),
        _column("token_ids", pa.list_(pa.int32()), "token ids", "the response, output_tokens long; all rows or none"),
        _column("logprobs", pa.list_(pa.float32()), "nats", "log-probability of each response token; all rows or none"),
        _column(
            "next_logprobs",
            pa.list_(pa.float32()),
            "nats",
            "log-probability of each response token under the policy after the RL step's update; all rows or none",
        ),
        _column(
            "accept_lengths",
            pa.list_(pa.int32()),
            "tokens",
            "for each response token, how many drafted tokens a recorded drafter would have had accepted, had a decode step "
            "begun there (the bonus not counted, at most what is left); all rows or none",
        ),
        _column(
            "draft_lengths",
            pa.list_(pa.int32()),
            "tokens",
            "for each response token, how many tokens that drafter would have drafted there, at least those accepted; left "
            "out where it always drafts equally many; all rows or none",
        ),
        _column(
            "turns",
            pa.list_(TURN),
            "tokens, s",
            "parts of the response and the wait (tool call) after each; their generated_tokens sum to output_tokens",
        ),
        _column(
            "reasoning_steps",
            pa.list_(pa.int32()),
            "tokens",
            "length of each reasoning step of the response (text up to a blank line), at least 1; they sum to output_tokens; all "
            "rows or none",
        ),
        _column(
            "block_hashes", pa.list_(pa.int64()), "hash", "prefix block hashes of the prompt, as Mooncake gives them"
        ),
    ]
)

REQUIRED = tuple(field.name for field in SCHEMA if not field.nullable)
ALL_OR_NONE = (
    "arrival_s", "prompt_token_ids", "token_ids", "logprobs", "next_logprobs", "accept_lengths", "draft_lengths",
    "reasoning_steps",
)  # fmt: skip


def columns() -> list[dict[str, str]]:
    """Name, type, need (required or optional), unit and description of every column, in schema order."""
    return [
        {
            "column": field.name,
            "type": str(field.type).replace("item: ", "").replace("element: ", ""),
            "need": "optional" if field.nullable else "required",
            **{key.decode(): value.decode() for key, value in (field.metadata or {}).items()},
        }
        for field in SCHEMA
    ]
