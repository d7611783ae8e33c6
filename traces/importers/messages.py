"""Chat messages as text."""

from collections.abc import Sequence
from typing import Any

TEMPLATE = "the chat template's tokens are not counted: messages are joined by line feeds"


def text_of(messages: object) -> str:
    """The text of messages, of one message, or of what is text already; parts that are no text count nothing."""
    if isinstance(messages, str):
        return messages
    if isinstance(messages, dict):
        inner = (messages.get(key) for key in ("reasoning_content", "content", "text"))
        return "\n".join(text for text in map(text_of, inner) if text)
    if isinstance(messages, list):
        return "\n".join(text for text in map(text_of, messages) if text)
    return ""


def split(messages: object) -> tuple[str, list[str]]:
    """The text before the first answer of an assistant, and the text of each answer."""
    listed: Sequence[Any] = messages if isinstance(messages, list) else [messages]
    answers = [index for index, one in enumerate(listed) if isinstance(one, dict) and one.get("role") == "assistant"]
    if not answers:
        return "", [text_of(messages)] if messages else []
    return text_of(list(listed[: answers[0]])), [text_of(listed[index]) for index in answers]
