"""HTTP to a served engine, whose failures are one line each."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from open_r1.background import Background
from open_r1.errors import UserError
from open_r1.generation.interruption import check_interruption
from open_r1.generation.server_protocol import HEALTH, HEARTBEAT_SECONDS, PROTOCOL, ServerFacts

SILENCE_SECONDS = 30 * HEARTBEAT_SECONDS
"""A stream that is silent for so long has lost its server."""

_CONNECT_SECONDS = 10.0
_UP_PAUSE, _BUSY_PAUSE = 0.2, 1.0
_BUSY = 503
_LAST_WORDS_SECONDS = 2.0
_LONGEST_REPLY = 3600.0


class ServerClient:
    """One server.

    Args:
        url: such as ``http://127.0.0.1:8000``.
        explain: what else is known where the server does not answer, such as its last words; "" is nothing.
    """

    def __init__(self, url: str, explain: Callable[[], str] = lambda: "") -> None:
        self.url, self._explain = url.rstrip("/"), explain
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"{url!r} is no address of a server: give one such as http://127.0.0.1:8000")
        self._kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._host, self._port = parts.hostname, parts.port

    def wait_until_up(self, seconds: float, alive: Callable[[], None] = lambda: None) -> ServerFacts | None:
        """What the server says of itself, once it is up; None where it is of another kind.

        Args:
            alive: called between two attempts; what it raises ends the wait.

        Raises:
            UserError: nobody answers in time, or it is of another version.
        """
        deadline = time.monotonic() + seconds
        while True:
            alive()
            try:
                return self._facts()
            except (OSError, HTTPException) as error:
                if time.monotonic() > deadline:
                    raise UserError(
                        f"no server answers at {self.url} after {seconds:g} s ({_short(error)}){self._explain()}: "
                        "start one with open-r1 serve-vllm, or raise --vllm_server_timeout"
                    ) from error
            time.sleep(_UP_PAUSE)

    def post(self, path: str, body: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """The server's answer.

        Raises:
            UserError: it refuses, or does not answer.
        """
        try:
            with closing(self._connect(timeout)) as connection:
                return json.loads(self._ask(connection, path, body).read())
        except (OSError, HTTPException) as error:
            raise self.lost("", error) from error

    def lines(self, path: str, body: Mapping[str, Any], patience: float) -> Iterator[dict[str, Any]]:
        """The lines of a streamed answer, as they come.

        Args:
            patience: seconds for which a server at its capacity is asked again.

        Raises:
            UserError: it refuses, says that it failed, or is lost before the end.
        """
        count = 0
        deadline = time.monotonic() + patience
        try:
            while True:
                with closing(self._connect(SILENCE_SECONDS)) as connection:
                    response = self._ask(connection, path, body, busy_is_fine=time.monotonic() < deadline)
                    if response.status != _BUSY:
                        for line in _read_lines(response):
                            if "error" in line:
                                raise UserError(f"{self.url}: {line['error']}")
                            if "end" in line:
                                return
                            count += 1
                            yield line
                        raise self.lost(f" after {count} completions")
                time.sleep(_BUSY_PAUSE)
                check_interruption()
        except (OSError, HTTPException) as error:
            raise self.lost(f" after {count} completions", error) from error

    def lost(self, when: str, error: BaseException | None = None) -> UserError:
        """What to say where the server has gone."""
        why = f" ({_short(error)})" if error is not None else ""
        return UserError(
            f"the server at {self.url} was lost{when}{why}{self._explain()}: start it again, and resume the run with "
            "--resume_from_checkpoint true"
        )

    def _connect(self, timeout: float) -> HTTPConnection:
        connection = self._kind(self._host, self._port, timeout=min(timeout, _CONNECT_SECONDS))
        connection.connect()
        connection.sock.settimeout(timeout)
        return connection

    def _ask(
        self, connection: HTTPConnection, path: str, body: Mapping[str, Any], busy_is_fine: bool = False
    ) -> HTTPResponse:
        content = json.dumps(body).encode()
        connection.request("POST", path, content, {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status == 200 or (response.status == _BUSY and busy_is_fine):
            return response
        raise UserError(f"{self.url}: {_refusal(response.read())}")

    def get(self, path: str, timeout: float = _CONNECT_SECONDS) -> tuple[int, Any]:
        """The HTTP status, and what is said in JSON (None where it is no JSON).

        Raises:
            OSError, HTTPException: there is no answer.
        """
        with closing(self._connect(timeout)) as connection:
            connection.request("GET", path)
            response = connection.getresponse()
            content = response.read()
        try:
            return response.status, json.loads(content)
        except ValueError:
            return response.status, None

    def own_address(self) -> str:
        """This machine's address, as the server sees it."""
        with closing(self._connect(_CONNECT_SECONDS)) as connection:
            return connection.sock.getsockname()[0]

    def _facts(self) -> ServerFacts | None:
        status, said = self.get(HEALTH)
        if status == _BUSY:
            raise HTTPException("HTTP 503: not ready yet")
        if not isinstance(said, dict) or "protocol" not in said:
            return None
        said.pop("weights")
        protocol = said["protocol"]
        if protocol != PROTOCOL:
            raise UserError(
                f"{self.url} speaks protocol {protocol} (open-r1 {said.get('version')}), and this trainer {PROTOCOL}: "
                "install the same open-r1 for both"
            )
        return ServerFacts(**said)


def beside(
    client: ServerClient,
    path: str,
    body: Mapping[str, Any],
    work: Callable[[Callable[[], None]], None],
    seconds: float,
) -> None:
    """Does the trainer's half of something while the server, asked at ``path``, does its own.

    Args:
        work: is given a function that raises what the server has raised so far, to be called while it waits.
        seconds: that the server may need after ``work`` is done.

    Raises:
        UserError: the server fails, or is not done in time; and whatever ``work`` raises.
    """
    reply = Background(client.post, path, body, _LONGEST_REPLY)
    try:
        work(reply.check)
    except UserError:
        reply.wait(_LAST_WORDS_SECONDS)  # the server mostly knows better what went wrong
        reply.check()
        raise
    reply.wait(seconds)
    if reply.running:
        raise client.lost(f" while it took weights ({seconds:g} s without an answer)")
    reply.check()


def _read_lines(response: HTTPResponse) -> Iterator[dict[str, Any]]:
    while line := response.readline():  # empty ones are heartbeats
        check_interruption()
        if line.strip():
            yield json.loads(line)


def _refusal(content: bytes) -> str:
    try:
        return str(json.loads(content)["error"])
    except (ValueError, KeyError, TypeError):
        return " ".join(content.decode(errors="replace").split())[:300]


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
