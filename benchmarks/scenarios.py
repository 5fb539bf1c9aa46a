"""Every scenario, by name."""

from __future__ import annotations

from functools import partial
from typing import Final

from benchmarks.bench import EVERYTHING, ITEM, Bench, Scenario, by_id, form, row
from benchmarks.figures import Row
from benchmarks.floor import ALL_RESULTS, NEWEST_COMMANDS
from benchmarks.growth import GROWTH, REPORTS_AT_ONCE
from benchmarks.load import Group, Outcome, Request
from benchmarks.signing import INVESTIGATORS

CONNECTIONS: Final = (1, 16, 256)
SEARCH_CONNECTIONS: Final = (1, 16)
LARGE_LIMIT: Final = 10_000
SLOW_BYTES: Final = 4_000_000
"""How many bytes a second the slow client takes."""
SLOW_SECONDS: Final = 5.0
PAUSE: Final = 0.005
SUBMITTERS: Final = (16, 64)


def _reports(name: str, count: int, bench: Bench) -> list[Row]:
    """*count* whole reports at once, with as many copies by psql at once as floor."""
    one = Group(name=name, requests=[bench.report], needle=ITEM)
    first = bench.warm(one)
    if not first.found:
        raise RuntimeError(f"the report has no items: {first.failure}")
    floor = bench.copy(ALL_RESULTS, count)
    group = Group(name=name, requests=[bench.report] * count, connections=count)
    [seen], used = bench.ask(group)
    return [
        row(
            bench,
            group,
            seen,
            used,
            unit="items",
            each=first.found,
            floor=first.found * count / floor,
            floor_is="psql copy of all results",
            note=_cut(seen, first),
        )
    ]


def _cut(seen: Outcome, first: Outcome) -> str:
    """A report of another size than the first one was cut, though it looked whole."""
    if seen.answers and seen.bytes != first.bytes * seen.answers:
        seen.failures += 1
        return "a report is shorter or longer than the first one"
    return ""


def _small(noun: str, connections: tuple[int, ...], bench: Bench) -> list[Row]:
    """Requests for small documents, beside the bare server's for the same rows."""
    ids = bench.ids(noun)
    floor_is = "bare route, one SELECT" if noun != "heartbeat" else "bare route"
    rows = []
    for count in connections:
        group = Group(
            name=f"get-{noun}",
            requests=by_id(f"/{noun}", ids),
            connections=count,
            seconds=bench.seconds,
        )
        bench.warm(group)
        floor = bench.bare_rate(f"/{noun}", ids, count)
        [seen], used = bench.ask(group)
        rows.append(row(bench, group, seen, used, floor=floor, floor_is=floor_is))
    return rows


def _search(type: str, bench: Bench) -> list[Row]:
    """Searches for the newest 100, beside the bare server's for the same rows."""
    target = f"/search?type={type}&limit=100&{EVERYTHING}"
    rows = []
    for count in SEARCH_CONNECTIONS:
        group = Group(
            name=f"search-{type}",
            requests=[Request(target=target)],
            connections=count,
            seconds=bench.seconds,
        )
        bench.warm(group)
        floor = bench.bare_rate(f"/search/{type}", [], count)
        [seen], used = bench.ask(group)
        floor_is = "bare route, one SELECT"
        rows.append(row(bench, group, seen, used, floor=floor, floor_is=floor_is))
    return rows


def _search_large(bench: Bench) -> list[Row]:
    """The newest commands with their results, beside psql's copy of the same rows."""
    limit = min(LARGE_LIMIT, bench.size.commands)
    target = f"/search?type=command&limit={limit}&{EVERYTHING}"
    group = Group(name="search-command-large", requests=[Request(target=target)])
    first = bench.warm(group)
    floor = bench.copy(NEWEST_COMMANDS.format(limit=limit))
    [seen], used = bench.ask(group)
    return [
        row(
            bench,
            group,
            seen,
            used,
            unit="commands",
            each=limit,
            floor=limit / floor,
            floor_is="psql copy of the same rows",
            note=_cut(seen, first),
        )
    ]


def _slow(bench: Bench) -> list[Row]:
    """A report that is read slowly, and given up after some seconds."""
    group = Group(
        name="report-slow-client",
        requests=[bench.report],
        seconds=min(SLOW_SECONDS, 2 * bench.seconds),
        rate=SLOW_BYTES,
    )
    bench.warm(Group(name=group.name, requests=[bench.report]))
    [seen], used = bench.ask(group)
    made = row(bench, group, seen, used, unit="bytes", each=0, note="peak memory is what counts")
    return [made]


def _during_reports(bench: Bench) -> list[Row]:
    """Small requests at a calm pace while reports run one after the other."""
    reports = Group(name="reports", requests=[bench.report], seconds=4 * bench.seconds)
    small = [
        Group(
            name=f"{noun}-during-reports",
            requests=by_id(f"/{noun}", bench.ids(noun)),
            meanwhile=True,
            pause=PAUSE,
        )
        for noun in ("heartbeat", "agent")
    ]
    (behind, *seen), used = bench.ask(reports, *small)
    if behind.failures:
        raise RuntimeError(f"a report failed: {behind.failure}")
    return [
        row(bench, group, one, used, note="one request each 5 ms")
        for group, one in zip(small, seen, strict=True)
    ]


def _create(name: str, investigators: int, bench: Bench) -> list[Row]:
    """New signed actions, each posted once; the floor is gpg alone on the same signatures."""
    if bench.signer is None:
        raise RuntimeError("nobody can sign")
    rows = []
    for clients in SUBMITTERS:
        signed = bench.signer.sign(bench.sign, investigators)
        requests = [form("action", one.body, "/action/create/") for one in signed]
        group = Group(name=name, requests=requests, connections=clients, expect=202)
        floor = len(signed) / bench.signer.verify(signed, clients)
        [seen], used = bench.ask(group)
        floor_is = "gpg --verify, as many at once"
        rows.append(row(bench, group, seen, used, floor=floor, floor_is=floor_is))
    return rows


def _creating(name: str, investigators: int) -> Scenario:
    return Scenario(
        name=name,
        about=f"POST /action/create/ of new actions, signed by {investigators} in turn",
        kind="file",
        measure=partial(_create, name, investigators),
        signs=True,
    )


def _report(kind: str) -> Scenario:
    name = f"report-{kind}"
    about = f"one compliance report of the fleet {kind}"
    return Scenario(
        name=name, about=about, kind=kind, measure=partial(_reports, name, 1), fresh=True
    )


def _get(noun: str) -> Scenario:
    about = f"GET /{noun} on {', '.join(map(str, CONNECTIONS))} connections"
    measure = partial(_small, noun, CONNECTIONS)
    return Scenario(name=f"get-{noun}", about=about, kind="file", measure=measure)


_MANY: Final = "reports-at-once"

ALL: Final = (
    _report("file"),
    Scenario(
        name=_MANY,
        about=f"{REPORTS_AT_ONCE} reports at once",
        kind="file",
        measure=partial(_reports, _MANY, REPORTS_AT_ONCE),
        fresh=True,
    ),
    Scenario(
        name="report-slow-client",
        about="a report to a client that takes 4 MB/s",
        kind="file",
        measure=_slow,
        fresh=True,
    ),
    Scenario(
        name="small-during-reports",
        about="GET /heartbeat and /agent by id while reports run",
        kind="file",
        measure=_during_reports,
        fresh=True,
    ),
    *map(_get, ("heartbeat", "action", "agent", "command", "investigator", "dashboard")),
    Scenario(
        name="search-command",
        about="search?type=command&limit=100",
        kind="file",
        measure=partial(_search, "command"),
    ),
    Scenario(
        name="search-command-large",
        about=f"search?type=command&limit={LARGE_LIMIT}",
        kind="file",
        measure=_search_large,
        fresh=True,
    ),
    Scenario(
        name="search-agent",
        about="search?type=agent&limit=100",
        kind="file",
        measure=partial(_search, "agent"),
    ),
    _creating("create-action", 1),
    _creating("create-action-by-many", INVESTIGATORS),
    *GROWTH,
    _report("mixed"),
    _report("distinct"),
)
"""In the order in which they run; those of one kind of fleet stand together."""
