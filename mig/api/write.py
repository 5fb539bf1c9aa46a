"""The handlers that take something in."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from mig.actions.investigators import Investigators
from mig.actions.submit import Actions
from mig.api import errors
from mig.api.bodies import form
from mig.api.request import Request
from mig.database.pool import Database
from mig.records import action, collection, home, investigator
from mig.records.collection import Link
from mig.records.urls import Urls
from mig.values import Conflict, Unavailable, parse_id, parse_json


class Write:
    """Answers POST requests."""

    def __init__(
        self, database: Database, urls: Urls, actions: Actions, investigators: Investigators
    ) -> None:
        self._database = database
        self._urls = urls
        self._actions = actions
        self._investigators = investigators

    async def create_action(self, request: Request) -> bytes:
        """Take a signed action: 202 when it is new, 200 when it was accepted before."""
        given = form(request, home.ACTION, whole="action")["action"]
        value = parse_json(given, "action") if isinstance(given, str) else given
        accepted = await self._actions.submit(value)
        item = await action.by_id(self._database.query, self._urls, accepted.id)
        status = HTTPStatus.ACCEPTED if accepted.new else HTTPStatus.OK
        return self._stored(request, status, self._urls.action(accepted.id), item)

    async def create_investigator(self, request: Request) -> bytes:
        """Add an investigator with a public key: 201, or 409 with a link to the key's owner."""
        given = form(request, home.INVESTIGATOR)
        try:
            id = await self._investigators.add(given["name"], given["publickey"].encode())
        except Conflict as conflict:
            link = Link(rel="investigator", href=self._urls.investigator(conflict.id))
            return errors.refused(request, conflict, links=[link])
        return await self._investigator(request, HTTPStatus.CREATED, id)

    async def update_investigator(self, request: Request) -> bytes:
        """Enable or disable an investigator."""
        given = form(request, home.INVESTIGATOR_UPDATE)
        id = parse_id("id", given["id"])
        await self._investigators.set_status(id, given["status"])
        return await self._investigator(request, HTTPStatus.OK, id)

    async def _investigator(self, request: Request, status: HTTPStatus, id: int) -> bytes:
        item = await investigator.by_id(self._database.query, self._urls, id)
        return self._stored(request, status, self._urls.investigator(id), item)

    def _stored(self, request: Request, status: HTTPStatus, href: str, item: Any) -> bytes:
        if item is None:
            raise Unavailable("what was stored has been deleted again")
        request.rows = 1
        request.setHeader(b"location", href.encode())
        return request.answer(collection.head(request.href()) + item + collection.tail(), status)
