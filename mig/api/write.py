"""The handlers that take something in."""

from __future__ import annotations

from http import HTTPStatus

from mig.access.caller import Caller
from mig.actions.submit import Actions
from mig.api import errors
from mig.api.read import ById
from mig.database.pool import Database
from mig.errors import Conflict, Unavailable, Unreadable
from mig.hypermedia import document as collection
from mig.hypermedia import templates as home
from mig.hypermedia.document import Link
from mig.hypermedia.urls import Urls
from mig.investigators.registry import Investigators
from mig.model import action, investigator
from mig.values import parse_id, parse_json
from mig.web.forms import form
from mig.web.request import Request


class Write:
    """Answers POST requests."""

    def __init__(
        self, database: Database, urls: Urls, actions: Actions, investigators: Investigators
    ) -> None:
        self._database = database
        self._urls = urls
        self._actions = actions
        self._investigators = investigators

    async def create_action(self, request: Request, caller: Caller) -> bytes:
        """Take a signed action: 202 when it is new, 200 when it was accepted before."""
        given = form(request, home.ACTION, whole="action")["action"]
        value = parse_json(given, "action") if isinstance(given, str) else given
        try:
            accepted = await self._actions.submit(value)
        except Conflict as conflict:
            return self._conflict(request, conflict, "action", self._urls.action(conflict.id))
        href = self._urls.action(accepted.id)
        if accepted.new is None:
            by_id = action.by_id
            return await self._stored(request, HTTPStatus.OK, href, "action", by_id, accepted.id)
        try:
            item = action.item(self._urls, accepted.new, {})
        except Unreadable as reason:
            item = collection.unreadable_item("action", href, reason)
        return self._answer(request, HTTPStatus.ACCEPTED, href, item)

    async def create_investigator(self, request: Request, caller: Caller) -> bytes:
        """Add an investigator with a public key: 201, or 409 with a link to the key's owner."""
        given = form(request, home.INVESTIGATOR)
        try:
            id = await self._investigators.add(given["name"], given["publickey"].encode())
        except Conflict as conflict:
            href = self._urls.investigator(conflict.id)
            return self._conflict(request, conflict, "investigator", href)
        return await self._investigator(request, HTTPStatus.CREATED, id)

    async def update_investigator(self, request: Request, caller: Caller) -> bytes:
        """Enable or disable an investigator."""
        given = form(request, home.INVESTIGATOR_UPDATE)
        id = parse_id("id", given["id"])
        await self._investigators.set_status(id, given["status"])
        return await self._investigator(request, HTTPStatus.OK, id)

    async def _investigator(self, request: Request, status: HTTPStatus, id: int) -> bytes:
        href = self._urls.investigator(id)
        return await self._stored(request, status, href, "investigator", investigator.by_id, id)

    def _conflict(self, request: Request, conflict: Conflict, rel: str, href: str) -> bytes:
        links = [Link(rel=rel, href=href)] if conflict.id else None
        return errors.refused(request, conflict, links=links)

    async def _stored(
        self, request: Request, status: HTTPStatus, href: str, noun: str, by_id: ById, id: int
    ) -> bytes:
        """The answer with the document that is now under *id*."""
        try:
            item = await by_id(self._database.query, self._urls, id)
        except Unreadable as reason:
            item = collection.unreadable_item(noun, href, reason)
        if item is None:
            raise Unavailable("what was stored has been deleted again")
        return self._answer(request, status, href, item)

    def _answer(self, request: Request, status: HTTPStatus, href: str, item: bytes) -> bytes:
        request.rows = 1
        request.setHeader(b"location", href.encode())
        return request.answer(collection.head(request.href()) + item + collection.tail(), status)
