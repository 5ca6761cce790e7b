"""A server on this machine that speaks the OpenAI protocol, and misbehaves as the test says."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Act = Callable[["Handler", dict[str, Any], int], None]
"""(handler, body of the request, how often this very request was there before) -> answers on the handler."""


@dataclass
class ChatServer:
    """What was asked, and where."""

    base_url: str
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    models: list[dict[str, Any]] | None = field(default_factory=lambda: [{"id": "m", "max_model_len": 4096}])
    seen: dict[tuple[str, int], int] = field(default_factory=dict)
    in_flight: int = 0
    most_in_flight: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Handler(BaseHTTPRequestHandler):
    server: Any
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        models = self.server.state.models
        if self.path != "/v1/models" or models is None:
            return self.say({"error": {"message": "no such path"}}, 404)
        self.say({"object": "list", "data": models})

    def do_POST(self) -> None:
        state: ChatServer = self.server.state
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with state.lock:
            state.bodies.append(body)
            state.headers.append(dict(self.headers))
            key = (json.dumps(body["messages"]), body["seed"])
            before = state.seen.get(key, 0)
            state.seen[key] = before + 1
            state.in_flight += 1
            state.most_in_flight = max(state.most_in_flight, state.in_flight)
        try:
            self.server.act(self, body, before)
        except OSError:  # the client has left
            pass
        finally:
            with state.lock:
                state.in_flight -= 1

    def say(self, value: Any, code: int = 200, headers: Mapping[str, str] | None = None) -> None:
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(content)

    def drop(self) -> None:
        """Closes the connection without a word."""
        self.close_connection = True
        self.connection.shutdown(2)


def completion(content: str | None, *, tokens: Any = 3, reason: str = "stop", **message: Any) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "id": "x",
        "object": "chat.completion",
        "choices": [
            {"index": 0, "finish_reason": reason, "message": {"role": "assistant", "content": content, **message}}
        ],
    }
    return answer if tokens is None else answer | {"usage": {"completion_tokens": tokens}}


@contextmanager
def chat_server(act: Act) -> Iterator[ChatServer]:
    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 1024

        def handle_error(self, *_: object) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    server.act = act
    server.state = ChatServer(f"http://127.0.0.1:{server.server_address[1]}/v1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server.state
    finally:
        server.shutdown()
        server.server_close()
