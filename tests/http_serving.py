"""Serving from a thread, on a free port of this machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler], **attributes: object) -> Iterator[str]:
    """The address at which a handler answers that has ``attributes`` in its class; it prints nothing."""
    members = {"protocol_version": "HTTP/1.1", "log_message": lambda *_: None, **attributes}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type(handler.__name__, (handler,), members))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
