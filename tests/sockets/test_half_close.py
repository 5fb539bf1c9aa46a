"""A client that closes its sending side still gets the answers that are sent whole."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import pytest
import pytest_twisted
from twisted.internet.interfaces import IListeningPort
from twisted.internet.threads import deferToThread

from mig.limits import Limits
from tests.support import fleet
from tests.support.api import Api
from tests.support.echo_server import HEARTBEAT, Server
from tests.support.postgres import TestDatabase
from tests.support.reactor import port_number, stop_listening
from tests.support.site_client import (
    CREATE,
    FORM,
    PendingAuthenticator,
    SiteClient,
    build_post_head,
    parse_answer,
)

POST = build_post_head(CREATE, FORM, "Content-Length: 8") + b"action=1"
TOO_LONG = build_post_head(CREATE, FORM, "Content-Length: 99999999")
LIMITS = Limits()


def exchange(port: IListeningPort, data: bytes) -> bytes:
    """Send *data*, close the sending side, and return everything that the service sends."""
    with socket.create_connection(("127.0.0.1", port_number(port)), timeout=20) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        parts = []
        while part := client.recv(65536):
            parts.append(part)
        return b"".join(parts)


@pytest_twisted.async_yield_fixture
async def server() -> AsyncIterator[Server]:
    running = Server()
    yield running
    await stop_listening(running.port)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/heartbeat",
        "/dashboard",
        "/action/create/",
        "/agent?agentid=1",
        "/command?commandid=1",
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_short_answer_reaches_a_client_that_sends_nothing_more(
    api: Api, database: TestDatabase, path: str
) -> None:
    fleet.insert_rows(database.dsn, "actions", [fleet.make_action(1)])
    fleet.insert_rows(database.dsn, "agents", [fleet.make_agent(1)])
    fleet.insert_rows(database.dsn, "commands", [fleet.make_command(1, 1, 1)])
    request = f"GET /api/v1{path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    answer = await deferToThread(exchange, api.port, request)
    assert parse_answer(answer)[0] == 200


@pytest.mark.parametrize(
    ("sent", "statuses"),
    [
        (POST, [200]),
        (HEARTBEAT * 3, [200] * 3),
        (POST + HEARTBEAT, [200] * 2),
        (TOO_LONG, [413]),
        (POST[:-1], []),
        (HEARTBEAT[:-2], []),
        (HEARTBEAT + HEARTBEAT[:-2], [200]),
        (b"", []),
    ],
    ids=["POST", "three", "POST and GET", "refused", "body", "headers", "one and a half", "none"],
)
@pytest_twisted.ensureDeferred
async def test_every_complete_request_is_answered_and_the_connection_closed(
    server: Server, sent: bytes, statuses: list[int]
) -> None:
    answer = await deferToThread(exchange, server.port, sent)
    found = [int(part[1:4]) for part in answer.split(b"HTTP/1.1")[1:]]
    assert found == statuses


@pytest.mark.parametrize(("body", "is_answered"), [(b"action=1", True), (b"action=", False)])
def test_a_post_that_waits_for_the_gate_is_answered_if_it_is_complete(
    body: bytes, is_answered: bool
) -> None:
    authenticator = PendingAuthenticator()
    client = SiteClient(authenticate=authenticator)
    assert not client.send(build_post_head(CREATE, FORM, "Content-Length: 8") + body)
    client.channel.readConnectionLost()
    assert not client.transport.disconnecting
    authenticator.accept_next()
    assert client.take_output().startswith(b"HTTP/1.1 200 ") is is_answered
    assert client.transport.disconnecting


def test_a_search_that_waits_for_the_gate_is_cancelled() -> None:
    client = SiteClient(authenticate=PendingAuthenticator())
    client.send(b"GET /api/v1/search HTTP/1.1\r\nHost: localhost\r\n\r\n")
    client.channel.readConnectionLost()
    assert client.transport.disconnected


def test_a_client_that_does_not_read_its_answer_is_disconnected() -> None:
    client = SiteClient()
    client.send(HEARTBEAT[:-2] + b"Connection: close\r\n\r\n")
    assert client.transport.disconnecting and not client.transport.disconnected
    client.advance(LIMITS.idle_seconds)
    assert client.transport.disconnected
