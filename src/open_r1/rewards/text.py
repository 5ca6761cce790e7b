"""The text of a completion, whichever of the published shapes it comes in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Completion = str | Sequence[Mapping[str, Any]]
"""What a reward function judges: a string, or the chat messages that the model wrote."""


def completion_text(completion: Completion) -> str:
    """Returns the text of ``completion``: the string itself, or the content of the last chat message.

    Content given as parts (``[{"type": "text", "text": …}]``) is joined; no content is the empty string.
    """
    if isinstance(completion, str):
        return completion
    if not completion:
        return ""
    content = completion[-1].get("content")
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


def completion_texts(completions: Sequence[Completion]) -> list[str]:
    """Returns the text of each completion."""
    return [completion_text(completion) for completion in completions]
