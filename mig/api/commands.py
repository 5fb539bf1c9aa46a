"""Commands."""

from __future__ import annotations

from mig.access.caller import Caller
from mig.api.documents import Documents, not_found, read_id
from mig.database.database import Database
from mig.hypermedia.links import link_action
from mig.limits import Limits
from mig.model.command import Command, find_command
from mig.web.request import Request


class Commands:
    """Answers with commands."""

    def __init__(self, database: Database, documents: Documents, limits: Limits) -> None:
        self._database = database
        self._documents = documents
        self._limits = limits

    async def get(self, request: Request, caller: Caller) -> bytes | None:
        """One command by its id, with its action and its agent."""
        command_id = read_id(Command.noun, request)
        query, max_bytes = self._database.query, self._limits.result_bytes
        found = await find_command(query, command_id, max_bytes=max_bytes)
        if found is None:
            raise not_found(Command.noun, command_id)
        links = link_action(self._documents.urls, found.actionid)
        return await self._documents.answer(request, found.command, links)
