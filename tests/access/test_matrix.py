"""Every route and method, with every kind of credential."""

from __future__ import annotations

import itertools
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest_twisted

from mig.api.route import Route
from mig.api.routes import ROUTES
from mig.hypermedia import urls
from mig.model.permissions import (
    ALL_PERMISSIONS,
    ANY_CALLER,
    DEFAULT_PERMISSIONS,
    READONLY_PERMISSIONS,
    Permission,
)
from tests.support.api import Api
from tests.support.callers import (
    Headers,
    add_api_key,
    add_investigator,
    make_token,
    set_old_key,
    with_key,
    with_token,
)
from tests.support.keys import Keys
from tests.support.postgres import TestDatabase

OPEN = {
    *(urls.HOME, urls.HEARTBEAT, urls.READINESS, urls.CLIENT_ADDRESS, urls.PUBLIC_KEY),
    *(urls.OPENAPI, urls.DOCS, urls.DOCS_FILE, urls.STYLE),
}
"""The paths that anyone may ask; a new one needs a reason."""

OWN_RECORDS = {urls.API_KEY, urls.CREATE_API_KEY, urls.REVOKE_API_KEY}
"""The paths for every caller: everybody has keys of their own."""

NOTHING_IS_VALID = None
"""Instead of permissions: the credential is refused wherever one is needed."""

_addresses = itertools.count(1)


class Credentials:
    """Credentials of every kind, each with the permissions that it should give."""

    def __init__(self, database: TestDatabase, keys: Keys) -> None:
        signer = keys.make_key("matrix signer")
        disabled_signer = keys.make_key("matrix disabled")
        default = add_investigator(database, "default")
        admin = add_investigator(database, "admin", permissions=ALL_PERMISSIONS)
        disabled = add_investigator(database, "disabled", status="disabled")
        adopted = add_investigator(database, "adopted", permissions=READONLY_PERMISSIONS)
        add_investigator(database, "signer", signer)
        add_investigator(database, "gone", disabled_signer, status="disabled")
        set_old_key(database, adopted, "a key of 2017")
        self.kinds: dict[str, tuple[Headers, Permission | None]] = {
            "none": ({}, NOTHING_IS_VALID),
            "malformed": (with_key("mig_1_x"), NOTHING_IS_VALID),
            "another scheme": ({"Authorization": "Basic eDp5"}, NOTHING_IS_VALID),
            "expired key": (
                with_key(add_api_key(database, admin, expires="-1 second")),
                NOTHING_IS_VALID,
            ),
            "expired token": (
                with_token(make_token(keys, signer, age=3600)),
                NOTHING_IS_VALID,
            ),
            "disabled": (with_key(add_api_key(database, disabled)), NOTHING_IS_VALID),
            "disabled token": (
                with_token(make_token(keys, disabled_signer)),
                NOTHING_IS_VALID,
            ),
            "readonly": (
                with_key(add_api_key(database, default, READONLY_PERMISSIONS)),
                READONLY_PERMISSIONS,
            ),
            "scoped key": (
                with_key(add_api_key(database, admin, Permission.SEARCH)),
                Permission.SEARCH,
            ),
            "default": (with_key(add_api_key(database, default)), DEFAULT_PERMISSIONS),
            "admin": (with_key(add_api_key(database, admin)), ALL_PERMISSIONS),
            "token": (with_token(make_token(keys, signer)), DEFAULT_PERMISSIONS),
            "adopted key": (with_key("a key of 2017"), READONLY_PERMISSIONS),
        }


@pytest_twisted.async_yield_fixture
async def closed_api(database: TestDatabase, tmp_path: Path) -> AsyncIterator[Api]:
    """Return an API that requires credentials."""
    api = Api(database.dsn, tmp_path / "spool", authentication=True)
    yield api
    await api.stop()


def list_requests() -> Iterator[tuple[Route, str]]:
    """Yield every route with each method that it answers."""
    for route in ROUTES:
        yield route, route.method
        if route.method == "GET":
            yield route, "HEAD"


def fill_path(path: str) -> str:
    return re.sub("<[^>]*>", "0" * 40, path)


def expect(route: Route, permissions: Permission | None) -> int | None:
    """Return the status of the gate; ``None`` when the request should reach its handler."""
    if route.permission is None:
        return None
    if permissions is NOTHING_IS_VALID:
        return 401
    return None if route.permission in permissions else 403


def test_every_route_needs_a_permission() -> None:
    assert {route.path for route in ROUTES if route.permission is None} == OPEN
    assert {route.path for route in ROUTES if route.permission == ANY_CALLER} == OWN_RECORDS


@pytest_twisted.ensureDeferred
async def test_every_route_answers_every_credential_as_it_should(
    closed_api: Api, database: TestDatabase, keys: Keys
) -> None:
    """Twice each: the second time the credential is known."""
    credentials = Credentials(database, keys)
    wrong = []
    for (kind, (headers, permissions)), _ in itertools.product(credentials.kinds.items(), "12"):
        for route, method in list_requests():
            # few failures from each address, and no limit of a rate: none must be refused for that
            block, host = divmod(next(_addresses), 250)
            sent = {**headers, "X-Forwarded-For": f"127.0.{block}.{host + 1}"}
            if method == "POST":  # the type of a body is checked before the credentials
                sent["Content-Type"] = "application/json"
            answer = await closed_api.request(method, fill_path(route.path), headers=sent)
            expected = expect(route, permissions)
            reached = answer.code not in (401, 403, 429) and answer.code < 500
            if not (reached if expected is None else answer.code == expected):
                wrong.append((kind, method, route.path, answer.code, expected))
            if answer.code == 401:
                assert answer.get_header("www-authenticate").startswith("Bearer ")
            if answer.code == 403 and method != "HEAD":
                assert route.permission is not None
                message = answer.document["error"]["message"]
                assert message == f"this request needs the permission {route.permission.label}"
    assert not wrong


@pytest_twisted.ensureDeferred
async def test_options_are_open_on_every_path(closed_api: Api) -> None:
    for route in ROUTES:
        answer = await closed_api.request("OPTIONS", fill_path(route.path))
        assert (answer.code, route.method in answer.get_header("allow")) == (204, True)
