"""Connections whose certificates are not checked, for ``skipverifycert``."""

from __future__ import annotations

from OpenSSL.SSL import TLS_CLIENT_METHOD, VERIFY_NONE, Connection, Context
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.iweb import IAgent, IPolicyForHTTPS
from zope.interface import implementer


def make_unverified_agent() -> IAgent:
    """Return an agent that accepts every certificate."""
    from twisted.internet import reactor

    return Agent(reactor, _UnverifiedPolicy(), pool=HTTPConnectionPool(reactor))


@implementer(IPolicyForHTTPS)
class _UnverifiedPolicy:
    def creatorForNetloc(self, hostname: bytes, port: int) -> IOpenSSLClientConnectionCreator:
        """Return what makes a connection to a host."""
        return _UnverifiedConnections(hostname)


@implementer(IOpenSSLClientConnectionCreator)
class _UnverifiedConnections:
    def __init__(self, hostname: bytes) -> None:
        self._hostname = hostname

    def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> Connection:  # noqa: N803 - a name of Twisted
        """Return a connection that still says to which host it is."""
        context = Context(TLS_CLIENT_METHOD)
        context.set_verify(VERIFY_NONE)
        connection = Connection(context, None)
        connection.set_tlsext_host_name(self._hostname)
        return connection
