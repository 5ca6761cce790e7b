"""Ports at which servers of this machine listen."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

from open_r1.errors import UserError

FREE_SECONDS = 10.0
"""How long the port of a server that is to be started may still be taken."""


def reserve(address: tuple[str, int]) -> socket.socket:
    """The address for a server that will listen there once its model is loaded, which takes minutes.

    Until then connections are refused, and nobody else gets the port: not even the trainer that asks again and again
    whether the server is up, whose own end of a connection the system may put at any port that is free.

    Raises:
        UserError: somebody has the port, or it is no address of this machine.
    """
    place = socket.socket()
    with listening(address):
        try:
            place.bind(address)
        except OSError:
            reuse(place)  # a port that somebody else has is refused again
            place.bind(address)
    return place


def reuse(place: socket.socket) -> None:
    """Lets the address be had although connections of a server that has ended are there for another minute.

    A socket that others shall not share is told so once it is bound, for the sake of the next one.
    """
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)


@contextmanager
def listening(address: tuple[str, int]) -> Iterator[None]:
    """Turns the ways in which listening at ``address`` fails into one line."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{address[0]}:{address[1]} cannot be listened at ({error.strerror}): choose another --port or --host"
        ) from error


def check_free(port: int) -> None:
    """Raises UserError where somebody has ``port``: a server of another run would be taken for the one that is to come.

    One that has lost its trainer ends by itself, so some seconds are waited for that.
    """
    _wait_until_free("127.0.0.1", port, "no server can be started", "--vllm_server_port")


def check_group_port(port: int) -> None:
    """Raises UserError where somebody has the port for weights, which is opened only once a server is up; 0 is free."""
    if port:
        _wait_until_free("0.0.0.0", port, "weights cannot be sent", "--vllm_group_port")


def _wait_until_free(host: str, port: int, what: str, setting: str) -> None:
    end = time.monotonic() + FREE_SECONDS
    while True:
        try:
            return socket.create_server((host, port)).close()
        except OSError as error:
            if time.monotonic() > end:
                raise UserError(
                    f"{what} at port {port} ({os.strerror(error.errno)}): another run may have it; give another "
                    f"{setting}"
                ) from error
        time.sleep(0.2)


def free_port() -> int:
    """A port of this machine that nobody has just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
