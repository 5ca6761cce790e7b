"""Keys and tokens taken out of what is written down."""

from __future__ import annotations

import re
from collections.abc import Sequence

HIDDEN = "***"
_NAMES = re.compile(r"(?:token|secret|password|passwd|api[_-]?key|credential)s?$", re.IGNORECASE)
"""Names of settings whose value is not shown; ``api_key_env`` and ``max_new_tokens`` are none of them."""

_NO_SECRETS = re.compile(r"(?:num|max|new|eos|pad|stop)[\w-]*tokens?$", re.IGNORECASE)
_SHAPES = re.compile(
    r"\bhf_[A-Za-z0-9]{16,}|\bsk-[\w-]{16,}|\bgh[pousr]_[A-Za-z0-9]{20,}|\b[Bb]earer +[\w.~+/=-]{12,}"
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"
)
_ASSIGNED = re.compile(
    r"(?P<name>\b\w*(?:TOKEN|SECRET|PASSWORD|API_KEY)\b['\"]?\s*[=:]\s*['\"]?)(?P<value>[^\s'\"]{8,})", re.IGNORECASE
)


def redact(text: str) -> str:
    """``text`` with everything hidden that looks like a key."""
    text = _ASSIGNED.sub(lambda match: match["name"] + HIDDEN, text)
    return _SHAPES.sub(HIDDEN, text)


def redact_words(argv: Sequence[str]) -> list[str]:
    """A command line with the values of settings hidden that are secrets by name or by shape."""
    shown, secret = [], False
    for word in argv:
        flag = word.startswith("--")
        if secret and not flag:
            shown.append(HIDDEN)
            continue
        name, equals, _ = word.partition("=")
        secret = flag and bool(_NAMES.search(name)) and not _NO_SECRETS.search(name)
        shown.append(f"{name}={HIDDEN}" if secret and equals else redact(word))
        secret = secret and not equals
    return shown
