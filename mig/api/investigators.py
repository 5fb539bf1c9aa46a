"""Read an investigator by its id, and create and change investigators."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from mig.access.audit import Actor
from mig.access.caller import Caller
from mig.api import forms
from mig.api.documents import answer_template
from mig.api.errors import answer_refusal
from mig.api.responder import (
    Responder,
    make_not_found_error,
    parse_document_query,
    refuse_parameters,
)
from mig.database.database import Database
from mig.errors import ConflictError, ForbiddenError, InvalidInputError, NotFoundError
from mig.formats.format import Format
from mig.hypermedia import templates
from mig.hypermedia.document import Link
from mig.hypermedia.links import link_history
from mig.investigators.registry import InvestigatorRegistry
from mig.model.investigator import Investigator, find_investigator, find_public_key
from mig.model.permissions import DEFAULT_PERMISSIONS, Permission, parse_permissions
from mig.model.record import UnreadableRecord
from mig.model.statement import QueryFunction
from mig.values import parse_id
from mig.web.request import Request

PERMISSIONS_FIELD: Final = "permissions"
FINGERPRINT_PATTERN: Final = re.compile(r"[0-9A-Fa-f]{40}", re.ASCII)


class InvestigatorResource:
    """The handlers of investigators."""

    def __init__(
        self, database: Database, responder: Responder, registry: InvestigatorRegistry
    ) -> None:
        self._database = database
        self._responder = responder
        self._registry = registry

    async def get_investigator(
        self, request: Request, caller: Caller, query: QueryFunction
    ) -> bytes | None:
        """Return one investigator by its id, with the public key."""
        investigator_id, values = parse_document_query(Investigator.noun, request)
        format_ = self._responder.make_format(request, Investigator, values)
        found = await find_investigator(query, investigator_id)
        if found is None:
            raise make_not_found_error(Investigator.noun, investigator_id)
        return await self._answer_investigator(
            request, format_, investigator_id, found, HTTPStatus.OK
        )

    async def get_public_key(self, request: Request, caller: Caller) -> bytes:
        """Return the armored key of an active investigator, by its fingerprint, as text."""
        refuse_parameters(request)
        fingerprint = request.path.rstrip(b"/").rpartition(b"/")[2].decode("latin-1")
        armored = None
        if FINGERPRINT_PATTERN.fullmatch(fingerprint):
            armored = await find_public_key(self._database.query, fingerprint)
        if armored is None:
            raise NotFoundError("no active investigator has a key with this fingerprint")
        return request.prepare_text(armored)

    async def get_template(self, request: Request, caller: Caller) -> bytes:
        """Return the template of a new investigator."""
        return answer_template(request, caller, templates.INVESTIGATOR)

    async def get_update_template(self, request: Request, caller: Caller) -> bytes:
        """Return the template that changes an investigator."""
        return answer_template(request, caller, templates.INVESTIGATOR_UPDATE)

    async def create_investigator(self, request: Request, caller: Caller) -> bytes | None:
        """Add an investigator: 201, or 409 with a link to the owner of the key."""
        fields = forms.CREATE_INVESTIGATOR.parse(request)
        permissions = _parse_permissions(fields)
        if "publickey" not in fields and permissions is None:
            raise InvalidInputError(
                "the field publickey is missing or empty; only an account with permissions may have"
                " no key",
                "publickey",
            )
        _check_administrator_flag(fields.get("isadmin", "false"))
        key = fields["publickey"].encode() if "publickey" in fields else None
        given = DEFAULT_PERMISSIONS if permissions is None else permissions
        actor = Actor.of_request(request, caller)
        try:
            added = await self._registry.add(
                actor, caller, fields["name"], key, given, client=request.client_group
            )
        except ConflictError as conflict:
            href = self._responder.urls.for_investigator(conflict.existing_id)
            links = [Link(rel="investigator", href=href)] if conflict.existing_id else None
            return answer_refusal(request, conflict, links=links)
        investigator_id = int(added.investigator.id)
        return await self._answer_change(request, investigator_id, added.read(), HTTPStatus.CREATED)

    async def update_investigator(self, request: Request, caller: Caller) -> bytes | None:
        """Change the status, the permissions or the API keys of an investigator."""
        fields = forms.UPDATE_INVESTIGATOR.parse(request)
        investigator_id = parse_id("id", fields["id"])
        permissions = _parse_permissions(fields)
        status, apikey = fields.get("status"), fields.get("apikey")
        if status is None and permissions is None and apikey is None:
            raise InvalidInputError(
                "the fields status, permissions and apikey are all missing or empty", "status"
            )
        changed = await self._registry.update(
            Actor.of_request(request, caller),
            caller,
            investigator_id,
            status=status,
            change_permissions=None if permissions is None else lambda _: permissions,
            apikey=apikey,
        )
        return await self._answer_change(request, investigator_id, changed, HTTPStatus.OK)

    async def _answer_change(
        self,
        request: Request,
        investigator_id: int,
        investigator: Investigator | UnreadableRecord,
        status: HTTPStatus,
    ) -> bytes | None:
        href = self._responder.urls.for_investigator(investigator_id)
        request.setHeader(b"location", href.encode())
        format_ = self._responder.make_format(request, Investigator, {})
        return await self._answer_investigator(
            request, format_, investigator_id, investigator, status
        )

    async def _answer_investigator(
        self,
        request: Request,
        format_: Format,
        investigator_id: int,
        investigator: Investigator | UnreadableRecord,
        status: HTTPStatus,
    ) -> bytes | None:
        links = link_history(self._responder.urls, str(investigator_id))
        return await self._responder.answer_record(
            request, format_, investigator, links, status=status
        )


def _parse_permissions(fields: Mapping[str, Any]) -> Permission | None:
    """Return the permissions in a form, ``None`` when it has none."""
    if PERMISSIONS_FIELD not in fields:
        return None
    return parse_permissions(fields[PERMISSIONS_FIELD])


def _check_administrator_flag(text: str) -> None:
    """Check the field isadmin, which clients of 2016 send; false means nothing.

    :raises ForbiddenError: when it is true.
    """
    if text == "true":
        raise ForbiddenError(
            "isadmin cannot be true; send permissions, or use `mig-api investigator` on the server"
        )
    if text != "false":
        raise InvalidInputError("isadmin must be true or false", "isadmin")
