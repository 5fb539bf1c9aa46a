"""The site of :mod:`tests.support.site_client` on a real socket."""

from __future__ import annotations

import socket

from twisted.internet.threads import deferToThread

from tests.support.reactor import listen_on, port_number, reactor
from tests.support.site_client import BASE, EchoRoutes, make_echo_site

HEARTBEAT = b"GET /api/v1/heartbeat HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Server:
    """The site of :mod:`tests.support.site_client` on a real socket."""

    def __init__(self) -> None:
        self.echo_routes = EchoRoutes()
        self.site = make_echo_site(reactor, BASE, self.echo_routes)
        self.port = listen_on("tcp:0").start_accepting(reactor, self.site)

    async def exchange_bytes(self, *data: bytes) -> bytes:
        """Send *data* and return the whole answer; the client closes only after its end."""

        def exchange_bytes() -> bytes:
            address = ("127.0.0.1", port_number(self.port))
            with socket.create_connection(address, timeout=20) as client:
                for piece in data:
                    client.sendall(piece)
                parts = []
                while part := client.recv(65536):
                    parts.append(part)
                return b"".join(parts)

        return await deferToThread(exchange_bytes)
