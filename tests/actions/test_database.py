"""Submissions when the database is in an unusual state."""

from __future__ import annotations

from contextlib import closing

import psycopg2
import pytest_twisted

from mig.errors import RequestError
from tests.support.api import Api
from tests.support.fleet import VECTORS, load_fleet
from tests.support.postgres import TestDatabase
from tests.support.submissions import list_spool

ACTION = (VECTORS / "actions" / "unix-plain.json").read_text()
SHER = (VECTORS / "keys" / "sher.asc").read_text()


async def post_form(api: Api, path: str, **fields: str) -> tuple[int, object]:
    response = await api.request("POST", path, data=fields)
    return response.code, response.document


@pytest_twisted.ensureDeferred
async def test_a_request_waits_only_briefly_for_a_locked_row(
    api: Api, database: TestDatabase
) -> None:
    load_fleet(database.dsn)
    with closing(psycopg2.connect(database.dsn)) as other, other.cursor() as cursor:
        cursor.execute("update investigators set name = name where id = 1")
        code, document = await post_form(api, "/investigator/update/", id="1", status="disabled")
        assert (code, "another transaction holds a lock" in str(document)) == (503, True)
        code, document = await post_form(api, "/action/create/", action=ACTION)
        assert (code, "another transaction holds a lock" in str(document)) == (503, True)
        other.rollback()
    code, _ = await post_form(api, "/action/create/", action=ACTION)
    assert code == 202


@pytest_twisted.ensureDeferred
async def test_a_read_only_database_is_reported_as_unavailable(
    api: Api, database: TestDatabase
) -> None:
    load_fleet(database.dsn)
    name = psycopg2.extensions.parse_dsn(database.dsn)["dbname"]
    database.execute(f"alter database {name} set default_transaction_read_only = on")
    code, document = await post_form(api, "/investigator/update/", id="1", status="disabled")
    assert (code, "is read-only" in str(document)) == (503, True)
    code, document = await post_form(api, "/action/create/", action=ACTION)
    assert (code, "is read-only" in str(document)) == (503, True)


@pytest_twisted.ensureDeferred
async def test_a_change_is_confirmed_though_its_record_cannot_be_read_back(
    api: Api, database: TestDatabase
) -> None:
    load_fleet(database.dsn)
    database.execute("update investigators set createdat = 'infinity' where id = 2")
    code, document = await post_form(api, "/investigator/update/", id="2", status="disabled")
    assert (code, "unreadable investigator" in str(document)) == (200, True)
    assert database.execute("select status from investigators where id = 2") == [("disabled",)]
    assert (await post_form(api, "/action/create/", action=ACTION))[0] == 202
    database.execute("update actions set finishtime = 'infinity'")
    code, document = await post_form(api, "/action/create/", action=ACTION)
    assert (code, "unreadable action" in str(document)) == (202, True)


@pytest_twisted.ensureDeferred
async def test_a_key_changed_in_the_database_takes_effect_at_once(
    api: Api, database: TestDatabase
) -> None:
    load_fleet(database.dsn)
    assert (await post_form(api, "/action/create/", action=ACTION))[0] == 202
    bob = database.execute("select publickey from investigators where id = 1")[0][0]
    swap = "update investigators set publickey = %s where id = %s"
    database.execute(swap, (SHER.encode(), 1))
    code, document = await post_form(api, "/action/create/", action=ACTION)
    assert (code, "no investigator has the key" in str(document)) == (400, True)
    database.execute(swap, (bob, 3))
    code, document = await post_form(api, "/action/create/", action=ACTION)
    assert (code, "is not active" in str(document)) == (400, True)
    database.execute("update investigators set status = 'active' where id = 3")
    assert (await post_form(api, "/action/create/", action=ACTION))[0] == 202


@pytest_twisted.ensureDeferred
async def test_a_submission_without_a_document_does_not_block_the_others(
    api: Api, database: TestDatabase
) -> None:
    load_fleet(database.dsn)
    database.execute("insert into submissions (identity, actionid) values ('x', 1)")
    other = (VECTORS / "actions" / "unix-two-signers.json").read_text()
    assert (await post_form(api, "/action/create/", action=other))[0] == 202
    api.handoff.start()
    await api.handoff.stop()
    waiting = "select count(*) from submissions where handedover is null"
    assert database.execute(waiting) == [(0,)]
    assert len(list_spool(api)) == 1


def test_every_refusal_has_a_status_other_than_500() -> None:
    def list_subclasses(kind: type[RequestError]) -> list[type[RequestError]]:
        return [kind, *(k for sub in kind.__subclasses__() for k in list_subclasses(sub))]

    for kind in list_subclasses(RequestError)[1:]:
        assert 400 <= kind.status < 600 and kind.status != 500, kind
