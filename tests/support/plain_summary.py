"""A summary of a report, counted by hand from all rows of a fleet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import NamedTuple

from mig.model.action import FINISHED_COMMAND_STATUSES
from tests.support.json_types import Json, JsonObject
from tests.support.plain_search import (
    Fleet,
    Pairs,
    find_os,
    find_rows,
    get_member,
    matches_agent,
    matches_ilike,
    matches_item,
    read_checks,
)

GROUPS = ["policy", "level", "check", "action", "os", "version", "tag.n", "tag.isproxied", "day"]
OF_AGENTS = ("os", "version", "tag.n", "tag.isproxied")
PAIRS = [(one,) for one in GROUPS] + [
    (one, other) for one in GROUPS for other in GROUPS if one != other
]
MAX_AGES = {"3d": "2026-01-07T00:00:00Z", "24h": "2026-01-09T00:00:00Z"}
"""Ages, each with the time that long before the 10th of January."""
VERDICTS = ("fail", "unknown", "pending", "stale", "pass")
"""The worst first."""

Values = tuple[Json, ...]


class Vote(NamedTuple):
    """A verdict on an agent under some values, with what an item adds to the counts."""

    values: Values
    agent: Json
    verdict: str
    complies: bool | None = None
    time: str = ""


def summarize(
    rows: Fleet,
    pairs: Pairs,
    names: tuple[str, ...],
    *,
    max_age: str | None = None,
    is_latest: bool = False,
    has_scope: bool = False,
) -> list[JsonObject]:
    votes = list(_find_votes(rows, pairs, names, max_age, is_latest))
    asked = [agent for agent in rows["agents"] if _can_be_asked(agent, pairs)] if has_scope else []
    places = [n for n, name in enumerate(names) if name in OF_AGENTS]
    groups: dict[Values, list[Vote]] = {}
    for vote in votes:
        groups.setdefault(vote.values, []).append(vote)
    if places:
        of_agents = {tuple(_find_value(agent, names[n]) for n in places) for agent in asked}
        others = [n for n in range(len(names)) if n not in places]
        known = {tuple(values[n] for n in others) for values in groups} if others else {()}
        for of_agent, of_other in product(of_agents, known):
            by_place = dict(zip([*places, *others], [*of_agent, *of_other], strict=True))
            groups.setdefault(tuple(by_place[n] for n in range(len(names))), [])
    items = []
    for values, its_votes in groups.items():
        possible = {
            agent["id"]
            for agent in asked
            if all(_find_value(agent, names[n]) == values[n] for n in places)
        }
        items.append(_count(dict(zip(names, values, strict=True)), its_votes, possible))
    items.sort(
        key=lambda item: (
            item["rate"],
            -item["agents"]["fail"],
            [(value is not None, value or "") for value in item["group"].values()],
        )
    )
    return [*items, _count({}, votes, {agent["id"] for agent in asked})]


def _count(group: JsonObject, votes: list[Vote], possible: set[Json]) -> JsonObject:
    verdicts: dict[Json, list[str]] = {}
    for vote in votes:
        verdicts.setdefault(vote.agent, []).append(vote.verdict)
    worst = [min(each, key=VERDICTS.index) for each in verdicts.values()]
    notasked = len(possible - {*verdicts})
    times = [vote.time for vote in votes if vote.time]
    agents = {verdict: worst.count(verdict) for verdict in VERDICTS}
    total = len(worst) + notasked
    return {
        "group": group,
        "items": {
            "pass": sum(vote.complies is True for vote in votes),
            "fail": sum(vote.complies is False for vote in votes),
        },
        "agents": {**agents, "notasked": notasked, "total": total},
        "rate": agents["pass"] / total if total else None,
        "first": min(times, default=None),
        "last": max(times, default=None),
    }


def _can_be_asked(agent: JsonObject, pairs: Pairs) -> bool:
    given = dict(pairs)
    tests: dict[str, Callable[[str], bool]] = {
        "agentid": lambda v: agent["id"] == int(v),
        "agentname": lambda v: matches_ilike(agent["name"], v),
        "agentversion": lambda v: matches_ilike(agent["version"], v),
        **{
            name: partial(matches_agent, agent, name)
            for name in given
            if "." in name or name == "os"
        },
    }
    return agent["status"] not in ("destroyed", "upgraded") and all(
        any(tests[name](value) for other, value in pairs if other == name)
        for name in given
        if name in tests
    )


def _find_value(agent: JsonObject | None, name: str) -> Json:
    if agent is None:
        return None
    if name == "os":
        return find_os(agent)
    return agent["version"] if name == "version" else get_member(agent["tags"], name[4:])


def list_asked_names(action: JsonObject) -> list[str]:
    """Return the labels of an action's operations, and the modules of those without labels."""
    return [
        name
        for operation in action["operations"]
        for name in operation["parameters"].get("searches", ()) or [operation["module"]]
    ]


def _find_votes(
    rows: Fleet, pairs: Pairs, names: tuple[str, ...], max_age: str | None, is_latest: bool
) -> Iterator[Vote]:
    actions = {row["id"]: row for row in rows["actions"]}
    agents = {row["id"]: row for row in rows["agents"]}
    answered: set[Json] = set()
    answered_names: set[Json] = set()
    unanswered: list[tuple[Json, bool, Vote]] = []
    for command in find_rows(rows, pairs):
        action, agent = actions.get(command["actionid"]), agents.get(command["agentid"])
        threat = (action and action["threat"]) or {}
        policy, level = threat.get("type", ""), threat.get("level", "")
        if action and not matches_item(pairs, policy=policy):
            continue
        is_included = not action or matches_item(pairs, policy=policy, level=level)
        checks = read_checks(command) if action and agent else None

        def make_vote(
            check: str | None,
            verdict: str,
            complies: bool | None = None,
            command: JsonObject = command,
            action: JsonObject | None = action,
            agent: JsonObject | None = agent,
            policy: str = policy,
            level: str = level,
        ) -> Vote:
            is_finished = command["status"] in FINISHED_COMMAND_STATUSES
            time = command["finishtime"]
            of_action = {"policy": policy, "level": level, "action": action and action["name"]}
            values = {
                **(of_action if action else dict.fromkeys(of_action)),
                **{name: _find_value(agent, name) for name in OF_AGENTS},
                "check": check,
                "day": (time if is_finished else command["starttime"])[:10],
            }
            return Vote(
                tuple(values[name] for name in names),
                command["agentid"],
                verdict,
                complies,
                "" if complies is None else time,
            )

        status = {"success": "", "prepared": "pending", "sent": "pending"}.get(
            command["status"], "unknown"
        )
        answers = set()
        for name, test, complies in checks or ():
            if not matches_item(pairs, check=name):
                continue
            answers.add((command["agentid"], policy, name, test))
            if is_included and not (
                is_latest and (command["agentid"], policy, name, test) in answered
            ):
                found = "pass" if complies else "fail"
                if max_age and command["finishtime"] < MAX_AGES[max_age]:
                    found = "stale"
                yield make_vote(name, _choose_worst(found, status), complies)
        answered |= answers
        answered_names |= {(agentid, policy, name) for agentid, policy, name, _ in answers}
        for missing in _list_missing(action, checks):
            if missing is None or matches_item(pairs, check=missing):
                verdict = "unknown" if checks is None else status or "unknown"
                key = (command["agentid"], policy if action else "", missing)
                unanswered.append((key, is_included, make_vote(missing, verdict)))
    newest: set[Json] = set()
    for key, is_included, vote in unanswered:
        is_superseded = is_latest and (key in answered_names or key in newest)
        newest.add(key)
        if is_included and not is_superseded:
            yield vote


def _choose_worst(*verdicts: str) -> str:
    return min(filter(None, verdicts), key=VERDICTS.index)


def _list_missing(
    action: JsonObject | None, checks: list[tuple[str, str, bool]] | None
) -> set[str | None]:
    """Return the names of checks that a command should have answered, and did not."""
    if action is None:
        return {None}
    answered = {name for name, _, _ in checks or ()}
    modules = {operation["module"] for operation in action["operations"]}
    asked = {*list_asked_names(action)}
    # what an operation without labels would check is known from its results alone
    return {name for name in asked - answered if not (answered and name in modules - {"netstat"})}
