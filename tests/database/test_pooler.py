"""Behind pgbouncer: session pooling works, transaction pooling is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread

from mig.database.connection import open_connection
from mig.database.database import Database
from mig.errors import PoolerError, UnavailableError
from mig.model.row import make_row_reader
from mig.model.statement import IdRow, Statement
from tests.support import fleet
from tests.support.api import Api
from tests.support.cluster import Cluster, Server, make_cluster
from tests.support.daemon import run_program
from tests.support.postgres import TestDatabase, hold_transaction, insert_many_commands
from tests.support.programs import find_program
from tests.support.reactor import reactor, wait_until

ECHO = Statement("select %(text)s", make_row_reader(IdRow), name="echo", types={"text": "text"})


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    find_program("pgbouncer")
    with make_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def server(cluster: Cluster) -> Server:
    return cluster.start_primary()


@pytest.fixture(scope="module")
def session_pooling(cluster: Cluster, server: Server) -> str:
    """Return the connection string of a pooler that keeps a session for each connection."""
    return cluster.start_pooler(server, "session", find_program("pgbouncer")).dsn


@pytest.fixture(scope="module")
def transaction_pooling(cluster: Cluster, server: Server) -> str:
    return cluster.start_pooler(server, "transaction", find_program("pgbouncer")).dsn


@pytest.fixture(scope="module")
def commands(server: Server) -> None:
    insert_many_commands(server.database)


@pytest_twisted.async_yield_fixture
async def api(session_pooling: str, tmp_path: Path) -> AsyncIterator[Api]:
    running = Api(session_pooling, tmp_path / "spool")
    yield running
    await running.stop()


def test_transaction_pooling_is_refused_in_one_line(
    transaction_pooling: str, tmp_path: Path
) -> None:
    arguments = ["-n", "mig-api", "--database", transaction_pooling, "--listen", "tcp:0"]
    status, output = run_program(*arguments, cwd=tmp_path)
    assert status == 1
    assert output.count("a pooler that shares sessions between connections") == 1
    assert "Traceback" not in output
    status, output = run_program(
        "migrate", "--plan", "--database", transaction_pooling, program="mig-api"
    )
    assert status == 1
    assert "a pooler that shares sessions" in output and len(output.splitlines()) == 1


@pytest_twisted.ensureDeferred
async def test_each_connection_of_session_pooling_is_accepted(
    session_pooling: str, server: Server
) -> None:
    for dsn in (session_pooling, server.format_dsn()):
        database = Database(reactor, dsn)
        await database.check_sessions()
        database.stop()


@pytest_twisted.ensureDeferred
async def test_transaction_pooling_is_found_while_others_use_the_pooler(
    transaction_pooling: str,
) -> None:
    others = [TestDatabase(dsn=transaction_pooling) for _ in range(4)]
    running = True

    def keep_busy(other: TestDatabase) -> None:
        while running:
            other.execute("select 1")

    busy = [deferToThread(keep_busy, other) for other in others]
    try:
        for _ in range(20):
            database = Database(reactor, transaction_pooling)
            with pytest.raises(PoolerError):
                await database.check_sessions()
            database.stop()
    finally:
        running = False
        for each in busy:
            await each


@pytest_twisted.ensureDeferred
async def test_a_stream_whose_client_has_left_is_cancelled_behind_the_pooler(
    api: Api, server: Server
) -> None:
    """The pid is asked of the server: the pooler answers with a number of its own."""
    sleeping = "select pid from pg_stat_activity where wait_event = 'PgSleep'"
    async with api.database.snapshot("mig-api test") as snapshot:
        await snapshot.declare_cursor("select pg_sleep(600)")
        fetching = snapshot.fetch(1)
        await wait_until(lambda: server.database.execute(sleeping))
    with pytest.raises(UnavailableError):
        await fetching
    # pgbouncer closes its connection, too, but that does not wake the backend
    await wait_until(lambda: not server.database.execute(sleeping))


@pytest_twisted.ensureDeferred
async def test_searches_and_documents_are_answered_behind_the_pooler(
    api: Api, commands: None
) -> None:
    found = await api.get_collection(f"/search?type=command&limit=300&{fleet.ANY_TIME}")
    assert len(found["items"]) == 301  # with a summary
    answers = await gatherResults(
        [Deferred.fromCoroutine(api.get("/command?commandid=1")) for _ in range(20)]
    )
    assert [answer.code for answer in answers] == [200] * 20


@pytest_twisted.ensureDeferred
async def test_a_trace_is_the_name_of_a_request_while_its_statements_run(
    api: Api, server: Server, commands: None
) -> None:
    """Of a document as of a stream, and their connections do not keep it."""
    traces = [f"{n:032x}" for n in (1, 2)]
    running = "select application_name from pg_stat_activity where wait_event_type = 'Lock'"
    seen: set[str] = set()

    def see_both() -> bool:
        seen.update(name for (name,) in server.database.execute(running))
        return len(seen) == 2

    async def get(path: str, trace: str) -> str:
        header = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
        return (await api.get(path, headers=header)).get_header("x-request-id")

    await api.get("/agent?agentid=1")  # prepares the statement
    with hold_transaction(server.database, "lock table agents"):
        asked = gatherResults(
            [
                Deferred.fromCoroutine(get("/agent?agentid=1", traces[0])),
                Deferred.fromCoroutine(get("/search?type=agent", traces[1])),
            ]
        )
        await wait_until(see_both)
    document, stream = await asked
    assert seen == {f"mig-api {document} {traces[0]}", f"mig-api {stream} {traces[1]}"}
    assert {event.operation: event.trace for event in api.ended}[document] == traces[0]
    kept = "select 1 from pg_stat_activity where application_name = any(%s)"
    await wait_until(lambda: not server.database.execute(kept, (list(seen),)))


@pytest_twisted.ensureDeferred
async def test_a_statement_that_another_client_has_prepared_is_a_503(
    transaction_pooling: str,
) -> None:
    """A pooler may be changed to transaction pooling while the service runs."""
    one, two = [await open_connection(reactor, transaction_pooling, "select 1") for _ in range(2)]
    assert await one.execute(ECHO, {"text": "a"}, seconds=10) == [IdRow("a")]
    with pytest.raises(UnavailableError) as refused:
        await two.execute(ECHO, {"text": "b"}, seconds=10)
    assert "already exists" in refused.value.detail
    assert two.is_closed
    one.close()
