"""Listening sockets, bound before the reactor runs, accepted from once the service is ready."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass

BACKLOG = 511

_TCP = re.compile(r"tcp:(?:port=)?([0-9]{1,5})(?::interface=([0-9.]+))?", re.ASCII)


class BadListener(ValueError):
    """The text names no listener; the message says what does."""


@dataclass(frozen=True, kw_only=True)
class Listener:
    """A bound, listening socket."""

    text: str
    socket: socket.socket

    @property
    def port(self) -> int:
        return int(self.socket.getsockname()[1])


def bind(text: str) -> Listener:
    """The listening socket that an endpoint text describes.

    :raises BadListener: for a text of another form.
    :raises OSError: when the address cannot be bound.
    """
    match = _TCP.fullmatch(text)
    if not match or int(match[1]) > 65535:
        raise BadListener(f"{text!r} is no listener; accepted is tcp:PORT:interface=ADDRESS")
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((match[2] or "127.0.0.1", int(match[1])))
        listening.listen(BACKLOG)
    except OSError:
        listening.close()
        raise
    listening.setblocking(False)
    return Listener(text=text, socket=listening)
