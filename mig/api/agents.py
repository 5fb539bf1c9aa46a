"""Read an agent by its id."""

from __future__ import annotations

from mig.access.caller import Caller
from mig.api.responder import Responder, make_not_found_error, parse_document_query
from mig.model.agent import Agent, find_agent
from mig.model.statement import QueryFunction
from mig.web.request import Request


class AgentResource:
    """The handler of agents."""

    def __init__(self, responder: Responder) -> None:
        self._responder = responder

    async def get_agent(
        self, request: Request, caller: Caller, query: QueryFunction
    ) -> bytes | None:
        """Return one agent by its id."""
        agent_id, values = parse_document_query(Agent.noun, request)
        format_ = self._responder.make_format(request, Agent, values)
        found = await find_agent(query, agent_id)
        if found is None:
            raise make_not_found_error(Agent.noun, agent_id)
        return await self._responder.answer_record(request, format_, found)
