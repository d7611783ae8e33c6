"""Why generation ended, in the words of a trace."""

REASONS = {
    "stop": "stop", "eos": "stop", "tool_calls": "stop", "function_call": "stop", "complete": "stop", "env_done": "stop",
    "length": "length", "max_tokens": "length", "max_turns_exceeded": "length", "max_prompt_length_exceeded": "length",
    "max_response_length_exceeded": "length", "truncated": "length",
    "abort": "aborted", "aborted": "aborted", "error": "aborted", "timeout": "aborted", "content_filter": "aborted",
    "repetition": "aborted",
}  # fmt: skip
"""What engines and frameworks write, by what a trace calls it: `length` for whatever was cut, `aborted` for what failed."""


def finish_of(reason: object) -> str | None:
    """stop, length or aborted; None, which is unknown, for what no engine here writes. SGLang's is an object with a type."""
    if isinstance(reason, dict):
        reason = reason.get("type")
    return REASONS.get(reason.lower()) if isinstance(reason, str) else None
