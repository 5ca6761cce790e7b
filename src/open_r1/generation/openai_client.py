"""One request to a server that speaks the OpenAI protocol: sent again where that can help, and what came back.

https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from open_r1.errors import UserError
from open_r1.generation.openai_replies import Reply, contexts_in, json_of, read_reply

PROBE_SECONDS = 12.0
"""How long a server that cannot be reached is asked again before that is said."""

CONNECT_SECONDS = 5.0
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds before the first repetition and at most before later ones; each pause is about twice the one before."""

LONGEST_WISH = 120.0
"""Seconds of a Retry-After header that are kept to."""

_PASSING_CODES = frozenset({408, 409, 425, 429})
_REFUSED_KEY = 401
_MAYBE_REFUSED_KEY = 403
"""The key is refused, or what the prompt asks for: some servers say so of a prompt that their moderation stops."""

_UNSENT_HEADERS = ("Lang", "Package-Version", "OS", "Arch", "Runtime", "Runtime-Version", "Async")
"""Of ``X-Stainless-…``: with them the library describes this machine to the server."""


@dataclass(frozen=True)
class Server:
    """Where a model is served, and how it is asked.

    Attributes:
        base_url: up to where ``/chat/completions`` follows, such as ``http://localhost:8000/v1``.
        api_key: sent as bearer token; None where the server asks for none.
        concurrency: requests in flight at once.
        timeout: seconds that one request may take, all told.
        retries: how often a request that failed is sent again.
    """

    base_url: str
    api_key: str | None = None
    concurrency: int = 64
    timeout: float = 600.0
    retries: int = 5


@dataclass(frozen=True)
class Failure:
    """A request that is given up, and why.

    Attributes:
        refused: the server refuses this very request, and would again.
        forbidden: it does so with a status that may also mean the key.
    """

    reason: str
    refused: bool = False
    forbidden: bool = False


class ChatClient:
    """Asks one server over ``connections``; an asynchronous context manager that lives within one event loop."""

    def __init__(self, server: Server, connections: int = 1) -> None:
        self.server = server
        openai = _library()
        limits = type(openai.DEFAULT_CONNECTION_LIMITS)
        self._openai = openai
        self._client = openai.AsyncOpenAI(
            base_url=server.base_url,
            api_key=_header_value(server),
            max_retries=0,  # counted here, where bad content is a failure too
            timeout=openai.Timeout(server.timeout, connect=min(CONNECT_SECONDS, server.timeout), pool=None),
            http_client=openai.DefaultAsyncHttpxClient(
                limits=limits(max_connections=connections, max_keepalive_connections=connections)
            ),
            default_headers={f"X-Stainless-{name}": openai.Omit() for name in _UNSENT_HEADERS},
        )

    async def __aenter__(self) -> ChatClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    async def ask(self, body: Mapping[str, Any]) -> Reply | Failure:
        """The completion of a chat, or why there is none after all retries.

        Raises:
            UserError: the server refuses the key or does not know the model, so that no request can succeed.
        """

        async def send() -> Reply:
            response = await self._client.chat.completions.with_raw_response.create(**body)
            return read_reply(json_of(response.http_response))

        failure = Failure("never sent")
        for attempt in range(self.server.retries + 1):
            result = await self._attempt(send)
            if not isinstance(result, _Refusal):
                return result
            forbidden = result.code == _MAYBE_REFUSED_KEY
            reason = f"{result.reason}: of the prompt, or of the key (--api_key_env)" if forbidden else result.reason
            failure = Failure(reason, not result.passing, forbidden)
            if result.code == _REFUSED_KEY:
                raise UserError(refused_key(self.server, result.reason))
            if result.code == 404:
                raise UserError(await self._not_found(result, body["model"]))
            if not result.passing:
                return failure
            if attempt < self.server.retries:
                await asyncio.sleep(result.wish or pause(attempt))
        return failure

    async def models(self) -> dict[str, int | None]:
        """The models that the server lists, each with its context where it says; empty where it lists none.

        Raises:
            UserError: no server answers within `PROBE_SECONDS`, or it refuses the key.
        """

        async def send() -> Any:
            return await self._client.get("/models", cast_to=object)

        loop = asyncio.get_running_loop()
        deadline = loop.time() + PROBE_SECONDS
        attempt = 0
        while True:
            result = await self._attempt(send, limit=max(deadline - loop.time(), 1.0))
            if not isinstance(result, _Refusal):
                return contexts_in(result)
            if result.code in (_REFUSED_KEY, _MAYBE_REFUSED_KEY):
                raise UserError(refused_key(self.server, result.reason))
            if result.code is not None and not result.passing:
                return {}  # it is there, and has no such list
            if loop.time() + pause(attempt) > deadline:
                if result.code is not None:
                    return {}
                raise UserError(
                    f"{self.server.base_url}: no server answers there ({result.reason}); is it running, and is the "
                    "address right (it mostly ends with /v1)?"
                )
            await asyncio.sleep(pause(attempt))
            attempt += 1

    async def _attempt(self, send: Callable[[], Awaitable[Any]], limit: float | None = None) -> Any | _Refusal:
        """What ``send`` returns, or why it failed."""
        limit = self.server.timeout if limit is None else limit
        try:
            async with asyncio.timeout(limit):
                return await send()
        except (TimeoutError, self._openai.APITimeoutError):
            return _Refusal(f"no answer within {limit:g} s")
        except self._openai.APIConnectionError as error:
            return _Refusal(f"connection failed: {_innermost(error)}")
        except self._openai.APIStatusError as error:
            return _Refusal(f"HTTP {error.status_code}: {_short(error)}", error.status_code, _wish(error.response))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            return _Refusal(f"not an answer of the protocol: {_short(error)}")

    async def _not_found(self, refusal: _Refusal, model: str) -> str:
        try:
            known = list(await self.models())
        except UserError:
            known = []
        if model in known:
            return (
                f"{self.server.base_url} lists {model} and answers no chats ({refusal.reason}): is the address right?"
            )
        hint = f"it serves {', '.join(known)}" if known else "is the name right, and does the address end with /v1?"
        return f"{self.server.base_url} does not know the model {model} ({refusal.reason}): {hint}"


@dataclass(frozen=True)
class _Refusal:
    """A failed attempt.

    Attributes:
        code: HTTP status; None where there was no answer, or none of the protocol.
        wish: seconds after which the server wants to be asked again.
    """

    reason: str
    code: int | None = None
    wish: float | None = None

    @property
    def passing(self) -> bool:
        """Whether the same request may succeed later."""
        return self.code is None or self.code in _PASSING_CODES or self.code >= 500


def refused_key(server: Server, reason: str) -> str:
    """What to say where a server takes no requests from whoever sends them."""
    what = "the key" if server.api_key else "requests without a key"
    return f"{server.base_url} refuses {what} ({reason}): name the variable that holds it with --api_key_env"


def pause(attempt: int) -> float:
    """Seconds before repetition ``attempt`` (from 0), with jitter so that requests that failed together spread out."""
    return min(FIRST_PAUSE * 2**attempt, LONGEST_PAUSE) * random.uniform(0.5, 1.0)


def _library() -> Any:
    try:
        import openai
    except ImportError as error:
        raise UserError("served models need the library openai: pip install openai") from error
    return openai


def _header_value(server: Server) -> str:
    """The key, without the line break that a file or a shell may have left at its end.

    Raises:
        UserError: it cannot be sent. The key itself is not repeated.
    """
    key = (server.api_key or "").strip()
    if not all("!" <= character <= "~" for character in key):
        raise UserError(
            f"the key for {server.base_url} holds a space, a line break or a letter that is not ASCII: copy it anew"
        )
    return key or "none"


def _wish(response: Any) -> float | None:
    """Seconds of a Retry-After header; None where there is none, or it is a date."""
    try:
        return min(max(float(response.headers.get("retry-after", "")), 0.0), LONGEST_WISH)
    except ValueError:
        return None


def _innermost(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return _short(error)


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
