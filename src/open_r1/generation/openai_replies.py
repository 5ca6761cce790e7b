"""What a server of the OpenAI protocol answers, read with some patience: many write it a little otherwise.

https://platform.openai.com/docs/api-reference/chat/object
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_CUT_OFF = ("length", "content_filter")


@dataclass(frozen=True)
class Reply:
    """A completion: its text, its length (None where the server does not say), and "stop" or "length"."""

    text: str
    tokens: int | None
    finish_reason: str


def read_reply(body: Any) -> Reply:
    """The completion in the answer of a server.

    Reasoning that the server has parted from the answer (``reasoning_content``, or ``reasoning``) is put back before it
    as a ``<think>`` block; the block stays open where the answer was cut off in it.

    Raises:
        ValueError, LookupError, TypeError, AttributeError: it is not an answer of the protocol, or says that the server
            broke off.
    """
    if isinstance(body, Mapping) and body.get("error") and not body.get("choices"):  # behind status 200
        raise ValueError(f"the server says {_said(body['error'])}")
    choice = body["choices"][0]
    message, reason = choice["message"], choice.get("finish_reason")
    if reason in ("abort", "error"):
        raise ValueError(f"the server broke off (finish_reason {reason!r})")
    content = message.get("content") or ""
    if not isinstance(content, str):
        content = "".join(part["text"] for part in content)
    finish_reason = "length" if reason in _CUT_OFF else "stop"
    if reasoning := message.get("reasoning_content") or message.get("reasoning"):
        closing = "" if finish_reason == "length" and not content else f"\n</think>\n\n{content.lstrip()}"
        content = f"<think>\n{reasoning.strip()}{closing}"
    elif "</think>" in content and "<think>" not in content:  # the server's template has opened it, in the prompt
        content = f"<think>\n{content.lstrip()}"
    return Reply(content, _count((body.get("usage") or {}).get("completion_tokens")), finish_reason)


def json_of(response: Any) -> Any:
    """The content of a response.

    Raises:
        ValueError: it is no JSON; the message says what it is.
    """
    try:
        return response.json()
    except ValueError:
        kind = response.headers.get("content-type", "").partition(";")[0]
        raise ValueError(
            f"{kind or 'something'} instead of JSON, which begins {response.text.strip()[:80]!r}; "
            "does the address end with /v1?"
        ) from None


def contexts_in(listed: Any) -> dict[str, int | None]:
    """The models in a server's list, each with its context where it says; empty where it is no such list."""
    entries = listed.get("data") if isinstance(listed, Mapping) else None
    return {
        entry["id"]: _count(entry.get("max_model_len") or entry.get("context_length")) or None
        for entry in (entries if isinstance(entries, list) else [])
        if isinstance(entry, Mapping) and isinstance(entry.get("id"), str)
    }


def _count(value: Any) -> int | None:
    """A number of tokens, which some servers write as text; None where it is none."""
    try:
        return max(int(value), 0)
    except (TypeError, ValueError, OverflowError):
        return None


def _said(error: Any) -> str:
    message = error.get("message") if isinstance(error, Mapping) else None
    return str(message or error)
