"""The caller of a guarded route is checked by the statement of its answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from mig.access.caller import Caller
from mig.api.guarded import make_guarded_endpoint
from mig.api.routes import ROUTES
from mig.database.connection import Connection
from mig.errors import GuardFailedError, InvalidInputError, UnauthorizedError, UnavailableError
from mig.model.permissions import ALL_PERMISSIONS
from mig.model.statement import Condition, Guard, QueryFunction, Statement
from tests.support.api import Api
from tests.support.callers import add_api_key, add_investigator, make_token, with_key, with_token
from tests.support.fleet import load_fleet
from tests.support.keys import Keys
from tests.support.postgres import TestDatabase

GUARDED = [route for route in ROUTES if route.is_guarded]
GUARD = Guard(Condition(name="c", sql="from t", types={}), {})
KNOWN = Caller(name="known", permissions=ALL_PERMISSIONS, investigator_id=1, guard=GUARD)
CHECKED = Caller(name="checked", permissions=ALL_PERMISSIONS, investigator_id=1)
STATEMENT: Statement[str] = Statement("select", lambda _: "", name="s")


@pytest_twisted.async_yield_fixture
async def closed_api(database: TestDatabase, tmp_path: Path) -> AsyncIterator[Api]:
    load_fleet(database.dsn)
    database.execute("select setval('investigators_id_seq', 100)")
    api = Api(database.dsn, tmp_path / "spool", authentication=True)
    yield api
    await api.stop()


def test_reading_one_record_is_guarded() -> None:
    assert [route.path for route in GUARDED] == ["/action", "/agent", "/command", "/investigator"]
    assert all(route.permission for route in GUARDED)


@pytest.mark.parametrize("route", GUARDED, ids=lambda route: route.path)
@pytest.mark.parametrize("kind", ["key", "token"])
@pytest_twisted.ensureDeferred
async def test_a_known_caller_costs_no_query_of_its_own(
    closed_api: Api,
    database: TestDatabase,
    keys: Keys,
    monkeypatch: pytest.MonkeyPatch,
    route: Any,
    kind: str,
) -> None:
    owner = add_investigator(database, "alice", keys.alice, ALL_PERMISSIONS)
    headers = (
        with_token(make_token(keys, keys.alice))
        if kind == "token"
        else with_key(add_api_key(database, owner))
    )
    noun = route.path.strip("/")
    [[record_id]] = database.execute(f"select trunc(min(id))::text from {noun}s")
    path = f"{route.path}?{noun}id={record_id}"
    for _ in range(2):
        assert (await closed_api.get(path, headers=headers)).code == 200
    sent: list[str] = []
    execute = Connection._execute

    def record(self: Connection, sql: str, *arguments: Any) -> Any:
        sent.append(sql.partition(" (")[0])
        return execute(self, sql, *arguments)

    monkeypatch.setattr(Connection, "_execute", record)
    answer = await closed_api.get(path, headers=headers)
    owner_of = "signer" if kind == "token" else "key"
    assert answer.code == 200
    assert sent == [f"execute {noun}_by_id_if_{owner_of}_is_unchanged"]


class Queries:
    """A database whose guard passes or fails, as the test says."""

    def __init__(self, *, passes: bool) -> None:
        self._passes = passes
        self.queries: list[str] = []

    async def query(self, statement: Statement[Any], parameters: object = ()) -> list[Any]:
        self.queries.append("plain")
        return []

    async def query_guarded(
        self, guard: Guard, statement: Statement[Any], parameters: Mapping[str, object]
    ) -> list[Any]:
        self.queries.append("guarded")
        if not self._passes:
            raise GuardFailedError
        return []


class Callers:
    """Looks a caller up again, and remembers who used what."""

    def __init__(self, answer: Caller | Exception = CHECKED) -> None:
        self._answer = answer
        self.lookups = 0
        self.used: list[Caller] = []

    async def authenticate_again(self, request: object) -> Caller:
        self.lookups += 1
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer

    def record_use(self, caller: Caller) -> None:
        self.used.append(caller)


class FakeRequest:
    """A request of a known caller for a guarded route."""

    def __init__(self) -> None:
        self.caller: Caller | None = KNOWN
        self.route = GUARDED[0]


async def answer_twice(request: object, caller: Caller, query: QueryFunction) -> bytes:
    await query(STATEMENT, {})
    await query(STATEMENT, {})
    return caller.name.encode()


async def answer_without_query(request: object, caller: Caller, query: QueryFunction) -> bytes:
    return caller.name.encode()


async def refuse_without_query(request: object, caller: Caller, query: QueryFunction) -> bytes:
    raise InvalidInputError("wrong")


async def be_unavailable(request: object, caller: Caller, query: QueryFunction) -> bytes:
    raise UnavailableError("not now")


def run(handler: Any, queries: Queries, callers: Callers) -> bytes | None:
    endpoint: Any = make_guarded_endpoint(handler, queries, callers)
    coroutine = endpoint(FakeRequest())
    try:
        coroutine.send(None)
    except StopIteration as end:
        answer: bytes = end.value
        return answer
    raise AssertionError("it waits")


def test_only_the_first_query_runs_the_guard() -> None:
    queries, callers = Queries(passes=True), Callers()
    assert run(answer_twice, queries, callers) == b"known"
    assert (queries.queries, callers.lookups) == (["guarded", "plain"], 0)
    assert callers.used == [KNOWN]


def test_a_guard_that_fails_has_the_caller_looked_up_again() -> None:
    queries, callers = Queries(passes=False), Callers()
    assert run(answer_twice, queries, callers) == b"checked"
    assert (queries.queries, callers.lookups) == (["guarded", "plain", "plain"], 1)
    assert callers.used == []  # the look-up does that


@pytest.mark.parametrize("passes", [True, False])
def test_a_caller_who_is_not_valid_any_more_gets_nothing(passes: bool) -> None:
    """Not even what a handler says without the query that runs the guard."""
    for handler in (answer_without_query, refuse_without_query):
        callers = Callers(UnauthorizedError("not any more"))
        with pytest.raises(UnauthorizedError):
            run(handler, Queries(passes=passes), callers)


def test_an_answer_without_a_query_is_made_again_for_a_checked_caller() -> None:
    callers = Callers()
    assert run(answer_without_query, Queries(passes=True), callers) == b"checked"
    assert callers.lookups == 1
    with pytest.raises(InvalidInputError):
        run(refuse_without_query, Queries(passes=True), callers)


def test_a_database_that_cannot_be_asked_is_not_asked_again() -> None:
    callers = Callers()
    with pytest.raises(UnavailableError):
        run(be_unavailable, Queries(passes=True), callers)
    assert callers.lookups == 0
