"""A real PostgreSQL for the whole run, a database of its own for each test, the API on a socket."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import pytest_twisted
import treq
from hypothesis import HealthCheck, settings
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort
from twisted.web.client import HTTPConnectionPool

from mig.actions.outbox import NoSpool, Outbox, Polled
from mig.actions.spool import Spool
from mig.actions.store import Actions
from mig.database.pool import Database
from mig.database.schema import migrate
from mig.demo.postgres import EmbeddedPostgres
from mig.investigators.registry import Investigators
from mig.service.listeners import bind
from mig.signing.gpg.verify import Gpg
from mig.web.site import ApiSite
from tests import fleet
from tests.keys import Keys

REPETITIONS = int(os.environ.get("REPETITIONS", "1"))
"""How many times as many examples the property tests try."""

settings.register_profile(
    "mig",
    max_examples=60 * REPETITIONS,
    deadline=None,
    derandomize=REPETITIONS == 1,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("mig")

FAST = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}


@pytest.fixture(scope="session")
def postgres(twisted_greenlet: Any) -> Iterator[EmbeddedPostgres]:
    folder = Path(tempfile.gettempdir()) / f"mig-api-test-{os.getpid()}"
    server = EmbeddedPostgres(reactor, folder, FAST)

    async def start() -> None:
        server.lock()
        await server.start()
        database = Database(reactor, server.dsn(database="template1"))
        await migrate.prepare(database, upgrade=True)
        database.stop()

    pytest_twisted.blockon(Deferred.fromCoroutine(start()))
    yield server
    pytest_twisted.blockon(Deferred.fromCoroutine(server.stop()))
    server.remove()


@dataclass(frozen=True, kw_only=True)
class TestDatabase:
    """A new database with the schema in it."""

    __test__ = False

    dsn: str

    def execute(self, sql: str, parameters: Any = None) -> list[tuple[Any, ...]]:
        with closing(psycopg2.connect(self.dsn)) as connection:
            connection.autocommit = True
            cursor = connection.cursor()
            cursor.execute(sql, parameters)
            return cursor.fetchall() if cursor.description else []


_made = 0


@pytest.fixture
def new_database(postgres: EmbeddedPostgres) -> Iterator[Callable[[], TestDatabase]]:
    names = []

    def make(template: str = "template1") -> TestDatabase:
        global _made
        _made += 1
        names.append(f"test_{_made}")
        admin = TestDatabase(dsn=postgres.dsn())
        admin.execute(f"create database {names[-1]} template {template}")
        return TestDatabase(dsn=postgres.dsn(database=names[-1]))

    yield make
    for name in names:
        TestDatabase(dsn=postgres.dsn()).execute(f"drop database {name} with (force)")


@pytest.fixture
def database(new_database: Callable[[], TestDatabase]) -> TestDatabase:
    return new_database()


@pytest.fixture(scope="session")
def keys() -> Iterator[Keys]:
    made = Keys()
    yield made
    made.stop()


MANY_COMMANDS = 20_000


@pytest.fixture
def many(database: TestDatabase) -> TestDatabase:
    """A database whose report is some 40 MB."""
    fleet.insert(database.dsn, "actions", [fleet.action(1)])
    fleet.insert(database.dsn, "agents", [fleet.agent(1)])
    database.execute(
        "insert into commands select n, 1, 1, 'success', %s::json, now() - n * interval '1 s',"
        f" now() from generate_series(1, {MANY_COMMANDS}) n",
        (
            '[{{"elements":{{"a":[{}]}}}}]'.format(
                ",".join(['{"file":"/etc/passwd","search":{}}'] * 5)
            ),
        ),
    )
    return database


class Api:
    """The API of a database, on a real socket, and a client for it."""

    def __init__(self, dsn: str, spool: Path | None = None, handoff: str = "spool") -> None:
        self.database = Database(reactor, dsn)
        self.gpg = Gpg(reactor)
        self.spool = spool
        if spool:
            Spool(spool).prepare()
            self.handoff: Polled = Outbox(reactor, self.database, Spool(spool))
        else:
            self.handoff = Polled() if handoff == "database" else NoSpool()
        self.pool = HTTPConnectionPool(reactor, persistent=False)
        listener = bind("tcp:0")
        self.root = f"http://localhost:{listener.port}"
        self.base = f"{self.root}/api/v1"
        site = ApiSite(
            reactor,
            self.database,
            self.base,
            actions=Actions(reactor, self.database, self.gpg, self.handoff),
            investigators=Investigators(self.database, self.gpg),
        )
        fd, family = listener.socket.fileno(), listener.socket.family
        self.port: IListeningPort = reactor.adoptStreamPort(fd, family, site)
        listener.socket.close()

    async def request(self, method: str, path: str, **kw: Any) -> Any:
        """The response to a request below the base route, and its body."""
        url = path if path.startswith("http") else self.base + path
        response = await treq.request(method, url, pool=self.pool, allow_redirects=False, **kw)
        response.body = await response.content()
        return response

    async def get(self, path: str, **kw: Any) -> Any:
        return await self.request("GET", path, **kw)

    async def collection(self, path: str, status: int = 200) -> Any:
        """The collection that a path answers with."""
        response = await self.get(path)
        document = await response.json()
        assert response.code == status, document
        return document["collection"]

    async def stop(self) -> None:
        await self.port.stopListening()
        await self.gpg.stop()
        await self.handoff.stop()
        self.database.stop()
        await self.pool.closeCachedConnections()


@pytest_twisted.async_yield_fixture
async def api(database: TestDatabase, tmp_path: Path) -> AsyncIterator[Api]:
    running = Api(database.dsn, tmp_path / "spool")
    yield running
    await running.stop()
