"""What the operating system holds of an answer: sent, and not yet taken by the client."""

from __future__ import annotations

import fcntl
import sys
import termios

from twisted.internet.abstract import FileDescriptor
from twisted.protocols.policies import ProtocolWrapper


def find_descriptor(transport: object) -> FileDescriptor | None:
    """Return the socket below a transport, which may be one of TLS; a test may have none."""
    while isinstance(transport, ProtocolWrapper):
        transport = transport.transport
    return transport if isinstance(transport, FileDescriptor) else None


def count_unread_bytes(transport: object) -> int:
    """Return how much was sent that the client has not taken: only then does it get more."""
    descriptor = find_descriptor(transport)
    if descriptor is None or not descriptor.connected:
        return 0
    answer = fcntl.ioctl(descriptor.fileno(), termios.TIOCOUTQ, bytes(4))
    return int.from_bytes(answer, sys.byteorder)
