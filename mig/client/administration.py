"""The calls that administrators need: investigators and API keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from mig.client.body import Response
from mig.client.documents import read_document, read_record
from mig.client.pages import NextPages, convert_record, find_next, list_data
from mig.client.records import ApiKey, Investigator
from mig.client.session import Session
from mig.hypermedia import urls


class Administration:
    """The part of a client that changes investigators and API keys."""

    _session: Session

    async def create_investigator(
        self, name: str, publickey: str, permissions: Mapping[str, bool] | None = None
    ) -> Investigator:
        """Add an investigator, and return it.

        :param publickey: the armored key; empty for an account that only calls the API, which must
            have ``permissions``.
        :raises RequestError: when it is refused, also because there is one with this key.
        """
        fields = {"name": name}
        if permissions is not None:
            fields["permissions"] = _encode(permissions)
        key = ("publickey.asc", "application/pgp-keys", publickey.encode())
        response = await self._session.post(
            urls.CREATE_INVESTIGATOR,
            fields,
            {"publickey": key} if publickey else None,
            is_idempotent=False,
        )
        return await read_record(response, "investigator", Investigator)

    async def update_investigator(
        self,
        investigator_id: int,
        *,
        status: Literal["active", "disabled"] | None = None,
        permissions: Mapping[str, bool] | None = None,
        apikey: Literal["active", "disabled"] | None = None,
    ) -> Investigator:
        """Change an investigator, and return it.

        :param apikey: ``active`` makes an API key, which is ``apikey`` of the result and nowhere
            else; ``disabled`` revokes all of them.
        :raises RequestError: when it is refused.
        """
        fields = {"id": str(investigator_id)}
        if status is not None:
            fields["status"] = status
        if permissions is not None:
            fields["permissions"] = _encode(permissions)
        if apikey is not None:
            fields["apikey"] = apikey
        response = await self._session.post(
            urls.UPDATE_INVESTIGATOR, fields, is_idempotent=apikey != "active"
        )
        return await read_record(response, "investigator", Investigator)

    async def api_keys(self, investigator_id: int | None = None) -> list[ApiKey]:
        """Return the API keys of an investigator, or all that the caller may see, newest first.

        :raises RequestError: when the caller may not see them.
        """
        query = [] if investigator_id is None else [("investigatorid", str(investigator_id))]
        keys = []
        next_pages = NextPages()
        response: Response | None = await self._session.get(urls.API_KEY, query)
        while response:
            items, members = await read_document(response)
            for name, value in list_data(items):
                if name == "apikey":
                    keys.append(convert_record(value, ApiKey))
            following = next_pages.check(find_next(members))
            response = await self._session.get_page(urls.API_KEY, following) if following else None
        return keys

    async def create_api_key(
        self,
        name: str,
        *,
        investigator_id: int | None = None,
        permissions: str | Mapping[str, bool] | None = None,
        expires: str | None = None,
    ) -> ApiKey:
        """Make an API key, and return it with its text: ``key``, which is nowhere else.

        :param investigator_id: the owner, by default the caller.
        :param permissions: the most that it may do: names with commas between them, or by name;
            by default all that the owner may do now.
        :param expires: a duration such as ``90d``, or an RFC 3339 date; by default never.
        :raises RequestError: when it is refused.
        """
        fields = {"name": name}
        if investigator_id is not None:
            fields["investigatorid"] = str(investigator_id)
        if permissions is not None:
            names = permissions if isinstance(permissions, str) else _encode(permissions)
            fields["permissions"] = names
        if expires is not None:
            fields["expires"] = expires
        response = await self._session.post(urls.CREATE_API_KEY, fields, is_idempotent=False)
        return await read_record(response, "apikey", ApiKey)

    async def revoke_api_key(self, key_id: int) -> ApiKey:
        """Revoke an API key at once and for ever, and return it.

        :raises RequestError: when it is refused.
        """
        fields = {"id": str(key_id)}
        response = await self._session.post(urls.REVOKE_API_KEY, fields, is_idempotent=True)
        return await read_record(response, "apikey", ApiKey)


def _encode(permissions: Mapping[str, bool]) -> str:
    return msgspec.json.encode(permissions).decode()
