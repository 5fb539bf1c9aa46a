"""Every path of the service."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import quote, urlencode, urlsplit

HOME = "/"
ACTION = "/action"
AGENT = "/agent"
COMMAND = "/command"
INVESTIGATOR = "/investigator"
SEARCH = "/search"
DASHBOARD = "/dashboard"
HEARTBEAT = "/heartbeat"
CREATE_ACTION = "/action/create/"
CREATE_INVESTIGATOR = "/investigator/create/"
UPDATE_INVESTIGATOR = "/investigator/update/"


class Urls:
    """Public URLs, all below one base such as ``http://localhost:1664/api/v1``."""

    def __init__(self, base: str) -> None:
        self.base = base.rstrip("/")
        self.root = self.base.removesuffix(urlsplit(self.base).path)

    def home(self) -> str:
        return self.base + HOME

    def action(self, id: int | str) -> str:
        return f"{self.base}{ACTION}?actionid={id}"

    def agent(self, id: int | str) -> str:
        return f"{self.base}{AGENT}?agentid={id}"

    def command(self, id: int | str) -> str:
        return f"{self.base}{COMMAND}?commandid={id}"

    def investigator(self, id: int | str) -> str:
        return f"{self.base}{INVESTIGATOR}?investigatorid={id}"

    def actions_of(self, investigator: str) -> str:
        """The search for the last actions that an investigator signed."""
        return f"{self.base}{SEARCH}?type=action&investigatorid={investigator}&limit=100"

    def search(self, parameters: Iterable[tuple[str, str]]) -> str:
        return f"{self.base}{SEARCH}?{query_string(parameters)}"


def query_string(parameters: Iterable[tuple[str, str]]) -> str:
    """Parameters percent-encoded as RFC 3986 asks; what may stand unescaped in a query does."""
    return urlencode(list(parameters), safe=":,/", quote_via=quote)
