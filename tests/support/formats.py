"""How the tests read the formats of answers."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
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


def read_rows(body: bytes) -> list[dict[str, str]]:
    """Return the cells of each row of CSV that are not empty, with JSON as Python writes it."""
    rows = csv.DictReader(io.StringIO(body.decode(), newline=""), strict=True)
    return [{name: _normalize(cell) for name, cell in row.items() if cell} for row in rows]


def _normalize(cell: str) -> str:
    return json.dumps(json.loads(cell), sort_keys=True) if cell[:1] in ("[", "{") else cell


def flatten_items(items: list[JsonObject], kind: str) -> list[dict[str, str]]:
    """Return the values of items as the cells of CSV that are not empty, with ``raw=true``.

    :param kind: the noun of the records, or ``complianceitems``.
    """
    return [{name: cell for name, cell in _flatten(item, kind, "") if cell != ""} for item in items]


def _flatten(value: Json, kind: str, prefix: str) -> Iterator[tuple[str, str]]:
    for name, member in value.items():
        flat = prefix + name
        if flat == "unreadable":
            yield "unreadable", member["reason"]
            if kind == "complianceitems":
                yield from (("link", member["link"]), ("target", member["target"]))
            else:
                yield "id", member["link"].rpartition("=")[2]
        elif isinstance(member, str):
            yield flat, _normalize(member)
        elif kind == "complianceitems" and isinstance(member, dict):
            yield from _flatten(member, kind, f"{flat}.")
        elif kind == "command" and name in ("action", "agent"):
            yield from ((f"{flat}.{each}", str(member.get(each, ""))) for each in ("id", "name"))
        elif isinstance(member, dict | list):
            yield flat, json.dumps(member, sort_keys=True)
        elif member is not None:
            yield flat, json.dumps(member)


def select_members(value: Json, names: Sequence[str] | None, prefix: str = "") -> Json:
    """Return the members of an object that are selected by their flat names."""
    if names is None:
        return value
    found = {}
    for name, member in value.items():
        flat = prefix + name
        if flat in names:
            found[name] = member
        elif isinstance(member, dict) and (below := select_members(member, names, f"{flat}.")):
            found[name] = below
    return found
