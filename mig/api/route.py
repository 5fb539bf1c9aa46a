"""What a route is, and how each is defined."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from typing import Any, TypeVar

from mig.access.caller import Caller
from mig.api.descriptions import Answer, Description, list_common_errors
from mig.api.responder import list_document_parameters
from mig.errors import NotFoundError, TooManyRequestsError
from mig.formats import FORMATS
from mig.model.permissions import Permission
from mig.model.record import Record
from mig.model.statement import QueryFunction
from mig.web.request import Request


class BodyPolicy(Enum):
    """What a route does with a body; the value is the field of ``Limits`` for its length."""

    DISCARDED = "discarded_body_bytes"
    ACTION = "action_body_bytes"
    KEY = "key_body_bytes"

    @property
    def advice(self) -> str:
        """What a client whose body is too long can do; empty for nothing."""
        if self is BodyPolicy.DISCARDED:
            return ""
        advice = f"[limits] {self.value} in the service's configuration raises this"
        if self is BodyPolicy.KEY:
            advice += ", and `gpg --export-options export-minimal` makes a key shorter"
        return advice


@dataclass(frozen=True, kw_only=True)
class Route:
    """One method of one path: the permission that the caller needs, the handler, what it is for.

    :param permission: ``None`` for an open route, which ignores credentials.
    :param resource_class: the class that the handler is a method of.
    :param handler: one that is guarded has another argument, the function by which it queries.
    :param is_guarded: whether the handler's first query checks the caller (docs/decisions/0060).
    :param is_limited: whether the rate of a client counts its requests for the route
        (docs/decisions/0100).
    :param is_streamed: whether a client that closes its sending side ends the request; otherwise it
        gets its answer (docs/decisions/0043).
    """

    path: str
    method: str
    permission: Permission | None
    body_policy: BodyPolicy
    resource_class: type
    handler: Callable[..., Awaitable[bytes | None]]
    description: Description
    is_streamed: bool = False
    is_guarded: bool = False
    is_limited: bool = True

    def list_error_statuses(self) -> list[HTTPStatus]:
        """Return the statuses of all errors that the route may answer, in order."""
        needs_caller, has_body = self.permission is not None, self.description.form is not None
        common = list_common_errors(needs_caller=needs_caller, has_body=has_body)
        errors = {*common, *self.description.errors}
        if not self.is_limited:
            errors.discard(TooManyRequestsError)
        return sorted({error.status for error in errors})


Resource = TypeVar("Resource")
AnswerCoroutine = Coroutine[Any, Any, bytes | None]


def define_get(
    path: str,
    permission: Permission | None,
    resource_class: type[Resource],
    handler: Callable[[Resource, Request, Caller], AnswerCoroutine],
    description: Description,
    *,
    is_streamed: bool = False,
    is_limited: bool = True,
) -> Route:
    """Return a route of GET."""
    return Route(
        path=path,
        method="GET",
        permission=permission,
        body_policy=BodyPolicy.DISCARDED,
        resource_class=resource_class,
        handler=handler,
        description=description,
        is_streamed=is_streamed,
        is_limited=is_limited,
    )


def define_record_get(
    path: str,
    permission: Permission,
    resource_class: type[Resource],
    handler: Callable[[Resource, Request, Caller, QueryFunction], AnswerCoroutine],
    record: type[Record],
    meaning: str,
) -> Route:
    """Return a route for one record; its handler makes the answer by a query function."""
    id_name = f"{record.noun}id"
    return Route(
        path=path,
        method="GET",
        permission=permission,
        body_policy=BodyPolicy.DISCARDED,
        resource_class=resource_class,
        handler=handler,
        description=Description(
            meaning=meaning,
            parameters=tuple(list_document_parameters(id_name).values()),
            required=(id_name,),
            answer=Answer(
                formats=tuple(FORMATS), records=(record,), headers=("Content-Disposition",)
            ),
            errors=(NotFoundError,),
        ),
        is_guarded=True,
    )


def define_post(
    path: str,
    permission: Permission,
    body_policy: BodyPolicy,
    resource_class: type[Resource],
    handler: Callable[[Resource, Request, Caller], AnswerCoroutine],
    description: Description,
) -> Route:
    """Return a route of POST."""
    return Route(
        path=path,
        method="POST",
        permission=permission,
        body_policy=body_policy,
        resource_class=resource_class,
        handler=handler,
        description=description,
    )
