"""The audit: who changed what, and which requests were refused. Its rows are only added."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Final, Self

import msgspec
import psycopg2

from mig.access.caller import Caller
from mig.database.database import Transaction
from mig.errors import UnavailableError
from mig.values import generate_id
from mig.web.request import Request

DONE: Final = "done"
"""The outcome of a change."""

REPEATED: Final = "accepted before"
"""The outcome of an action that was accepted before, now with the signature of somebody else."""

ACTOR_TYPES: Final = {
    "operation": "text",
    "caller": "numeric",
    "callername": "text",
    "key": "bigint",
    "client": "text",
    "method": "text",
    "path": "text",
}
"""The parameters of :data:`INSERT_SQL` with their types, for a prepared statement."""

INSERT_SQL: Final = """
    insert into audit (
        at, operation, caller, callername, key, client, method, path,
        object, objectid, before, after, outcome
    )
    select
        clock_timestamp(), %(operation)s, %(caller)s, %(callername)s, %(key)s, %(client)s,
        %(method)s, %(path)s,
"""
"""The beginning of a statement that adds a row; the values from ``object`` on follow."""


@dataclass(frozen=True, kw_only=True)
class Actor:
    """Who does something, and by what: the part of an audit row that is known before.

    ``caller`` is the investigator's id, ``None`` for someone who needed no credentials; ``key`` is
    the id of the API key, ``client`` the address.
    """

    operation: str
    caller: int | None
    callername: str
    key: int | None
    client: str | None
    method: str | None
    path: str | None

    def to_parameters(self) -> dict[str, object]:
        """Return the parameters of :data:`INSERT_SQL`."""
        return asdict(self)

    @classmethod
    def of_request(cls, request: Request, caller: Caller) -> Self:
        """Return the actor of a request whose route is known."""
        return cls(
            operation=request.operation,
            caller=caller.investigator_id,
            callername=caller.name,
            key=caller.key_id,
            client=request.client_address,
            method=request.method.decode(),
            path=None if request.route is None else request.route.path,
        )

    @classmethod
    def of_command_line(cls, verb: str) -> Self:
        """Return the system account that runs ``mig-api VERB``."""
        uid = os.getuid()
        try:
            name = pwd.getpwuid(uid).pw_name
        except KeyError:  # as in a container
            name = str(uid)
        return cls(
            operation=str(generate_id()),
            caller=None,
            callername=name,
            key=None,
            client=None,
            method=None,
            path=f"mig-api {verb}",
        )


_INSERT_CHANGE: Final = f"""
    {INSERT_SQL} %(object)s, %(objectid)s, %(before)s::json, %(after)s::json, '{DONE}'
"""


async def record_change(
    transaction: Transaction,
    actor: Actor,
    noun: str,
    object_id: int | None,
    *,
    before: object = None,
    after: object = None,
) -> None:
    """Add the row of a change, in the transaction of the change: neither exists without the other.

    :param noun: what was changed, such as ``investigator`` or ``apikey``.
    :param before: what is to be known of its former state, as a value for JSON, without secrets.
    :raises UnavailableError: when the row cannot be added; then the change must not be made.
    """
    change = {
        "object": noun,
        "objectid": object_id,
        "before": _encode(before),
        "after": _encode(after),
    }
    try:
        await transaction.query(_INSERT_CHANGE, actor.to_parameters() | change)
    except psycopg2.Error as reason:
        raise _make_error(reason) from None


@contextmanager
def explain_missing_audit() -> Iterator[None]:
    """Make the error of a statement that adds a row of the audit one that clients may see.

    :raises UnavailableError: when PostgreSQL names the audit, a part of it, or its sequence as what
        it cannot use.
    """
    try:
        yield
    except psycopg2.Error as reason:
        named = f"{reason.diag.table_name} {reason.diag.message_primary}"
        if "audit" not in named:
            raise
        raise _make_error(reason) from None


def _make_error(reason: psycopg2.Error) -> UnavailableError:
    detail = " ".join(str(reason).split())
    return UnavailableError("the audit cannot be written, so nothing has been changed", detail)


def _encode(value: object) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()
