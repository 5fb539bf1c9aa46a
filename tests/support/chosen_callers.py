"""Callers that a test chooses, instead of credentials."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from mig.access.caller import ANONYMOUS, Caller
from mig.limits import Limits
from mig.model.permissions import ALL_PERMISSIONS, Permission
from mig.web.request import Request
from tests.support.api import Answer, Api
from tests.support.postgres import TestDatabase

HEADER = "X-Test-Caller"
_INSERT = (
    "insert into investigators (name, publickey, status, createdat, lastmodified, permissions)"
    " values (%s, %s, 'active', now(), now(), %s) returning id::bigint"
)


class ChosenCallers:
    """An authenticator: the caller of a request is ``default``, or the one whose name it has."""

    def __init__(self) -> None:
        self.default: Caller = ANONYMOUS
        self._named: dict[str, Caller] = {}

    def __call__(self, request: Request) -> Caller:
        """Return the caller of a request."""
        for name in request.requestHeaders.getRawHeaders(HEADER, ()):
            return self._named[name]
        return self.default

    def add(self, caller: Caller) -> Caller:
        """Let requests name a caller."""
        self._named[caller.name] = caller
        return caller


def name_caller(caller: Caller) -> dict[str, str]:
    """Return the headers of a request of a caller."""
    return {HEADER: caller.name}


def insert_investigator(
    database: TestDatabase,
    name: str,
    permissions: Permission = ALL_PERMISSIONS,
    publickey: bytes | None = b"certificate",
) -> Caller:
    """Insert an active investigator, and return the caller with all of the permissions."""
    [(investigator_id,)] = database.execute(_INSERT, (name, publickey, int(permissions)))
    return Caller(name=name, permissions=permissions, investigator_id=investigator_id)


@dataclass(frozen=True, kw_only=True)
class Console:
    """An API whose callers a test chooses, and its database."""

    api: Api
    callers: ChosenCallers
    database: TestDatabase

    def add(
        self,
        name: str,
        permissions: Permission = ALL_PERMISSIONS,
        publickey: bytes | None = b"certificate",
    ) -> Caller:
        """Return a new active investigator, who may call."""
        return self.callers.add(insert_investigator(self.database, name, permissions, publickey))

    async def post(self, caller: Caller, path: str, **fields: object) -> Answer:
        """Return the answer to a form."""
        data = {name: str(value) for name, value in fields.items()}
        return await self.api.request("POST", path, data=data, headers=name_caller(caller))

    async def get(self, caller: Caller, path: str) -> Answer:
        return await self.api.get(path, headers=name_caller(caller))

    def list_audit(self) -> list[tuple[Any, ...]]:
        """Return caller, object, id, before and after of each row, in order."""
        return self.database.execute(
            "select caller::bigint, object, objectid::bigint, before, after from audit order by id"
        )


@asynccontextmanager
async def run_console(
    database: TestDatabase,
    limits: Limits = Limits(),  # noqa: B008 - nothing changes it
) -> AsyncIterator[Console]:
    """Run an API."""
    callers = ChosenCallers()
    api = Api(database.dsn, handoff="none", limits=limits, authenticate=callers)
    try:
        yield Console(api=api, callers=callers, database=database)
    finally:
        await api.stop()
