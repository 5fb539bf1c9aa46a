"""Read an action by its id, and create actions."""

from __future__ import annotations

from http import HTTPStatus

from mig.access.audit import Actor
from mig.access.caller import Caller
from mig.actions.submit import Submitter
from mig.api.documents import answer_template
from mig.api.errors import answer_refusal
from mig.api.responder import (
    Responder,
    make_deleted_error,
    make_not_found_error,
    parse_document_query,
)
from mig.database.database import Database
from mig.errors import ConflictError
from mig.formats.format import Format
from mig.hypermedia import templates
from mig.hypermedia.document import Link
from mig.hypermedia.links import link_commands
from mig.model.action import Action, LinkedAction, find_action
from mig.model.record import read_record
from mig.model.statement import QueryFunction
from mig.web.request import Request


class ActionResource:
    """The handlers of actions."""

    def __init__(self, database: Database, responder: Responder, submitter: Submitter) -> None:
        self._database = database
        self._responder = responder
        self._submitter = submitter

    async def get_action(
        self, request: Request, caller: Caller, query: QueryFunction
    ) -> bytes | None:
        """Return one action by its id, with links to its commands."""
        action_id, values = parse_document_query(Action.noun, request)
        format_ = self._responder.make_format(request, Action, values)
        found = await find_action(query, action_id)
        if found is None:
            raise make_not_found_error(Action.noun, action_id)
        return await self._answer_action(request, format_, action_id, found)

    async def get_template(self, request: Request, caller: Caller) -> bytes:
        """Return the template of a new action."""
        return answer_template(request, caller, templates.ACTION)

    async def create_action(self, request: Request, caller: Caller) -> bytes | None:
        """Accept a signed action: 202, also when it was accepted before."""
        urls = self._responder.urls
        actor = Actor.of_request(request, caller)
        try:
            accepted = await self._submitter.submit(
                request.content_type, request.content, request.client_group, actor
            )
        except ConflictError as conflict:
            link = Link(rel="action", href=urls.for_action(conflict.existing_id))
            return answer_refusal(request, conflict, links=[link] if conflict.existing_id else None)
        request.setHeader(b"location", urls.for_action(accepted.id).encode())
        format_ = self._responder.make_format(request, Action, {})
        if accepted.new_row is None:
            earlier = await find_action(self._database.query, accepted.id)
            if earlier is None:
                raise make_deleted_error()
            # clients of 2017 take any other status for a failure of an action that runs
            return await self._answer_action(
                request, format_, accepted.id, earlier, HTTPStatus.ACCEPTED
            )
        record = read_record(Action.noun, Action.from_row, accepted.new_row, {})
        return await self._responder.answer_record(
            request, format_, record, status=HTTPStatus.ACCEPTED
        )

    async def _answer_action(
        self,
        request: Request,
        format_: Format,
        action_id: int,
        found: LinkedAction,
        status: int = HTTPStatus.OK,
    ) -> bytes | None:
        urls = self._responder.urls
        links = link_commands(urls, action_id, found.commands, has_more=found.has_more)
        return await self._responder.answer_record(
            request, format_, found.action, links, status=status
        )
