"""Read a command by its id."""

from __future__ import annotations

from mig.access.caller import Caller
from mig.api.responder import Responder, make_not_found_error, parse_document_query
from mig.hypermedia.links import link_action
from mig.limits import Limits
from mig.model.command import Command, find_command
from mig.model.statement import QueryFunction
from mig.web.request import Request


class CommandResource:
    """The handler of commands."""

    def __init__(self, responder: Responder, limits: Limits) -> None:
        self._responder = responder
        self._limits = limits

    async def get_command(
        self, request: Request, caller: Caller, query: QueryFunction
    ) -> bytes | None:
        """Return one command by its id, with its action and its agent."""
        command_id, values = parse_document_query(Command.noun, request)
        format_ = self._responder.make_format(request, Command, values)
        found = await find_command(
            query,
            command_id,
            max_bytes=self._limits.result_bytes,
            is_flat=format_.is_flat,
            ids_as_text=format_.ids_as_text,
        )
        if found is None:
            raise make_not_found_error(Command.noun, command_id)
        links = link_action(self._responder.urls, found.actionid)
        return await self._responder.answer_record(request, format_, found.command, links)
