"""What a lost, silent or strange server costs, and what is said about it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg2.extensions
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater
from twisted.internet.threads import deferToThread

from mig.database.connection import LARGE_BYTES, Connection, open_connection
from mig.database.database import Database
from mig.database.driver import DriverConnection
from mig.database.resolver import list_servers
from mig.errors import UnavailableError, describe_error
from mig.limits import Limits
from mig.model.statement import select_ids
from tests.support.postgres import TestDatabase
from tests.support.reactor import reactor, record_log


class ReactorWithClock:
    """The reactor, with delays that end when the test says so."""

    def __init__(self) -> None:
        self.clock = Clock()

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)

    def callLater(self, delay: float, call: Callable[..., Any], *arguments: Any) -> Any:
        clock = self.clock if delay else reactor
        return clock.callLater(delay, call, *arguments)


@contextmanager
def listen_silently() -> Iterator[tuple[socket.socket, int]]:
    """Listen as a server that never answers; yield the socket and its port."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        server.settimeout(20)
        yield server, server.getsockname()[1]


async def connect(database: TestDatabase) -> Connection:
    return await open_connection(reactor, database.dsn, "select 1")


async def wait_until_closed(connection: Connection) -> None:
    while not connection.is_closed:
        await deferLater(reactor, 0.01)


@pytest_twisted.ensureDeferred
async def test_a_silent_server_is_given_up_with_the_seconds_waited() -> None:
    slow: Any = ReactorWithClock()
    with listen_silently() as (server, port):
        opening = Deferred.fromCoroutine(
            open_connection(slow, f"host=127.0.0.1 port={port} dbname=x user=x", "select 1")
        )
        accepted, _ = await deferToThread(server.accept)
        with closing(accepted):
            slow.clock.advance(10)
            with pytest.raises(UnavailableError) as refused:
                await opening
    assert str(refused.value) == "the database does not answer"
    assert refused.value.detail == "no answer within 10 s"


@pytest_twisted.ensureDeferred
async def test_a_silent_server_does_not_hide_the_next_one(database: TestDatabase) -> None:
    slow: Any = ReactorWithClock()
    parameters = psycopg2.extensions.parse_dsn(database.dsn)
    with listen_silently() as (server, port):
        parameters |= {"host": f"127.0.0.1,{parameters['host']}", "port": f"{port},5432"}
        dsn = psycopg2.extensions.make_dsn(**parameters)
        opening = Deferred.fromCoroutine(open_connection(slow, dsn, "select 1"))
        accepted, _ = await deferToThread(server.accept)
        with closing(accepted):
            slow.clock.advance(5)
            connection = await opening
    assert connection.backend_pid
    connection.close()


@pytest_twisted.ensureDeferred
async def test_each_of_several_servers_says_why_it_cannot_be_used(
    database: TestDatabase,
) -> None:
    database.execute(
        "alter database {} set default_transaction_read_only = on".format(
            psycopg2.extensions.parse_dsn(database.dsn)["dbname"]
        )
    )
    parameters = psycopg2.extensions.parse_dsn(database.dsn)
    folder = parameters["host"]
    dsn = psycopg2.extensions.make_dsn(
        **parameters | {"host": f"/nowhere,{folder}", "port": "1,5432"},
        target_session_attrs="read-write",
    )
    with pytest.raises(UnavailableError) as refused:
        await open_connection(reactor, dsn, "select 1")
    first, second = refused.value.detail.split("; ")
    assert first.startswith("/nowhere:1: ") and "No such file" in first
    assert second == f"{folder}:5432: session is read-only"


@pytest_twisted.ensureDeferred
async def test_a_statement_without_an_answer_says_how_long_it_waited(
    database: TestDatabase,
) -> None:
    connection = await connect(database)
    with pytest.raises(UnavailableError) as refused:
        await connection.execute("select pg_sleep(600)", seconds=0.05)
    assert describe_error(refused.value) == (
        "the database does not answer: no answer within 0.05 s"
    )
    assert connection.is_closed


@pytest_twisted.ensureDeferred
async def test_the_reason_of_the_server_is_kept_for_the_next_statement(
    database: TestDatabase,
) -> None:
    """An idle connection is closed at once; who uses it next learns why."""
    connection = await connect(database)
    database.execute("select pg_terminate_backend(%s)", (connection.backend_pid,))
    await wait_until_closed(connection)
    with pytest.raises(UnavailableError) as refused:
        await connection.execute("select 1", seconds=10)
    assert "terminating connection due to administrator command" in refused.value.detail


class ClosedByLibpq:
    """A connection of psycopg2 whose descriptor libpq has closed, unnoticed by psycopg2."""

    closed = 0
    notifies: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.notices = ["FATAL:  the server has had enough\n"]

    def poll(self) -> int:
        return int(psycopg2.extensions.POLL_OK)

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        self.closed = 1


@pytest.mark.parametrize("event", ["the server sends", "a statement ends"])
def test_a_closed_descriptor_is_not_watched_again(event: str) -> None:
    raw: Any = DriverConnection(reactor)
    raw.connectionFactory = lambda *_, **__: ClosedByLibpq()
    with record_log() as log:
        raw.connect("")
        if event == "the server sends":
            raw.doRead()
        else:
            cursor = object()
            raw.cursorRunning(cursor)
            raw.cursorFinished(cursor)
    assert raw.closed
    assert "the server has had enough" in raw.end_reason
    assert not log.failures


@pytest.mark.parametrize(
    ("dsn", "servers"),
    [
        ("dbname=x", ["dbname=x"]),
        ("host=/run/a,/run/b", ["host=/run/a", "host=/run/b"]),
        (
            "host=127.0.0.1,/run/b port=1,2",
            ["host=127.0.0.1 port=1 hostaddr=127.0.0.1", "host=/run/b port=2"],
        ),
        (
            "host=a,b hostaddr=192.0.2.1,192.0.2.2 port=7",
            ["host=a hostaddr=192.0.2.1 port=7", "host=b hostaddr=192.0.2.2 port=7"],
        ),
        ("hostaddr=192.0.2.1,::1", ["hostaddr=192.0.2.1", "hostaddr=::1"]),
        (
            "host=no-such-host.invalid,127.0.0.1",
            ["host=127.0.0.1 hostaddr=127.0.0.1"],
        ),
        ("host=127.0.0.1,127.0.0.2,::1 port=1,2", ["host=127.0.0.1,127.0.0.2,::1 port=1,2"]),
    ],
)
@pytest_twisted.ensureDeferred
async def test_each_server_of_a_connection_string_is_tried_by_itself(
    dsn: str, servers: list[str]
) -> None:
    parse = psycopg2.extensions.parse_dsn
    assert await list_servers(reactor, parse(dsn)) == [parse(server) for server in servers]


@pytest_twisted.ensureDeferred
async def test_no_connection_is_kept_after_a_large_statement_or_row(
    database: TestDatabase,
) -> None:
    """The buffers of libpq would keep its size for as long as the connection lives."""
    service = Database(reactor, database.dsn, limits=Limits(query_connections=1))
    select_pid = select_ids("select pg_backend_pid()::text")
    try:
        pids = [await service.query(select_pid), await service.query(select_pid)]
        await service.query(select_ids(f"select repeat('x', {LARGE_BYTES + 1})"))
        pids.append(await service.query(select_pid))
        await service.query(select_ids("select length(%s)::text"), ("x" * LARGE_BYTES,))
        pids.append(await service.query(select_pid))
        assert pids[0] == pids[1] and len({pid.id for (pid,) in pids}) == 3
    finally:
        service.stop()
