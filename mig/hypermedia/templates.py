"""The links and queries of the home document, and the templates of forms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mig.hypermedia.document import Data, Link, Query, Template
from mig.hypermedia.urls import (
    API_KEY,
    AUDIT,
    CREATE_ACTION,
    CREATE_API_KEY,
    CREATE_INVESTIGATOR,
    DASHBOARD,
    DOCS,
    HEARTBEAT,
    OPENAPI,
    REVOKE_API_KEY,
    SEARCH,
    UPDATE_INVESTIGATOR,
    Urls,
)

_LINKS: Final = (
    ("dashboard", DASHBOARD, "What the agents are doing, and the last actions"),
    ("create-action", CREATE_ACTION, "The form for a signed action"),
    ("create-investigator", CREATE_INVESTIGATOR, "The form for a new investigator"),
    ("update-investigator", UPDATE_INVESTIGATOR, "The form that changes an investigator"),
    ("apikeys", API_KEY, "The API keys of the caller, or of everybody"),
    ("create-apikey", CREATE_API_KEY, "The form for a new API key"),
    ("revoke-apikey", REVOKE_API_KEY, "The form that revokes an API key"),
    ("heartbeat", HEARTBEAT, "Whether the service is running"),
    ("service-doc", DOCS, "The description of the API, for people"),
    ("service-desc", OPENAPI, "The description of the API in OpenAPI"),
)
NOUNS: Final = ("action", "command", "agent", "investigator", "apikey")

ACTION: Final = Template(
    data=[Data(name="action", value="", prompt="A signed action, as JSON")],
)
INVESTIGATOR: Final = Template(
    data=[
        Data(name="name", value="", prompt="The investigator's full name"),
        Data(name="publickey", value="", prompt="The investigator's armored PGP public key"),
        Data(
            name="permissions",
            value="",
            prompt="Optional: a JSON object of permissions to true or false. Then the key is"
            " optional, too",
        ),
    ],
)
INVESTIGATOR_UPDATE: Final = Template(
    data=[
        Data(name="id", value="", prompt="The id of the investigator"),
        Data(name="status", value="", prompt="The new status, active or disabled; or none"),
        Data(
            name="permissions",
            value="",
            prompt="The new permissions, a JSON object of names to true or false; or none",
        ),
        Data(
            name="apikey",
            value="",
            prompt="active for a new API key, disabled to revoke all of them; or none",
        ),
    ],
)
API_KEY_CREATION: Final = Template(
    data=[
        Data(name="investigatorid", value="", prompt="Whose key it is; by default the caller's"),
        Data(name="name", value="", prompt="What the key is for"),
        Data(
            name="permissions",
            value="",
            prompt="Optional: what the key may do at most, as names with commas or a JSON object"
            " of names to true or false; by default all that the investigator may do now",
        ),
        Data(
            name="expires",
            value="",
            prompt="Optional: an RFC 3339 time, or a duration such as 90d, 36h or 1h30m",
        ),
    ],
)
API_KEY_REVOCATION: Final = Template(
    data=[Data(name="id", value="", prompt="The id of the API key")],
)


def list_home_links(urls: Urls) -> list[Link]:
    """Return the links of the home document."""
    return [Link(rel=rel, href=urls.base + path, prompt=prompt) for rel, path, prompt in _LINKS]


def list_home_queries(urls: Urls, search: Sequence[Data], audit: Sequence[Data]) -> list[Query]:
    """Return a query by id for each noun, the search and the audit with their parameters."""
    single = [
        Query(
            rel=noun,
            href=f"{urls.base}/{noun}",
            prompt=f"One {noun} by its id",
            data=[Data(name=f"{noun}id", value="", prompt="1 to 18446744073709551615")],
        )
        for noun in NOUNS
    ]
    return [
        *single,
        Query(
            rel="search",
            href=urls.base + SEARCH,
            prompt="Actions, commands, agents or investigators, newest first",
            data=search,
        ),
        Query(
            rel="audit",
            href=urls.base + AUDIT,
            prompt="Who changed what, and which requests were refused, newest first",
            data=audit,
        ),
    ]
