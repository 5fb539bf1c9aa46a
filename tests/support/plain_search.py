"""Random fleets, random searches, and a plain filter in Python that says what they must find."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Sequence
from functools import partial

from hypothesis import strategies as st
from psycopg2 import extensions

from mig.model.action import FINISHED_COMMAND_STATUSES
from tests.support import fleet
from tests.support.json_types import Json, JsonObject

TABLES = ("commands", "signatures", "actions", "agents", "investigators")
DAYS = [f"2026-01-{day:02d}T00:00:00Z" for day in range(1, 10)]
AGO = {"-24h": 9, "-1d": 9, "-1d48h": 7, "-6d1440m": 3, "-1w1d": 2}
"""Relative times, with the day of January that they are at NOW."""
TIMES = [*DAYS, *AGO]
NAMES = ["Web%1", "web_2", "db\\3", "ÄÖ-x", "plain"]
PATTERNS = ["web%", "%1", "web\\_2", "db\\\\3", "äö%", "_lain", "%", "none"]
IDS = ["1", "2", "3", "4"]
POLICIES = ["", "Web%1", "system"]
LEVELS = ["low", "HIGH"]
CHECKS = ["web_2", "ÄÖ-x", "netstat"]
PARAMETERS: dict[str, list[str]] = {
    "actionid": IDS,
    "actionname": PATTERNS,
    "after": TIMES,
    "agentid": IDS,
    "agentname": PATTERNS,
    "agentversion": PATTERNS,
    "before": TIMES,
    "check": ["web\\_2", "%x", "NET%", "%", "none"],
    "commandid": IDS,
    "compliance": ["true", "false"],
    "environment.isproxied": ["true", "FALSE", "%ru%", "%"],
    "environment.n": ["1.0", "1%", "10"],
    "environment.os": ["linux", "dar%", "%"],
    "finishedafter": TIMES,
    "finishedbefore": TIMES,
    "foundanything": ["true", "false"],
    "investigatorid": IDS,
    "investigatorname": PATTERNS,
    "latest": ["true", "false"],
    "level": ["LOW", "h%", "%"],
    "limit": ["1", "2", "3", "5"],
    "offset": ["0", "1", "2"],
    "os": ["LINUX", "%win%", "d_rwin", "%"],
    "policy": ["web\\%1", "SYS%", "_%", "%"],
    "report": ["complianceitems"],
    "sort": ["id", "-id", "name", "-name", "time", "-time"],
    "status": ["done", "sent", "%e%", "SUCCESS", "active"],
    "tag.a.b": ["_é", "%É", "é"],
    "tag.isproxied.x": ["%x", "_%"],
    "tag.n": ["1.0", "1%", "10"],
    "threatfamily": ["compliance", "back%", "BACKDOOR"],
    "total": ["true", "false"],
}
"""Values of each parameter but type; of sort, a column that name_column translates."""
OF_REPORTS = {"check", "compliance", "latest", "level", "policy"}
ONLY = {
    **{name: {"command"} for name in OF_REPORTS},
    "finishedafter": {"command"},
    "finishedbefore": {"command"},
    "foundanything": {"command"},
    "report": {"command"},
    "threatfamily": {"command", "action"},
    **{name: {"agent", "command"} for name in PARAMETERS if "." in name or name == "os"},
}
REPEATABLE = {
    *("actionname", "agentname", "agentversion", "check", "investigatorname", "level", "os"),
    *("policy", "status", "threatfamily"),
}
OWN_TIMES = {
    "action": ("validfrom", "expireafter", "validfrom"),
    "command": ("starttime", "starttime", "starttime"),
    "agent": ("heartbeattime", "heartbeattime", "starttime"),
    "investigator": ("createdat", "lastmodified", "createdat"),
}
"""The times that after and before compare, and the one that orders the records."""

ENVIRONMENTS = [
    None,
    {},
    {"os": "linux", "isproxied": True, "n": 1.0},
    {"os": "Darwin", "isproxied": False, "n": 10, "isproxied.x": None},
    {"os": None, "n": "1.0", "a.b": "\ud800é", "isproxied": "True"},
    ["os", "linux"],
]
OPERATIONS = [{"module": "file", "parameters": {}}, {"module": "netstat", "parameters": {"p": 1}}]
LABELS: JsonObject = {"searches": {"web_2": {}, "ÄÖ-x": {}}}
LABELLED_OPERATIONS = [{"module": "file", "parameters": LABELS}, OPERATIONS[1]]


def choose(values: Sequence[Json]) -> st.SearchStrategy[Json]:
    return st.sampled_from(values)


hits = st.fixed_dictionaries(
    {"file": choose(["", "/a", "/b"]), "search": choose([{"names": ["n"]}, {"names": ["m"]}])}
)
results = st.fixed_dictionaries(
    {
        "foundanything": st.booleans(),
        "elements": st.dictionaries(choose(CHECKS), st.lists(hits, max_size=2), max_size=2),
    }
)
odd_results = st.just({"elements": 1})
agents = st.fixed_dictionaries(
    {"name": choose(NAMES), "version": choose(NAMES)}
    | {"starttime": choose(DAYS), "heartbeattime": choose(DAYS)}
    | {"os": choose([None, "", "windows", "linux"])}
    | {"environment": choose(ENVIRONMENTS), "tags": choose(ENVIRONMENTS)}
    | {"status": choose(["heartbeating", "inactive", "upgraded", "destroyed"])}
)
threats = st.none() | st.fixed_dictionaries(
    {"family": choose(["compliance", "Backdoor", None])}
    | {"type": choose(POLICIES), "level": choose(LEVELS)}
)
actions = st.fixed_dictionaries(
    {"name": choose(NAMES), "validfrom": choose(DAYS), "expireafter": choose(DAYS)}
    | {"status": choose(["init", "inflight", "completed"])}
    | {"threat": threats, "operations": choose([OPERATIONS, LABELLED_OPERATIONS])}
    | {"signers": st.sets(choose([1, 2, 3, 4]), max_size=2)}
)
investigators = st.fixed_dictionaries(
    {"name": choose(NAMES), "createdat": choose(DAYS), "lastmodified": choose(DAYS)}
    | {"status": choose(["active", "disabled"])}
)
commands = st.fixed_dictionaries(
    {"actionid": choose([1, 1, 2, 3, 4, None]), "agentid": choose([1, 1, 2, 3, 4, None])}
    | {"starttime": choose(DAYS), "finishtime": choose(DAYS)}
    | {"status": choose(["sent", "prepared", *FINISHED_COMMAND_STATUSES])}
    | {"results": st.lists(results, max_size=2) | st.lists(results | odd_results, max_size=3)}
)
fleets = st.fixed_dictionaries(
    {
        "agents": st.lists(agents, min_size=4, max_size=4),
        "actions": st.lists(actions, min_size=4, max_size=4),
        "investigators": st.lists(investigators, min_size=4, max_size=4),
        "commands": st.lists(commands, max_size=8),
    }
).map(lambda rows: {t: [{"id": n, **row} for n, row in enumerate(rows[t], 1)] for t in rows})
Pairs = list[tuple[str, str]]
Choose = Callable[[list[str], int], list[str]]
"""A function that returns at least one of some values, and at most so many."""


def list_names(type_: str) -> list[str]:
    """Return the parameters of a type."""
    return [name for name in PARAMETERS if type_ in ONLY.get(name, {type_})]


def build_search(type_: str, names: Collection[str], choose: Choose) -> Pairs:
    """Return a search with these parameters, and with those that it needs to make sense."""
    pairs = [("type", type_)]
    needed = {"after"} | ({"report"} if OF_REPORTS & {*names} else set())
    for name in sorted(needed | {*names}):
        if name == "after" and name not in names:
            pairs.append((name, DAYS[0]))
        else:
            values = choose(PARAMETERS[name], 3 if name in REPEATABLE else 1)
            pairs += [(name, value) for value in values]
    return [(name, name_column(type_, text) if name == "sort" else text) for name, text in pairs]


def name_column(type_: str, order: str) -> str:
    """Return an order of a type: only agents can be sorted by name."""
    column = "id" if "name" in order and type_ != "agent" else order.lstrip("-")
    return order[: order.count("-")] + {"time": OWN_TIMES[type_][2]}.get(column, column)


@st.composite
def draw_search(draw: st.DrawFn) -> Pairs:
    type_ = draw(choose(sorted(OWN_TIMES)))
    names = draw(st.sets(choose(list_names(type_)), max_size=4))

    def choose_values(values: list[str], most: int) -> list[str]:
        return draw(st.lists(st.sampled_from(values), min_size=1, max_size=most))

    return build_search(type_, names, choose_values)


def is_refused(pairs: Pairs) -> bool:
    """Whether a search has no meaning: the newest answers need the usual order from its start."""
    values = dict(pairs)
    is_latest = values.get("latest") == "true"
    return is_latest and (
        values.get("sort", "-starttime") != "-starttime" or values.get("offset", "0") != "0"
    )


def matches_ilike(text: str | None, pattern: str) -> bool:
    """Whether *text* matches, according to the documentation of PostgreSQL's ILIKE."""
    if text is None:
        return False
    parts, escaped = [], False
    for character in pattern:
        if not escaped and character == "\\":
            escaped = True
            continue
        special = {"%": ".*", "_": "."}.get(character) if not escaped else None
        parts.append(special or re.escape(character))
        escaped = False
    return re.fullmatch("".join(parts), text, re.IGNORECASE | re.DOTALL) is not None


def matches_status(type_: str, status: str, pattern: str) -> bool:
    if type_ == "command" and pattern == "done":
        return status in FINISHED_COMMAND_STATUSES
    if type_ == "action" and pattern == "done":
        return status == "completed"
    if type_ == "action" and pattern == "sent":
        return status in ("inflight", "completed")
    return matches_ilike(status, pattern)


Fleet = dict[str, list[JsonObject]]
Found = list[Json]
"""The ids of records; of a report, tuples of a command's id, and name and compliance of a check."""
Record = JsonObject | None
Combination = tuple[Record, Record, Record, Record]
"""A command, its action, its agent and a signer of the action, where there are any."""


def read_time(text: str) -> str:
    return f"2026-01-{AGO[text]:02d}T00:00:00Z" if text in AGO else text


def get_member(values: Json, key: str) -> str | None:
    """Return a member of a JSON object as text: of a value that is not a string, its JSON text."""
    value = values.get(key) if isinstance(values, dict) else None
    if value is None or isinstance(value, str):
        return value and value.replace("\ud800", "\ufffd")
    return json.dumps(value)


def find_os(agent: JsonObject) -> str | None:
    return agent["os"] or get_member(agent["environment"], "os")


def matches_agent(agent: Record, name: str, pattern: str) -> bool:
    """Whether an agent matches ``os``, ``environment.NAME`` or ``tag.NAME``."""
    if pattern == "%" or agent is None:
        return pattern == "%"
    family, _, key = name.partition(".")
    column = {"environment": "environment", "tag": "tags"}.get(family)
    text = get_member(agent[column], key) if column else find_os(agent)
    return matches_ilike(text, pattern)


def find_expected(rows: Fleet, pairs: Pairs) -> tuple[Found, int | None]:
    """Return what a search must find, by joining everything and filtering.

    And the total, if the search asks for it.
    """
    found = find_rows(rows, pairs)
    values = dict(pairs)
    begin = int(values.get("offset", 0))
    end = begin + int(values.get("limit", 10_000))
    total = len(found) if values.get("total") == "true" else None
    if "report" not in values:
        return [row["id"] for row in found[begin:end]], total
    return list_items(rows, found[begin:end], pairs), total


def list_items(rows: Fleet, found: list[JsonObject], pairs: Pairs) -> Found:
    """Return the items of a report over commands, the newest first if only those are taken."""
    actions = {row["id"]: row for row in rows["actions"]}
    items: Found = []
    answered: set[Json] = set()
    for command in found:
        action = actions.get(command["actionid"])
        threat = (action and action["threat"]) or {}
        policy, level = threat.get("type", ""), threat.get("level", "")
        checks = read_checks(command)
        if action is None or command["agentid"] is None or checks is None:
            if action is None or matches_item(pairs, policy=policy, level=level):
                items.append((command["id"], "unreadable", None))
            continue
        answers = {(command["agentid"], policy, name, test) for name, test, _ in checks}
        for name, test, complies in checks:
            is_new = (command["agentid"], policy, name, test) not in answered
            if matches_item(
                pairs, policy=policy, level=level, check=name, compliance=str(complies).lower()
            ) and (is_new or dict(pairs).get("latest") != "true"):
                items.append((command["id"], name, complies))
        answered |= answers
    return items


def read_checks(command: JsonObject) -> list[tuple[str, str, bool]] | None:
    """Return name, test and compliance of each check of a command, or nothing if it is odd."""
    if len(command["results"]) > len(OPERATIONS) or {"elements": 1} in command["results"][:1]:
        return None
    checks = []
    for result in command["results"][:1]:
        for label, hits_of_label in result["elements"].items():
            checks += [(label, str(hit["search"]), hit["file"] != "") for hit in hits_of_label]
    for result in command["results"][1:]:
        checks.append(("netstat", "", result.get("foundanything", False)))
    return checks


def matches_item(pairs: Pairs, **texts: str) -> bool:
    """Whether an item with these values is asked for."""
    return all(
        any(value == "%" or matches_ilike(text, value) for other, value in pairs if other == name)
        for name, text in texts.items()
        if name in dict(pairs)
    )


def find_rows(rows: Fleet, pairs: Pairs) -> list[JsonObject]:
    """Return the rows that a search must find, in their order."""
    search_parameters = dict(pairs)
    type_ = search_parameters["type"]
    by_id = {table: {row["id"]: row for row in rows[table]} for table in rows}
    found = []
    for own in rows[f"{type_}s"]:
        candidates = [own] if type_ == "command" else rows["commands"]
        combinations: list[Combination] = []
        for command in [*candidates, None] if type_ != "command" else candidates:
            action = by_id["actions"].get(command["actionid"]) if command else None
            agent = by_id["agents"].get(command["agentid"]) if command else None
            if type_ == "action":
                if command and action is not own:
                    continue
                action = own
            if type_ == "agent":
                if command and agent is not own:
                    continue
                agent = own
            if type_ == "investigator" and command is None:
                combinations += [
                    (None, a, None, own) for a in rows["actions"] if own["id"] in a["signers"]
                ] + [(None, None, None, own)]
                continue
            for signer in [*sorted(action["signers"] if action else ()), None]:
                investigator = by_id["investigators"].get(signer)
                if type_ == "investigator" and investigator is not own:
                    continue
                combinations.append((command, action, agent, investigator))
        if any(matches_search(*combination, own, pairs) for combination in combinations):
            found.append(own)
    sort = search_parameters.get("sort", f"-{OWN_TIMES[type_][2]}")
    column = sort.removeprefix("-")
    found.sort(key=lambda row: (row[column], row["id"]), reverse=sort.startswith("-"))
    return found


def is_finished(command: Json) -> bool:
    return command["status"] in FINISHED_COMMAND_STATUSES


def matches_search(
    command: Json, action: Json, agent: Json, investigator: Json, own: Json, pairs: Pairs
) -> bool:
    type_ = dict(pairs)["type"]
    after, before, _ = OWN_TIMES[type_]
    tests: dict[str, Callable[[str], object]] = {
        "actionid": lambda v: action and action["id"] == int(v),
        "actionname": lambda v: v == "%" or (action and matches_ilike(action["name"], v)),
        "agentid": lambda v: agent and agent["id"] == int(v),
        "agentname": lambda v: v == "%" or (agent and matches_ilike(agent["name"], v)),
        "agentversion": lambda v: v == "%" or (agent and matches_ilike(agent["version"], v)),
        "finishedafter": lambda v: is_finished(command) and command["finishtime"] >= read_time(v),
        "finishedbefore": lambda v: is_finished(command) and command["finishtime"] <= read_time(v),
        "commandid": lambda v: command and command["id"] == int(v),
        "investigatorid": lambda v: investigator and investigator["id"] == int(v),
        "investigatorname": lambda v: (
            v == "%" or (investigator and matches_ilike(investigator["name"], v))
        ),
        "threatfamily": lambda v: (
            action and matches_ilike((action["threat"] or {}).get("family"), v)
        ),
        "foundanything": lambda v: any(
            r.get("foundanything") is (v == "true") for r in command["results"]
        ),
        "status": lambda v: matches_status(type_, own["status"], v),
        "after": lambda v: own[after] >= read_time(v),
        "before": lambda v: own[before] <= read_time(v),
        **{
            name: partial(matches_agent, agent, name)
            for name in PARAMETERS
            if "." in name or name == "os"
        },
    }
    return all(
        any(tests[name](value) for other, value in pairs if other == name)
        for name, _ in pairs
        if name in tests
    )


def load_rows(cursor: extensions.cursor, rows: Fleet) -> None:
    cursor.execute(f"truncate {', '.join(TABLES)} cascade")
    makers: dict[str, Callable[..., JsonObject]] = {
        "agents": fleet.make_agent,
        "actions": fleet.make_action,
        "investigators": lambda row_id, **other: {"id": row_id, **other},
        "commands": fleet.make_command,
    }
    for table, make in makers.items():
        for row in rows[table]:
            other = {k: v for k, v in row.items() if k not in ("id", "signers")}
            full = make(row["id"], **other)
            values = [json.dumps(v) if isinstance(v, dict | list) else v for v in full.values()]
            places = ", ".join(["%s"] * len(values))
            cursor.execute(f"insert into {table} ({', '.join(full)}) values ({places})", values)
    for action in rows["actions"]:
        for signer in sorted(action["signers"]):
            cursor.execute("insert into signatures values (%s, %s, 's')", (action["id"], signer))
