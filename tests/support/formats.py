"""How the tests read the formats of answers."""

from __future__ import annotations

import json
from typing import Any

from tests.support.json_types import Json, JsonObject


def read_items(document: Json) -> list[JsonObject]:
    """Return the values of the items of a collection, without the search parameters.

    One that cannot be read is the member ``unreadable``, as in NDJSON.
    """
    values = []
    for item in document["items"]:
        [data] = item["data"]
        if data["name"].startswith("unreadable "):
            values.append({"unreadable": data["value"]})
        elif data["name"] != "search parameters":
            values.append(data["value"])
    return values


def read_lines(body: bytes) -> list[Any]:
    """Return the values of the lines of NDJSON."""
    assert not body or body.endswith(b"\n")
    return [json.loads(line) for line in body.split(b"\n")[:-1]]
