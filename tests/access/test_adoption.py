"""API keys that an earlier API made go on working, and become keys of this one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults

from mig.access import adoption
from mig.limits import Limits
from mig.model.permissions import ALL_PERMISSIONS, Permission
from tests.support.api import Api
from tests.support.callers import add_investigator, set_old_key, with_key
from tests.support.postgres import TestDatabase
from tests.support.reactor import record_log

SEARCH = "/search?type=agent"
OLD_KEY = "9fzK0zdCBNmX9pHt4Lq1Iw.legacy-key"


@pytest_twisted.async_yield_fixture
async def closed_api(database: TestDatabase, tmp_path: Path) -> AsyncIterator[Api]:
    api = Api(database.dsn, tmp_path / "spool", authentication=True)
    yield api
    await api.stop()


async def assert_code(api: Api, text: str, code: int, address: str = "") -> None:
    answer = await api.get(SEARCH, headers=with_key(text, address))
    assert answer.code == code, answer.body


@pytest.mark.parametrize("text", [OLD_KEY, "\u00e4\u00ff", "x" * 3000, "mag_1_x"])
@pytest_twisted.ensureDeferred
async def test_an_old_key_works_and_is_stored_as_a_new_one(
    closed_api: Api, database: TestDatabase, text: str
) -> None:
    add_investigator(database, "other")
    owner = add_investigator(database, "bob")
    set_old_key(database, owner, text)
    for _ in range(3):
        answer = await closed_api.get(SEARCH, headers=with_key(text))
        assert answer.code == 200, answer.body
    assert closed_api.ended[-1].caller == f"bob/{owner}/1"
    stored = "select apikey, apisalt from investigators where id = %s"
    assert database.execute(stored, (owner,)) == [(None, None)]
    [(owner_id, name, keyhash, permissions)] = database.execute(
        "select investigatorid::int, name, keyhash, permissions from apikeys"
    )
    assert (owner_id, name, permissions) == (owner, "adopted", ALL_PERMISSIONS)
    assert bytes(keyhash) == sha256(text.encode()).digest()


@pytest_twisted.ensureDeferred
async def test_the_adoption_of_a_key_is_in_the_audit(
    closed_api: Api, database: TestDatabase
) -> None:
    owner = add_investigator(database, "bob")
    set_old_key(database, owner, OLD_KEY)
    await assert_code(closed_api, OLD_KEY, 200, "192.0.2.7")
    [row] = database.execute(
        "select operation, caller::int, callername, key, client, method, path, object,"
        " objectid::int, before, after, outcome, count from audit"
    )
    assert row == (
        closed_api.ended[-1].operation,
        *(owner, "bob", 1, "192.0.2.7", "GET", "/search", "apikey", 1, None),
        {"investigatorid": owner, "name": "adopted"},
        *("done", 1),
    )
    assert OLD_KEY not in json.dumps(row)


@pytest_twisted.ensureDeferred
async def test_an_old_key_has_the_permissions_of_its_owner(
    closed_api: Api, database: TestDatabase
) -> None:
    owner = add_investigator(database, permissions=Permission.AGENT)
    set_old_key(database, owner, OLD_KEY)
    await assert_code(closed_api, OLD_KEY, 403)
    database.execute("update investigators set permissions = 1")
    await assert_code(closed_api, OLD_KEY, 200)
    database.execute("update apikeys set revokedat = now()")
    await assert_code(closed_api, OLD_KEY, 401)


@pytest_twisted.ensureDeferred
async def test_other_texts_and_keys_of_the_disabled_are_refused(
    closed_api: Api, database: TestDatabase
) -> None:
    set_old_key(database, add_investigator(database, status="disabled"), OLD_KEY)
    set_old_key(database, add_investigator(database), "another")
    for text in (OLD_KEY, OLD_KEY.upper(), "", "anothe", "another2", "mig_another"):
        await assert_code(closed_api, text, 401)
    assert database.execute("select count(*) from apikeys") == [(0,)]


@pytest_twisted.ensureDeferred
async def test_two_services_adopt_a_key_at_the_same_time(
    database: TestDatabase, tmp_path: Path
) -> None:
    apis = [Api(database.dsn, tmp_path / str(n), authentication=True) for n in range(2)]
    try:
        for n in range(5):
            text = f"{OLD_KEY}{n}"
            set_old_key(database, add_investigator(database), text)
            await gatherResults(
                [
                    Deferred.fromCoroutine(assert_code(api, text, 200))
                    for api in apis
                    for _ in range(4)
                ]
            )
        for table in ("apikeys", "audit"):
            assert database.execute(f"select count(*) from {table}") == [(5,)]
    finally:
        for api in apis:
            await api.stop()


@pytest_twisted.ensureDeferred
async def test_with_too_many_old_keys_none_is_accepted(
    database: TestDatabase, tmp_path: Path
) -> None:
    api = Api(database.dsn, tmp_path / "spool", authentication=True, limits=Limits(adopted_keys=2))
    try:
        for n in range(3):
            set_old_key(database, add_investigator(database, f"old {n}"), f"text {n}")
        with record_log() as log:
            for _ in range(3):
                await assert_code(api, "text 1", 401)
        assert [line for line in log.lines if "API key of an earlier API" in line] == [
            "more than 2 investigators have an API key of an earlier API, so none of these is"
            " accepted; make new ones with mig-api apikey create"
        ]
        database.execute("update investigators set status = 'disabled' where name = 'old 2'")
        await assert_code(api, "text 1", 200)
    finally:
        await api.stop()


@pytest_twisted.ensureDeferred
async def test_few_texts_are_compared_before_a_client_has_to_wait(
    closed_api: Api, database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many come at the same time."""
    set_old_key(database, add_investigator(database), OLD_KEY)
    compared: list[bytes] = []
    compare = adoption._compare_with_all

    def record(rows: object, key: bytes) -> object:
        compared.append(key)
        return compare(rows, key)  # type: ignore[arg-type]

    monkeypatch.setattr(adoption, "_compare_with_all", record)
    codes = await gatherResults(
        [
            Deferred.fromCoroutine(closed_api.get(SEARCH, headers=with_key(f"text {n}")))
            for n in range(60)
        ]
    )
    assert {answer.code for answer in codes} == {401, 429}
    assert len(compared) == Limits().failures_per_minute
    await assert_code(closed_api, OLD_KEY, 200, "198.51.100.1")
    await assert_code(closed_api, OLD_KEY, 200)
