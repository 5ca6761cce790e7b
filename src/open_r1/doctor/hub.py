"""Small questions to the hub, or to its mirror, by the standard library alone."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

OFFICIAL = "https://huggingface.co"
SECONDS = 6.0
_TRUE = ("1", "ON", "YES", "TRUE")


@dataclass(frozen=True)
class Reply:
    """The hub's answer.

    Attributes:
        status: of HTTP; None where none came, for the reason in ``error``.
        seconds: that it took.
        skew: seconds that this machine's clock is ahead of the server's; None where it does not say.
    """

    status: int | None
    seconds: float = 0.0
    skew: float | None = None
    error: str = ""


def endpoint(environment: Mapping[str, str] = os.environ) -> str:
    """The hub that libraries will ask."""
    return (environment.get("HF_ENDPOINT") or OFFICIAL).rstrip("/")


def offline(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the hub's library is told to stay offline."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(environment.get(name, "").upper() in _TRUE for name in names)


def ask_hub(address: str, seconds: float = SECONDS) -> Reply:
    """Asks for the description of one model in the list, without a token."""
    started = time.monotonic()
    try:
        with urllib.request.urlopen(_request(f"{address}/api/models?limit=1"), timeout=seconds) as response:
            status, date = response.status, response.headers.get("Date")
            json.loads(response.read(1 << 20))
    except urllib.error.HTTPError as error:
        status, date = error.code, error.headers.get("Date")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return Reply(None, time.monotonic() - started, error=str(reason) or type(error).__name__)
    return Reply(status, time.monotonic() - started, _skew(date))


def get_json(address: str) -> Any:
    """Fetches a small JSON text; raises OSError or ValueError."""
    with urllib.request.urlopen(_request(address), timeout=SECONDS) as response:
        return json.loads(response.read(1 << 20))


def _request(address: str) -> urllib.request.Request:
    return urllib.request.Request(address, headers={"User-Agent": "open-r1-doctor"})


def _skew(date: str | None) -> float | None:
    try:
        return time.time() - parsedate_to_datetime(date or "").timestamp()
    except (TypeError, ValueError):
        return None
