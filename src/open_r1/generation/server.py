"""The server of ``open-r1 serve-vllm``: completions over HTTP, from a model whose weights a trainer changes.

``GET /health`` says what is served; ``POST /generate`` answers with a line of JSON for each completion as it finishes;
``POST /weights/open`` joins a trainer's weight channel, and ``POST /weights/update`` takes all weights from it.
"""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import asdict
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from open_r1.errors import UserError
from open_r1.generation.engine import check_requests
from open_r1.generation.server_batches import AtCapacity, Batches
from open_r1.generation.server_model import Meeting, ServedModel
from open_r1.generation.server_port import listening, reuse
from open_r1.generation.server_protocol import (
    GENERATE,
    HEALTH,
    HEARTBEAT_SECONDS,
    NO_WEIGHTS,
    OPEN,
    UPDATE,
    pack_completion,
    unpack_requests,
)
from open_r1.parallel.weight_channel import TrainerWatch

logger = logging.getLogger(__name__)

_BAD_REQUEST, _NOT_FOUND, _CONFLICT, _FAILED, _BUSY = 400, 404, 409, 500, 503


class StaleWeights(Exception):  # noqa: N818 - an answer, not a defect
    """The weights here are not those that are to draw."""


class _TryLock:
    """Holds a lock, or says that another trainer does."""

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise StaleWeights("another trainer is sending its weights: each needs a server of its own")

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class EngineServer(ThreadingHTTPServer):
    """Serves ``model`` at ``place`` (of `server_port.reserve`); `serve_forever` runs until `shutdown`.

    Args:
        weight_timeout: seconds that a trainer may take for one step of a weight update.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, place: socket.socket, model: ServedModel, weight_timeout: float) -> None:
        self.model, self.weight_timeout = model, weight_timeout
        self.batches = Batches(model.engine)
        address = place.getsockname()
        super().__init__(address, _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = place
        with listening(address):
            reuse(place)
            self.server_activate()
        self.version = NO_WEIGHTS if model.facts.waits_for_weights else 0
        self.weights_lock = threading.Lock()
        self._trainer: TrainerWatch | None = None

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{self.server_address[0]}:{self.server_address[1]}"

    def server_close(self) -> None:
        self.batches.close()
        super().server_close()

    def handle_error(self, *_: object) -> None:
        logger.debug("a client has left", exc_info=True)

    def open_channel(self, host: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Joins the channel of the trainer at ``host``; weights that came before are no longer answered for.

        Raises:
            StaleWeights: a trainer that came before still uses the model.
        """
        timeout = min(float(body["timeout"]), self.weight_timeout)
        meeting = Meeting(body.get("host") or host, int(body["port"]), int(body["processes"]), timeout)
        if self._trainer is not None and self._trainer.lives():
            raise StaleWeights(
                "another trainer is using this server: each needs one of its own, at another port (--port, and "
                "--vllm_server_port of its trainer)"
            )
        with _TryLock(self.weights_lock):
            self._trainer, self.version = None, NO_WEIGHTS
            self.batches.between(lambda: self.model.meet(meeting), self.weight_timeout)
            with suppress(OSError):  # gone again already
                self._trainer = TrainerWatch(meeting.host, meeting.port)
        return {}

    def update(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Takes all weights, which have the version that the trainer says."""

        def receive() -> None:
            self.version = NO_WEIGHTS
            self.model.receive()
            self.version = int(body["version"])

        with _TryLock(self.weights_lock):
            self.batches.between(receive, self.weight_timeout)
        return {"version": self.version}

    def completions(self, body: Mapping[str, Any]) -> Iterator[dict[str, Any] | None]:
        """Completions as they finish, packed; None where nothing finished for a while.

        Raises:
            AtCapacity, StaleWeights, UserError: at once, where nothing is drawn.
        """
        requests, params = unpack_requests(body)
        check_requests(requests, params, self.model.facts.context)
        check = partial(self._check_version, body.get("version"))
        check()
        job = self.batches.submit(requests, params, int(body.get("parties", 1)), check)
        return (
            None if completion is None else pack_completion(completion)
            for completion in self.batches.completions(job, HEARTBEAT_SECONDS)
        )

    def _check_version(self, wanted: int | None) -> None:
        if self.version == NO_WEIGHTS:
            raise StaleWeights("the model has no whole weights: the trainer has to send them")
        if wanted is not None and wanted != self.version:
            raise StaleWeights(f"the server has weights {self.version} and the trainer asks for {wanted}")


class _Handler(BaseHTTPRequestHandler):
    server: EngineServer
    protocol_version = "HTTP/1.1"
    timeout = 3600.0

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == HEALTH:
            self._say(asdict(self.server.model.facts) | {"weights": self.server.version})
        else:
            self._say({"error": f"no such path: {self.path}"}, _NOT_FOUND)

    def do_POST(self) -> None:
        try:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            if self.path == GENERATE:
                self._stream(self.server.completions(body))
            elif self.path == OPEN:
                self._say(self.server.open_channel(self.client_address[0], body))
            elif self.path == UPDATE:
                self._say(self.server.update(body))
            else:
                self._say({"error": f"no such path: {self.path}"}, _NOT_FOUND)
        except AtCapacity as error:
            self._say({"error": str(error)}, _BUSY)
        except StaleWeights as error:
            self._say({"error": str(error)}, _CONFLICT)
        except UserError as error:
            self._say({"error": str(error)}, _BAD_REQUEST)
        except (KeyError, TypeError, IndexError, ValueError) as error:
            self._say({"error": f"not a request of this protocol: {error!r}"}, _BAD_REQUEST)
        except ConnectionError:
            raise
        except Exception as error:
            logger.exception("%s failed", self.path)
            self._say({"error": f"the server failed: {type(error).__name__}: {error}"}, _FAILED)

    def _say(self, value: Mapping[str, Any], code: int = 200) -> None:
        content = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _stream(self, lines: Iterator[dict[str, Any] | None]) -> None:
        """A line for each completion, an empty one where nothing happens, and a last one that says how it ended."""
        self.send_response(200)
        self.send_header("Content-Type", "application/jsonl")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            with closing(lines):
                for line in lines:
                    self._chunk(b"\n" if line is None else json.dumps(line).encode() + b"\n")
            self._chunk(b'{"end": true}\n')
        except ConnectionError:
            raise
        except Exception as error:
            known = isinstance(error, UserError | StaleWeights)
            if not known:
                logger.exception("drawing failed")
            said = str(error) if known else f"{type(error).__name__}: {error}"
            self._chunk(json.dumps({"error": said}).encode() + b"\n")
        self._chunk(b"")

    def _chunk(self, content: bytes) -> None:
        self.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")
        self.wfile.flush()
