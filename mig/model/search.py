"""The parameters of a search, as its answer repeats them."""

from __future__ import annotations

from msgspec import UNSET, UnsetType

from mig.model.record import Record, Time

ANY_ID = "∞"
ANY_TEXT = "%"
DEFAULT_LIMIT = 10_000
"""How many results a search has at most when its ``limit`` is not set."""


class SearchParameters(Record, kw_only=True):
    """The parameters of a search, as the clients of 2014 read them in its answer.

    A parameter that was not set has a value that matches everything. ``total`` is how many results
    there are without a limit, if the search asks for it.
    """

    noun = "search parameters"
    type: str
    actionid: int | str = ANY_ID
    actionname: str = ANY_TEXT
    after: Time = "0001-01-01T00:00:00Z"
    agentid: int | str = ANY_ID
    agentname: str = ANY_TEXT
    before: Time = "9999-12-31T23:59:59Z"
    commandid: int | str = ANY_ID
    foundanything: bool = False
    investigatorid: int | str = ANY_ID
    investigatorname: str = ANY_TEXT
    limit: int = DEFAULT_LIMIT
    report: str = ""
    status: str = ANY_TEXT
    threatfamily: str = ANY_TEXT
    total: int | UnsetType = UNSET

    def write_ids_as_text(self) -> None:
        """Let the parameters have their ids as strings, which no parser rounds."""
        self.actionid, self.agentid = str(self.actionid), str(self.agentid)
        self.commandid, self.investigatorid = str(self.commandid), str(self.investigatorid)
