"""Every path and URL of the service."""

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
AUDIT = "/audit"
HEARTBEAT = "/heartbeat"
READINESS = "/readyz"
CREATE_ACTION = "/action/create/"
CREATE_INVESTIGATOR = "/investigator/create/"
UPDATE_INVESTIGATOR = "/investigator/update/"
API_KEY = "/apikey"
CREATE_API_KEY = "/apikey/create/"
REVOKE_API_KEY = "/apikey/revoke/"
CLIENT_ADDRESS = "/ip"
STYLE = "/style.css"
PUBLIC_KEY = "/publickey/<fingerprint>"
OPENAPI = "/openapi.json"
DOCS = "/docs"
DOCS_FILE = "/docs/<file>"


class Urls:
    """The public URLs, all below a base such as ``http://localhost:1664/api/v1``.

    ``root`` is the base without its path, ``base_path``.
    """

    def __init__(self, base: str) -> None:
        self.base = base.rstrip("/")
        self.base_path = urlsplit(self.base).path
        self.root = self.base.removesuffix(self.base_path)

    def for_home(self) -> str:
        """Return the URL of the home document."""
        return self.base + HOME

    def for_record(self, noun: str, record_id: int | str) -> str:
        """Return the URL of a record, such as an action or an API key."""
        return f"{self.base}/{noun}?{noun}id={record_id}"

    def for_action(self, record_id: int | str) -> str:
        """Return the URL of an action."""
        return self.for_record("action", record_id)

    def for_agent(self, record_id: int | str) -> str:
        """Return the URL of an agent."""
        return self.for_record("agent", record_id)

    def for_command(self, record_id: int | str) -> str:
        """Return the URL of a command."""
        return self.for_record("command", record_id)

    def for_investigator(self, record_id: int | str) -> str:
        """Return the URL of an investigator."""
        return self.for_record("investigator", record_id)

    def for_api_key(self, record_id: int | str) -> str:
        """Return the URL of an API key."""
        return self.for_record("apikey", record_id)

    def for_api_keys(self, parameters: Iterable[tuple[str, str]]) -> str:
        """Return the URL of a list of API keys."""
        return f"{self.base}{API_KEY}?{encode_query_string(parameters)}"

    def for_actions_of(self, investigator: str) -> str:
        """Return the URL of a search for the last actions that an investigator signed."""
        return f"{self.base}{SEARCH}?type=action&investigatorid={investigator}&limit=100"

    def for_search(self, parameters: Iterable[tuple[str, str]]) -> str:
        """Return the URL of a search."""
        return f"{self.base}{SEARCH}?{encode_query_string(parameters)}"

    def for_audit(self, parameters: Iterable[tuple[str, str]]) -> str:
        """Return the URL of a page of the audit."""
        return f"{self.base}{AUDIT}?{encode_query_string(parameters)}"


def encode_query_string(parameters: Iterable[tuple[str, str]]) -> str:
    """Return parameters as a query string, percent-encoded (RFC 3986, section 2.1)."""
    # RFC 3986, section 3.4, allows these in a query; unescaped, times and cursors stay readable
    return urlencode(list(parameters), safe=":,/", quote_via=quote)
