"""Agents."""

from __future__ import annotations

from mig.access.caller import Caller
from mig.api.documents import Documents, not_found, read_id
from mig.database.database import Database
from mig.model.agent import Agent, find_agent
from mig.web.request import Request


class Agents:
    """Answers with agents."""

    def __init__(self, database: Database, documents: Documents) -> None:
        self._database = database
        self._documents = documents

    async def get(self, request: Request, caller: Caller) -> bytes | None:
        """One agent by its id."""
        agent_id = read_id(Agent.noun, request)
        found = await find_agent(self._database.query, agent_id)
        if found is None:
            raise not_found(Agent.noun, agent_id)
        return await self._documents.answer(request, found)
