"""A server on a real socket that answers with what the test says, byte for byte."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from OpenSSL.SSL import TLS_SERVER_METHOD, Context
from twisted.internet.interfaces import IOpenSSLContextFactory, IProtocolFactory
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface import implementer

from tests.support.certificates import Certificate
from tests.support.json_types import Json
from tests.support.reactor import listen_on, reactor, stop_listening

COLLECTION_JSON = "application/vnd.collection+json"
NDJSON = "application/x-ndjson"


@dataclass(frozen=True)
class ScriptedAnswer:
    """An answer; *sent_bytes* is where the connection is closed, before the end of the answer."""

    body: bytes = b""
    status: int = 200
    media_type: str = COLLECTION_JSON
    headers: Sequence[str] = ()
    sent_bytes: int | None = None

    def encode(self) -> bytes:
        lines = [
            f"HTTP/1.1 {self.status} Reason",
            f"Content-Type: {self.media_type}",
            f"Content-Length: {len(self.body)}",
            "Connection: close",
            *self.headers,
        ]
        return "\r\n".join([*lines, "", ""]).encode() + self.body[: self.sent_bytes]


def make_document(*items: Json, **members: Json) -> bytes:
    """Return a Collection+JSON document with *items*, pairs of a name and a value."""
    href = "http://localhost/"
    written = [{"href": href, "data": [{"name": name, "value": value}]} for name, value in items]
    collection = {"version": "1.0", "href": href, "items": written, **members}
    return json.dumps({"collection": collection}).encode()


def make_error(status: int, message: str, *headers: str) -> ScriptedAnswer:
    """Return an error as the API answers it."""
    error = {"title": "Error", "code": "4711", "message": message}
    return ScriptedAnswer(make_document(error=error), status, headers=headers)


class _Connection(Protocol):
    def __init__(self, server: ScriptedServer) -> None:
        self._server = server
        self._received = b""

    def dataReceived(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        lengths = [
            line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
        ]
        if not end or any(len(body) < int(line.split(b":")[1]) for line in lengths):
            return
        assert self.transport is not None
        self._server.requests.append(self._received)
        answer = self._server.answers.pop(0)
        if answer is not None:
            self.transport.write(answer.encode())
        self.transport.loseConnection()


@implementer(IOpenSSLContextFactory)
class _Contexts:
    def __init__(self, certificate: Certificate) -> None:
        self._context = Context(TLS_SERVER_METHOD)
        self._context.use_certificate(certificate.certificate)
        key = certificate.private_key
        assert isinstance(key, EllipticCurvePrivateKey)
        self._context.use_privatekey(key)

    def getContext(self) -> Context:
        return self._context


class ScriptedServer:
    """A server whose *answers* are sent one after the other; ``None`` closes the connection.

    ``requests`` are those that arrived, as bytes. With a certificate, it speaks TLS.
    """

    def __init__(
        self, *answers: ScriptedAnswer | None, certificate: Certificate | None = None
    ) -> None:
        self.answers = list(answers)
        self.requests: list[bytes] = []
        factory: IProtocolFactory = Factory.forProtocol(lambda: _Connection(self))
        if certificate:
            contexts = _Contexts(certificate)
            factory = TLSMemoryBIOFactory(contexts, isClient=False, wrappedFactory=factory)
        listener = listen_on("tcp:0")
        scheme = "https" if certificate else "http"
        self.url = f"{scheme}://localhost:{listener.port}/api/v1"
        self.port = listener.start_accepting(reactor, factory)

    @property
    def paths(self) -> list[str]:
        """What was requested: method and target."""
        return [b" ".join(request.split(b" ", 2)[:2]).decode() for request in self.requests]

    async def stop(self) -> None:
        await stop_listening(self.port)
