"""The audit: who changed what, and what was refused to whom. Its rows are only added."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from typing import Final, Self

import msgspec

from mig.access.caller import Caller
from mig.database.database import Transaction
from mig.values import generate_id
from mig.web.request import Request

DONE: Final = "done"
"""The outcome of a change."""


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


_INSERT: Final = """
    insert into audit (
        at, operation, caller, callername, key, client, method, path, object, objectid, before,
        after, outcome
    )
    values (clock_timestamp(), %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
"""


async def record_change(
    transaction: Transaction,
    actor: Actor,
    noun: str,
    object_id: int,
    *,
    before: object = None,
    after: object = None,
) -> None:
    """Add the row of a change, in the transaction of the change: neither exists without the other.

    :param noun: what was changed, such as ``investigator`` or ``apikey``.
    :param before: what is to be known of its former state, as a value for JSON, without secrets.
    """
    await transaction.query(
        _INSERT,
        (
            actor.operation,
            actor.caller,
            actor.callername,
            actor.key,
            actor.client,
            actor.method,
            actor.path,
            noun,
            object_id,
            _encode(before),
            _encode(after),
            DONE,
        ),
    )


def _encode(value: object) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()
