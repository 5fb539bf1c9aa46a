"""List, make and revoke API keys."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from mig.access.audit import Actor
from mig.access.caller import Caller
from mig.api import forms
from mig.api.documents import answer_template
from mig.api.responder import Responder, make_not_found_error, read_clock
from mig.database.database import Database
from mig.formats import COLLECTION
from mig.formats.format import Format
from mig.hypermedia import templates
from mig.hypermedia.document import Link
from mig.hypermedia.links import link_owner
from mig.investigators.apikeys import (
    NO_KEYS_WITHOUT_AUTHENTICATION,
    ApiKeyRegistry,
    check_authentication,
    make_foreign_key_error,
)
from mig.limits import Limits
from mig.model.apikey import API_KEY_BY_ID, ApiKey, ApiKeyRow, list_api_keys, read_api_key
from mig.model.permissions import Permission, parse_permission_field
from mig.search.kinds import IdKind
from mig.search.parameters import Parameter
from mig.search.search import parse_values
from mig.values import parse_id
from mig.web.request import Request

LIST_PARAMETERS: Final = (
    Parameter(name="apikeyid", kind=IdKind(), meaning="the id of the one key that is asked for"),
    Parameter(
        name="investigatorid",
        kind=IdKind(),
        meaning="whose keys; default those of the caller, of everybody with investigator_update",
    ),
    Parameter(name="cursor", kind=IdKind(), meaning="the end of an earlier page"),
)
_PARAMETERS_BY_NAME: Final = {parameter.name: parameter for parameter in LIST_PARAMETERS}


class ApiKeyResource:
    """The handlers of API keys."""

    def __init__(
        self,
        database: Database,
        responder: Responder,
        registry: ApiKeyRegistry,
        limits: Limits,
    ) -> None:
        self._database = database
        self._responder = responder
        self._registry = registry
        self._limits = limits

    async def get_keys(self, request: Request, caller: Caller) -> bytes | None:
        """Return the keys that the caller may see, the newest first, or the one with an id."""
        _, ids = parse_values(request.parse_query(), _PARAMETERS_BY_NAME, read_clock(request))
        if Permission.INVESTIGATOR_UPDATE not in caller.permissions:
            _restrict_to_own(ids, caller)
        if "apikeyid" in ids:
            return await self._answer_stored_key(request, caller, ids)
        limit = self._limits.listed_api_keys
        rows = await list_api_keys(
            self._database.query,
            investigator_id=ids.get("investigatorid"),
            below=ids.get("cursor"),
            limit=limit + 1,
        )
        links = []
        if len(rows) > limit:
            parameters = {**ids, "cursor": int(rows[limit - 1].id)}
            pairs = [(name, str(value)) for name, value in parameters.items()]
            links.append(Link(rel="next", href=self._responder.urls.for_api_keys(pairs)))
        records = [
            (read_api_key(row), link_owner(self._responder.urls, row.investigatorid))
            for row in rows[:limit]
        ]
        format_ = self._make_format(request, is_list=True)
        return self._responder.answer_records(request, format_, records, links)

    async def get_create_template(self, request: Request, caller: Caller) -> bytes:
        """Return the template of a new key."""
        return answer_template(
            request, caller, templates.API_KEY_CREATION, refusal=NO_KEYS_WITHOUT_AUTHENTICATION
        )

    async def get_revoke_template(self, request: Request, caller: Caller) -> bytes:
        """Return the template that revokes a key."""
        return answer_template(request, caller, templates.API_KEY_REVOCATION)

    async def create_key(self, request: Request, caller: Caller) -> bytes | None:
        """Make a key: 201, with its text, which is never shown again."""
        check_authentication(caller)
        fields = forms.CREATE_API_KEY.parse(request)
        owner = caller.investigator_id
        if "investigatorid" in fields:
            owner = parse_id("investigatorid", fields["investigatorid"])
        assert owner is not None  # check_authentication has refused a caller without an id
        permissions = None
        if "permissions" in fields:
            permissions = parse_permission_field(fields["permissions"])
        made = await self._registry.create(
            Actor.of_request(request, caller),
            caller,
            owner,
            fields["name"],
            permissions=permissions,
            expires=fields.get("expires"),
        )
        return await self._answer_key(request, made.row, made.key)

    async def revoke_key(self, request: Request, caller: Caller) -> bytes | None:
        """Revoke a key; it is refused from the next request on."""
        fields = forms.REVOKE_API_KEY.parse(request)
        actor = Actor.of_request(request, caller)
        row = await self._registry.revoke(actor, caller, parse_id("id", fields["id"]))
        return await self._answer_key(request, row)

    async def _answer_stored_key(
        self, request: Request, caller: Caller, ids: dict[str, int]
    ) -> bytes | None:
        for row in await self._database.query(API_KEY_BY_ID, (ids["apikeyid"],)):
            if int(row.investigatorid) == ids.get("investigatorid", int(row.investigatorid)):
                return await self._answer_key(request, row)
        if Permission.INVESTIGATOR_UPDATE not in caller.permissions:
            raise make_foreign_key_error()  # whether or not there is such a key
        raise make_not_found_error("API key", ids["apikeyid"])

    async def _answer_key(
        self, request: Request, row: ApiKeyRow, key: str | None = None
    ) -> bytes | None:
        """Answer with a key; with its text when it is new."""
        urls = self._responder.urls
        links = link_owner(urls, row.investigatorid)
        format_ = self._make_format(request)
        if key is None:
            return await self._responder.answer_record(request, format_, read_api_key(row), links)
        request.setHeader(b"location", urls.for_api_key(row.id).encode())
        record, status = read_api_key(row, key), HTTPStatus.CREATED
        return await self._responder.answer_record(request, format_, record, links, status=status)

    def _make_format(self, request: Request, *, is_list: bool = False) -> Format:
        """Return the format: there is no reason to have keys as rows of a file."""
        return self._responder.make_format(
            request, ApiKey, {}, is_list=is_list, offered=(COLLECTION,)
        )


def _restrict_to_own(ids: dict[str, int], caller: Caller) -> None:
    """Restrict a request for keys to those of the caller.

    :raises ForbiddenError: when it asks for somebody else's.
    """
    own = caller.investigator_id
    if own is None or ids.setdefault("investigatorid", own) != own:
        raise make_foreign_key_error()
