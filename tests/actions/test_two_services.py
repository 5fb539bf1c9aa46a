"""An action is stored once, even when it is posted again, concurrently or while keys change."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults

from mig.actions.submission import MAX_TEXT_LENGTH
from mig.database.database import Database
from mig.database.schema import migrate
from mig.openpgp.certificate import Certificate
from mig.openpgp.certificate import Key as CertificateKey
from mig.signing.keyring import Signer, find_key_owners
from tests.support.api import Api
from tests.support.generations import GENERATIONS
from tests.support.json_types import Json, JsonObject
from tests.support.keys import Key, Keys
from tests.support.postgres import TestDatabase
from tests.support.properties import REPETITIONS
from tests.support.reactor import reactor
from tests.support.submissions import (
    JSON,
    Case,
    RawBody,
    assert_accepted,
    assert_refused,
    check_nothing_left,
    check_nothing_stored,
    list_spool,
    make_action,
    post_submission,
)

T = TypeVar("T")

POSTS = 200
EQUAL = 24
TOGGLES = 100 * REPETITIONS
ROUNDS = 20 * REPETITIONS


@pytest.fixture
def database(empty_database: TestDatabase) -> TestDatabase:
    return empty_database


@pytest_twisted.async_yield_fixture
async def other(api: Api, database: TestDatabase) -> AsyncIterator[Api]:
    """Start an API as in another process: it shares only the database and the spool."""
    running = Api(database.dsn, api.spool)
    yield running
    await running.stop()


def run_concurrently(coroutines: Iterator[Coroutine[Any, Any, T]]) -> Awaitable[list[T]]:
    return gatherResults([Deferred.fromCoroutine(one) for one in coroutines], consumeErrors=True)


def read_state(api: Api, database: TestDatabase) -> Json:
    """Return everything that is stored of actions."""
    rows = [
        database.execute(f"select {table}::text from {table} order by 1")
        for table in ("actions", "signatures", "submissions")
    ]
    return rows, [(path.name, path.read_bytes()) for path in list_spool(api)]


AGAIN: dict[str, Callable[[Case, JsonObject], Json]] = {
    "the same": lambda _, good: good,
    "white space": lambda _, good: json.dumps(good, indent=4),
    "key order": lambda _, good: dict(reversed(good.items())),
    "member order": lambda _, good: {
        **good,
        "operations": [
            {
                "parameters": dict(reversed(operation["parameters"].items())),
                "module": operation["module"],
            }
            for operation in good["operations"]
        ],
    },
    "another form of a number": lambda _, good: json.dumps(good).replace(
        '"number": 1,', '"number": 100e-2,'
    ),
    "escapes": lambda _, good: json.dumps(good).replace("Find", "\\u0046ind"),
    "a new signature": lambda case, _: case.sign_action(make_action()),
    "another digest": lambda case, _: {
        **make_action(),
        "pgpsignatures": [case.make_signature(make_action(), None, "--digest-algo", "SHA512")],
    },
    "an offset": lambda _, good: {**good, "validfrom": "2026-01-02T05:04:05.678901234+02:00"},
    "an offset, signed": lambda case, _: case.sign_action(
        make_action(validfrom="2026-01-02T05:04:05.678901234+02:00"), form="gotime"
    ),
    "no nanoseconds": lambda _, good: {**good, "validfrom": "2026-01-02T03:04:05Z"},
    "other nanoseconds, signed": lambda case, _: case.sign_action(
        make_action(validfrom="2026-01-02T03:04:05.1Z"), form="gotime"
    ),
    "the older text": lambda case, _: case.sign_action(make_action(), form="gotime"),
    "another description": lambda _, good: {**good, "description": {"author": "Mallory"}},
    "another threat": lambda _, good: {**good, "threat": None},
    "another id": lambda _, good: {**good, "id": 5, "status": "completed", "counters": {"sent": 1}},
    "not compressed": lambda _, good: {
        **good,
        "operations": [{**operation, "is_compressed": False} for operation in good["operations"]],
    },
    "another signer": lambda case, _: {
        **make_action(),
        "pgpsignatures": [case.make_signature(make_action(), case.keys.bob)],
    },
    "both signers": lambda case, good: {
        **good,
        "pgpsignatures": [
            case.make_signature(make_action(), case.keys.bob),
            *good["pgpsignatures"],
        ],
    },
    "two of one signer": lambda case, good: {
        **good,
        "pgpsignatures": [
            *good["pgpsignatures"],
            case.make_signature(make_action(), form="gotime"),
        ],
    },
    "a JSON body": lambda _, good: RawBody(body=json.dumps(good).encode(), content_type=JSON),
    "a template": lambda _, good: RawBody(
        body=json.dumps({"template": {"data": [{"name": "action", "value": good}]}}).encode(),
        content_type=JSON,
    ),
}

NOT_AGAIN: dict[str, tuple[Callable[[Case, JsonObject], Json], str]] = {
    "no signature": (
        lambda _, good: {**good, "pgpsignatures": []},
        "pgpsignatures must be an array of signatures",
    ),
    "a bad signature": (
        lambda case, good: {
            **good,
            "pgpsignatures": [case.keys.sign(case.keys.alice, b"another text")],
        },
        "it is not a signature over this action",
    ),
    "an unknown signer": (
        lambda case, good: {
            **good,
            "pgpsignatures": [
                *good["pgpsignatures"],
                case.make_signature(make_action(), case.keys.stranger),
            ],
        },
        "pgpsignatures[1]: no investigator has the key",
    ),
    "a disabled signer": (
        lambda case, good: {
            **good,
            "pgpsignatures": [case.make_signature(make_action(), case.keys.subkey)],
        },
        "is not active",
    ),
}


@pytest_twisted.ensureDeferred
async def test_an_action_posted_again_in_any_form_is_the_existing_action(
    api: Api, other: Api, database: TestDatabase, case: Case
) -> None:
    case.add_investigator(case.keys.bob)
    case.add_investigator(case.keys.subkey, "disabled")
    good = case.sign_action(make_action())
    action_id = (await assert_accepted(api, good))["id"]
    before = read_state(api, database)
    for name, again in AGAIN.items():
        for service in (api, other):
            assert (await assert_accepted(service, again(case, good)))["id"] == action_id, name
            assert read_state(api, database) == before, name
    for name, (again, says) in NOT_AGAIN.items():
        await assert_refused(api, again(case, good), says)
        assert read_state(api, database) == before, name
    assert len(list_spool(api)) == 1


@pytest_twisted.ensureDeferred
async def test_equal_concurrent_posts_create_one_action(
    api: Api, other: Api, database: TestDatabase, case: Case
) -> None:
    good = case.sign_action(make_action())
    answers = await run_concurrently(
        post_submission((api, other)[n % 2], good if n % 3 else {**good, "threat": {}})
        for n in range(EQUAL)
    )
    assert sorted(answer.code for answer in answers) == [202] * EQUAL
    places = {answer.get_header("Location").split("=")[1] for answer in answers}
    assert [f"{action_id}.json" for action_id in places] == [path.name for path in list_spool(api)]
    assert database.execute("select count(*) from actions") == [(1,)]
    assert database.execute("select count(*) from signatures") == [(1,)]


@pytest_twisted.ensureDeferred
async def test_many_concurrent_actions_are_each_handed_over_once(
    api: Api, other: Api, database: TestDatabase, case: Case
) -> None:
    signers = [case.keys.alice, case.keys.bob, case.keys.subkey, case.keys.rsa]
    for key in signers:
        case.add_investigator(key)
    actions = [make_action(name=f"action {n}") for n in range(POSTS)]
    submissions = [
        {**action, "pgpsignatures": [case.make_signature(action, signers[n % len(signers)])]}
        for n, action in enumerate(actions)
    ]
    taken = await run_concurrently(
        assert_accepted((api, other)[n % 2], submission) for n, submission in enumerate(submissions)
    )
    ids = {str(action["id"]): action["name"] for action in taken}
    assert len(ids) == POSTS
    assert dict(database.execute("select id::text, name from actions")) == ids
    files = [json.loads(path.read_text()) for path in list_spool(api)]
    assert {str(file["id"]): file["name"] for file in files} == ids
    assert len(files) == POSTS
    assert database.execute("select count(*) from signatures") == [(POSTS,)]
    assert database.execute("select count(*) from submissions where handedover is null") == [(0,)]


async def set_status(api: Api, investigator_id: int, status: str) -> None:
    data = {"id": str(investigator_id), "status": status}
    response = await api.request("POST", "/investigator/update/", data=data)
    assert response.code == 200, response.body


@pytest_twisted.ensureDeferred
async def test_a_changed_status_takes_effect_at_once_in_another_process(
    api: Api, other: Api, database: TestDatabase, case: Case
) -> None:
    good = case.sign_action(make_action())
    investigator_id = case.ids[case.keys.alice.fingerprint]
    await set_status(api, investigator_id, "disabled")
    await assert_refused(other, good, f"the investigator 'alice' ({investigator_id}) is not active")
    check_nothing_stored(api, database)
    await set_status(api, investigator_id, "active")
    await assert_accepted(other, good)
    for n in range(TOGGLES // 2):
        one, two = (api, other) if n % 2 else (other, api)
        await set_status(one, investigator_id, "disabled")
        await assert_refused(two, good, "is not active")
        await set_status(one, investigator_id, "active")
        await assert_accepted(two, good)


@pytest_twisted.ensureDeferred
async def test_adding_and_disabling_keys_does_not_disturb_other_signers(
    api: Api, other: Api, database: TestDatabase, case: Case
) -> None:
    bob = case.add_investigator(case.keys.bob)
    good = [case.sign_action(make_action(name=f"action {n}")) for n in range(ROUNDS)]
    by_bob = [
        {**action, "pgpsignatures": [case.make_signature(action, case.keys.bob)]}
        for action in (make_action(name=f"Bob's {n}") for n in range(ROUNDS))
    ]
    newcomers = [case.keys.make_key(f"newcomer{n}") for n in range(10)]
    database.execute("select setval('investigators_id_seq', 100)")

    async def create_investigator(service: Api, key: Key) -> None:
        data = {"name": key.name, "publickey": key.armored}
        response = await service.request("POST", "/investigator/create/", data=data)
        assert response.code == 201, response.body

    async def toggle_status() -> None:
        for n in range(ROUNDS):
            await set_status(api, bob, ("disabled", "active")[n % 2])

    async def try_bob() -> None:
        for n, submission in enumerate(by_bob):
            response = await post_submission((api, other)[n % 2], submission)
            told = response.document.get("error", {}).get("message", "")
            assert response.code == 202 or "is not active" in told or response.code == 503, told

    def make_requests() -> Iterator[Coroutine[Any, Any, object]]:
        yield toggle_status()
        yield try_bob()
        for n, submission in enumerate(good):
            yield assert_accepted((api, other)[n % 2], submission)
        for n, key in enumerate(newcomers):
            yield create_investigator((api, other)[n % 2], key)

    await run_concurrently(make_requests())
    sql = "select count(*) from investigators where id >= 100 and status = 'active'"
    assert database.execute(sql) == [(len(newcomers),)]
    for key in newcomers:
        action = make_action(name=f"by {key.name}")
        await assert_accepted(api, {**action, "pgpsignatures": [case.make_signature(action, key)]})


@pytest.fixture
def clock(keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file with the time that gpg sees: a script that is first in the PATH adds it."""
    file = tmp_path / "clock"
    script = tmp_path / "bin" / "gpg"
    script.parent.mkdir()
    script.write_text(
        f'#!/bin/sh\nexec {shutil.which("gpg")} --faked-system-time "$(cat {file})" "$@"\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    return file


@pytest_twisted.ensureDeferred
async def test_a_key_that_expires_between_two_posts_is_refused(
    clock: Path, database: TestDatabase, tmp_path: Path, keys: Keys
) -> None:
    """What is cached of a key does not outlive it."""
    case = Case(keys, database)
    key = keys.make_key("short", expires="2020-06-01", time="20200101T000000!")
    case.add_investigator(key)
    action = make_action()
    signature = case.make_signature(action, key, time="20200201T000000!")
    submission = {**action, "pgpsignatures": [signature]}
    clock.write_text("20200301T000000!")
    api = Api(database.dsn, tmp_path / "spool")
    try:
        await assert_accepted(api, submission)
        clock.write_text("20200602T000000!")
        await assert_refused(api, submission, "pgpsignatures[0]: the signer's key has expired")
    finally:
        await api.stop()


@pytest_twisted.ensureDeferred
async def test_a_gpg_configuration_in_the_home_folder_is_not_read(
    database: TestDatabase, tmp_path: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / ".gnupg"
    home.mkdir(mode=0o700)
    for name in ("gpg.conf", "common.conf"):
        (home / name).write_text("auto-key-retrieve\ntrust-model tofu\nthis-is-no-option\n")
    case = Case(keys, database)
    submission = case.sign_action(make_action())
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GNUPGHOME", str(home))
    api = Api(database.dsn, tmp_path / "spool")
    try:
        await assert_accepted(api, submission)
    finally:
        await api.stop()
    assert {path.name for path in home.iterdir()} == {"gpg.conf", "common.conf"}


def test_a_fingerprint_finds_its_owner_and_a_key_id_all_candidates() -> None:
    """A fingerprint finds its owner alone; a key id finds both, and the signature decides."""

    def make_signer(investigator_id: str, fingerprint: str) -> Signer:
        key = CertificateKey(fingerprint=fingerprint, is_primary=True, algorithm=22, bits=256)
        certificate = Certificate(fingerprint=fingerprint, keys=(key,), packets=b"")
        return Signer(
            id=investigator_id,
            name=investigator_id,
            status="active",
            publickey=b"",
            certificate=certificate,
        )

    one, two = make_signer("1", "A" * 24 + "5" * 16), make_signer("2", "B" * 24 + "5" * 16)
    assert find_key_owners([one, two], [two.certificate.fingerprint]) == [two]
    assert find_key_owners([one, two], ["5" * 16]) == [one, two]
    assert find_key_owners([one, two], ["C" * 24 + "5" * 16]) == []


@pytest_twisted.ensureDeferred
async def test_signatures_too_long_for_the_newer_database_are_refused(
    new_database: Callable[..., TestDatabase], tmp_path: Path, keys: Keys
) -> None:
    database = new_database("template0")
    database.execute(GENERATIONS["2017"].sql)
    pool = Database(reactor, database.dsn)
    await migrate.migrate(pool, lambda _: None)
    pool.stop()
    case = Case(keys, database)
    case.add_investigator(keys.rsa)
    action = make_action()
    many = [
        case.make_signature(action, keys.rsa, "--sig-notation", f"n@example.net={n}")
        for n in range(10)
    ]
    assert len(json.dumps(many)) > 2 * MAX_TEXT_LENGTH
    api = Api(database.dsn, tmp_path / "spool")
    try:
        await assert_refused(
            api,
            {**action, "pgpsignatures": many},
            "pgpsignatures must have at most 4096 characters together in this database",
        )
        check_nothing_stored(api, database)
        check_nothing_left(tmp_path / "spool" / "action" / "new")
        await assert_accepted(api, {**action, "pgpsignatures": many[:3]})
        assert database.execute("select count(*) from signatures") == [(1,)]
    finally:
        await api.stop()


@pytest_twisted.ensureDeferred
async def test_a_deleted_or_foreign_action_cannot_be_posted_again(
    api: Api, database: TestDatabase, case: Case
) -> None:
    good = case.sign_action(make_action())
    action_id = (await assert_accepted(api, good))["id"]
    database.execute("delete from submissions")
    database.execute("update actions set id = id::numeric(37, 17)")  # as until 2015
    says = f"this action already exists as {action_id}, which was not created through this API"
    await assert_refused(api, case.sign_action(make_action(), form="gotime"), says, 409)
    assert database.execute("select count(*) from submissions") == [(0,)]
    database.execute("delete from signatures; delete from actions")
    action_id = (await assert_accepted(api, good))["id"]
    database.execute("delete from signatures; delete from actions")
    says = f"this action was accepted as {action_id} and has been deleted since"
    await assert_refused(api, good, says, 409)
    assert database.execute("select count(*) from actions") == [(0,)]


@pytest_twisted.ensureDeferred
async def test_a_handoff_by_the_database_refuses_times_it_cannot_store(
    database: TestDatabase, case: Case
) -> None:
    """What is signed to the nanosecond cannot be handed over in a row of the database."""
    api = Api(database.dsn, handoff="database")
    fine = "2026-01-02T03:04:05.678901234Z"
    try:
        for member in ("validfrom", "expireafter"):
            action = make_action(validfrom="2026-01-02T03:04:05Z")
            action[member] = fine.replace("2026", "2098") if member == "expireafter" else fine
            says = f"{member} must be in UTC and not finer than a microsecond"
            await assert_refused(api, case.sign_action(action, form="gotime"), says)
        offset = make_action(validfrom="2026-01-02T03:04:05+02:00")
        says = "validfrom must be in UTC"
        await assert_refused(api, case.sign_action(offset, form="gotime"), says)
        assert database.execute("select count(*) from submissions") == [(0,)]
        exact = make_action(name="exact", validfrom="2026-01-02T03:04:05.678901Z")
        assert (await assert_accepted(api, case.sign_action(exact, form="gotime")))[
            "status"
        ] == "pending"
        await assert_accepted(
            api, case.sign_action(make_action(validfrom="2026-01-02T03:04:05.9999999Z"))
        )
        sql = "select validfrom::text from actions order by name desc"
        assert database.execute(sql) == [
            ("2026-01-02 03:04:05.678901+00",),
            ("2026-01-02 03:04:05.999999+00",),
        ]
    finally:
        await api.stop()


@pytest_twisted.ensureDeferred
async def test_without_a_handoff_every_action_is_refused(
    database: TestDatabase, case: Case
) -> None:
    api = Api(database.dsn, handoff="")
    try:
        says = "no action can be handed over: set a spool"
        await assert_refused(api, case.sign_action(make_action()), says, 503)
        assert database.execute("select count(*) from submissions") == [(0,)]
    finally:
        await api.stop()
