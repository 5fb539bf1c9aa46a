"""What was acknowledged survives the loss of the primary, when a standby is synchronous."""

from __future__ import annotations

import http.client
import json
import urllib.request
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Event
from urllib.error import HTTPError
from urllib.parse import quote, urlencode

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from mig.database.database import Database
from mig.database.schema.declaration import API_ROLE
from mig.errors import UnavailableError
from mig.limits import Limits
from tests.support.api import Api
from tests.support.audit import list_audited_actions
from tests.support.cluster import Cluster, Server, make_cluster
from tests.support.daemon import Daemon, wait_for
from tests.support.json_types import JsonObject
from tests.support.keys import Keys
from tests.support.properties import REPETITIONS
from tests.support.reactor import reactor, record_log, wait_until
from tests.support.submissions import (
    Case,
    assert_refused,
    list_spool,
    make_action,
    post_submission,
)

CLIENTS = 4
ACTIONS = 40 * REPETITIONS
WAITING_COMMITS = "select pid from pg_stat_activity where wait_event = 'SyncRep'"


class Load:
    """Clients that post each action until it is accepted, and remember under which ids."""

    def __init__(self, daemon: Daemon, actions: list[JsonObject]) -> None:
        self._url = f"{daemon.base}action/create/"
        self._bodies = [urlencode({"action": json.dumps(each)}).encode() for each in actions]
        self._pause = Event()
        self.ids: list[set[str]] = [set() for _ in actions]
        self.refusals = 0

    @property
    def accepted(self) -> int:
        return sum(map(bool, self.ids))

    def post(self, n: int) -> int | None:
        """Return the status of the answer; ``None`` when the connection broke."""
        try:
            with urllib.request.urlopen(self._url, self._bodies[n], 60) as answer:
                [item] = json.load(answer)["collection"]["items"]
                self.ids[n].add(str(item["data"][0]["value"]["id"]))
                return int(answer.status)
        except HTTPError as refusal:
            with refusal:
                self.refusals += 1
                return refusal.code
        except (OSError, http.client.HTTPException):
            return None

    def post_until_accepted(self, n: int) -> None:
        while self.post(n) != 202:
            self._pause.wait(0.05)


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[Server, Server]]:
    """Start a primary, whose commits wait for its standby, and the standby."""
    with make_cluster() as cluster:
        primary = cluster.start_primary()
        standby = cluster.start_standby(primary)
        primary.require_standby()
        yield primary, standby


@pytest.fixture
def primary(servers: tuple[Server, Server]) -> Server:
    """Return the primary with an empty database, and its standby running."""
    primary, standby = servers
    primary.start()
    standby.start()
    primary.wait_for_standby()
    primary.database.execute(
        "delete from submissions; delete from signatures; delete from actions;"
        " delete from investigators"
    )
    return primary


@pytest.fixture
def standby(servers: tuple[Server, Server]) -> Server:
    return servers[1]


@pytest.fixture
def case(keys: Keys, primary: Server) -> Case:
    return Case(keys, primary.database)


@asynccontextmanager
async def run_api(primary: Server, folder: Path, query_seconds: float = 10) -> AsyncIterator[Api]:
    limits = Limits(query_seconds=query_seconds)
    api = Api(primary.format_dsn(API_ROLE), folder / "spool", limits=limits)
    api.handoff.start()
    try:
        yield api
    finally:
        await api.stop()


async def check_accepted_once(api: Api, primary: Server, submission: JsonObject) -> None:
    """Check that a submission, posted again, is one action that is handed over once."""
    answer = await post_submission(api, submission)
    while answer.code == 503:  # until the outbox works again
        answer = await post_submission(api, submission)
    assert answer.code == 202, answer.body
    await wait_until(lambda: list_spool(api))
    [(action_id,)] = primary.database.execute("select id::text from actions")
    assert answer.get_header("Location").endswith(f"={action_id}")
    assert [path.name for path in list_spool(api)] == [f"{action_id}.json"]


@pytest_twisted.ensureDeferred
async def test_nothing_is_acknowledged_or_handed_over_without_the_standby(
    primary: Server, standby: Server, case: Case, tmp_path: Path
) -> None:
    good = case.sign_action(make_action())
    async with run_api(primary, tmp_path, query_seconds=1) as api:
        standby.kill()
        with record_log() as log:
            await assert_refused(api, good, "the database does not answer", 503)
            await assert_refused(api, good, "", 503)
        assert not log.failures
        assert not list_spool(api)
        standby.start()
        await check_accepted_once(api, primary, good)


@pytest_twisted.ensureDeferred
async def test_commits_that_wait_for_the_standby_do_not_pile_up(
    primary: Server, standby: Server, case: Case, tmp_path: Path
) -> None:
    """They have no time limit at the server, so they are cancelled when they are given up."""
    async with run_api(primary, tmp_path, query_seconds=1) as api:
        standby.kill()
        for n in range(3):
            await assert_refused(api, case.sign_action(make_action(name=f"action {n}")), "", 503)
        await api.handoff.stop()
        await wait_until(lambda: not primary.database.execute(WAITING_COMMITS))


@pytest_twisted.ensureDeferred
async def test_a_cancelled_wait_for_the_standby_is_no_acknowledgement(
    primary: Server, standby: Server, case: Case, tmp_path: Path
) -> None:
    """PostgreSQL then warns, and has committed the action only on its own disk."""
    good = case.sign_action(make_action())
    async with run_api(primary, tmp_path) as api:
        standby.kill()
        refused = Deferred.fromCoroutine(assert_refused(api, good, "did not confirm", 503))
        await wait_until(lambda: primary.database.execute(WAITING_COMMITS))
        cancel = f"select pg_cancel_backend(pid) from ({WAITING_COMMITS}) w"
        await deferToThread(primary.database.execute, cancel)
        await refused
        # the outbox has seen the action, and waits for the standby, too
        await wait_until(lambda: primary.database.execute(WAITING_COMMITS))
        assert not list_spool(api)
        standby.start()
        await check_accepted_once(api, primary, good)


@pytest_twisted.ensureDeferred
async def test_an_action_whose_commit_got_no_answer_keeps_its_id(
    primary: Server, standby: Server, case: Case, tmp_path: Path
) -> None:
    good = case.sign_action(make_action())
    async with run_api(primary, tmp_path) as api:
        standby.kill()
        refused = Deferred.fromCoroutine(assert_refused(api, good, "", 503))
        await wait_until(lambda: primary.database.execute(WAITING_COMMITS))
        primary.kill()
        await refused
        await deferToThread(primary.start)
        standby.start()
        await check_accepted_once(api, primary, good)


@pytest_twisted.ensureDeferred
async def test_a_stream_on_a_standby_that_recovery_ends_says_so(
    primary: Server, standby: Server
) -> None:
    standby.database.execute("alter system set max_standby_streaming_delay = 0")
    standby.database.execute("select pg_reload_conf()")
    primary.database.execute("create table things as select generate_series(1, 10000) as id")
    standby.wait_for_replay(primary)
    database = Database(reactor, standby.format_dsn())
    try:
        async with database.snapshot("mig-api test") as snapshot:
            await snapshot.declare_cursor("select id from things")
            await snapshot.fetch(1)
            primary.database.execute("delete from things")
            primary.database.execute("vacuum things")
            standby.wait_for_replay(primary)
            with pytest.raises(UnavailableError) as cut:
                await snapshot.fetch(1)
        assert "due to conflict with recovery" in cut.value.detail
    finally:
        database.stop()
        primary.database.execute("drop table things")


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with make_cluster() as cluster:
        yield cluster


@pytest.fixture
def daemon(cluster: Cluster, tmp_path: Path) -> Iterator[Daemon]:
    """Run a daemon that finds the primary among two servers, of which one is a standby."""
    primary = cluster.start_primary()
    standby = cluster.start_standby(primary)
    daemon = Daemon(
        "--database",
        f"postgresql://{API_ROLE}:{quote(cluster.password)}@localhost:{standby.port},"
        f"127.0.0.1:{primary.port}/mig?target_session_attrs=read-write",
        *("--spool", str(tmp_path / "spool"), "--listen", "tcp:0"),
        cwd=tmp_path,
    )
    yield daemon
    daemon.stop()


def list_names(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.rglob("*.json"))


def test_a_synchronous_standby_has_every_acknowledged_action(
    cluster: Cluster, daemon: Daemon, keys: Keys, tmp_path: Path
) -> None:
    """The primary is killed under load; the service goes on without a restart."""
    primary, standby = cluster.servers
    primary.require_standby()
    case = Case(keys, primary.database)
    actions = [case.sign_action(make_action(name=f"action {n}")) for n in range(ACTIONS)]
    load = Load(daemon, actions)
    with ThreadPoolExecutor(CLIENTS) as clients:
        posted = [clients.submit(load.post_until_accepted, n) for n in range(ACTIONS)]
        wait_for(lambda: load.accepted >= ACTIONS // 4)
        primary.kill()
        before = load.refusals
        wait_for(lambda: load.refusals >= before + CLIENTS)
        assert load.accepted < ACTIONS
        standby.promote()
        for each in posted:
            each.result()
    assert [load.post(n) for n in range(ACTIONS)] == [202] * ACTIONS
    stored = sorted(row[0] for row in standby.database.execute("select id::text from actions"))
    assert sorted(action_id for ids in load.ids for action_id in ids) == stored
    assert len(stored) == ACTIONS
    assert sorted(list_audited_actions(standby.database)) == stored
    wait_for(lambda: list_names(tmp_path / "spool") == stored)  # a 202 may precede the hand-off
    assert "Traceback" not in daemon.log.read_text()


def test_an_asynchronous_standby_may_lack_an_action_that_was_handed_over(
    cluster: Cluster, daemon: Daemon, keys: Keys, tmp_path: Path
) -> None:
    primary, standby = cluster.servers
    case = Case(keys, primary.database)
    standby.wait_for_replay(primary)
    load = Load(daemon, [case.sign_action(make_action())])
    standby.kill()
    assert load.post(0) == 202
    primary.kill()
    standby.start()
    standby.promote()
    assert standby.database.execute("select count(*) from actions") == [(0,)]
    load.post_until_accepted(0)
    assert list_names(tmp_path / "spool") == sorted(load.ids[0])
    assert len(load.ids[0]) == 2
