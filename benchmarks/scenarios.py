"""All scenarios."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from benchmarks.bench import (
    EVERYTHING,
    ITEM,
    REPORT_LIMIT,
    Bench,
    Scenario,
    make_form_request,
    make_id_requests,
    make_measurement,
)
from benchmarks.credentials import CREDENTIAL_SCENARIOS
from benchmarks.floor import ALL_RESULTS, NEWEST_COMMANDS
from benchmarks.load import ClientGroup, Outcome, Request
from benchmarks.measurements import Measurement
from benchmarks.observed import OBSERVED_SCENARIOS
from benchmarks.scaling import REPORTS_AT_ONCE, SCALING_SCENARIOS
from benchmarks.signing import INVESTIGATORS

CONNECTIONS: Final = (1, 16, 256)
SEARCH_CONNECTIONS: Final = (1, 16)
LARGE_LIMIT: Final = 10_000
SLOW_BYTES: Final = 4_000_000
"""How many bytes a second the slow client reads."""
SLOW_SECONDS: Final = 5.0
PAUSE_SECONDS: Final = 0.005
SUBMITTERS: Final = (16, 64)


def _measure_reports(name: str, count: int, bench: Bench) -> list[Measurement]:
    """Measure ``count`` reports at once; the floor is as many copies by psql at once."""
    one = ClientGroup(name=name, requests=[bench.report_request], needle=ITEM)
    first = bench.warm_up(one)
    if not first.found:
        raise RuntimeError(f"the report has no items: {first.failure}")
    floor = bench.time_copy(ALL_RESULTS, count)
    group = ClientGroup(name=name, requests=[bench.report_request] * count, connections=count)
    [outcome], usage = bench.load_daemons(group)
    return [
        make_measurement(
            bench,
            group,
            outcome,
            usage,
            unit="items",
            each=first.found,
            floor=first.found * count / floor,
            floor_is="psql copy of all results",
            note=_check_sizes(outcome, first),
        )
    ]


def _measure_formats(bench: Bench) -> list[Measurement]:
    """Measure the report in every format and encoding, in turns.

    The processor time of the daemon is what can be compared.
    """
    one = ClientGroup(name="report", requests=[bench.report_request], needle=ITEM)
    items = bench.warm_up(one).found
    floor = items / bench.time_copy(ALL_RESULTS)
    rows = []
    whole = bench.report_request.target
    without_limit = whole.replace(REPORT_LIMIT, "")
    for option, base in (
        ("collection", whole),
        ("ndjson", without_limit),
        ("ndjson&seal=true", without_limit),
        ("csv", without_limit),
    ):
        for encoding in ("", "gzip", "zstd"):
            name = f"report {option} {encoding}".rstrip()
            target = f"{base}&format={option}"
            headers = {"Accept-Encoding": encoding} if encoding else {}
            request = Request(target=target, headers=headers)
            group = ClientGroup(name=name, requests=[request])
            [outcome], usage = bench.load_daemons(group)
            measured = make_measurement(
                bench,
                group,
                outcome,
                usage,
                unit="items",
                each=items,
                floor=floor,
                floor_is="psql copy of all results",
            )
            rows.append(measured)
    return rows


def _measure_variant(name: str, change: Callable[[str], str], bench: Bench) -> list[Measurement]:
    """Measure what is made of all items of the report, with its address changed.

    It counts the items that are read, and its floor is that of the report.
    """
    whole = ClientGroup(name=name, requests=[bench.report_request], needle=ITEM)
    items = bench.warm_up(whole).found
    floor = items / bench.time_copy(ALL_RESULTS)
    request = Request(target=change(bench.report_request.target))
    group = ClientGroup(name=name, requests=[request])
    bench.warm_up(group)
    [outcome], usage = bench.load_daemons(group)
    return [
        make_measurement(
            bench,
            group,
            outcome,
            usage,
            unit="items",
            each=items,
            floor=floor,
            floor_is="psql copy of all results",
        )
    ]


def _ask_for_summary(target: str) -> str:
    return target.replace(REPORT_LIMIT, "").replace("complianceitems", "compliancesummary")


def _ask_for_latest(target: str) -> str:
    return f"{target}&latest=true"


def _check_sizes(outcome: Outcome, first: Outcome) -> str:
    """Count a failure, and return a note, when a report has another size than the first one.

    Such a report was cut, although its end looked right.
    """
    if outcome.answers and outcome.bytes != first.bytes * outcome.answers:
        outcome.failures += 1
        return "a report is shorter or longer than the first one"
    return ""


def _measure_small(noun: str, connections: tuple[int, ...], bench: Bench) -> list[Measurement]:
    """Measure requests for small documents; the floor is the bare server with the same rows."""
    ids = bench.sample_ids(noun)
    floor_is = "bare route, one SELECT" if noun != "heartbeat" else "bare route"
    rows = []
    for count in connections:
        group = ClientGroup(
            name=f"get-{noun}",
            requests=make_id_requests(f"/{noun}", ids),
            connections=count,
            seconds=bench.seconds,
        )
        bench.warm_up(group)
        floor = bench.measure_baseline_rate(f"/{noun}", ids, count)
        [outcome], usage = bench.load_daemons(group)
        rows.append(make_measurement(bench, group, outcome, usage, floor=floor, floor_is=floor_is))
    return rows


def _measure_search(resource: str, bench: Bench) -> list[Measurement]:
    """Measure searches for the newest 100; the floor is the bare server with the same rows."""
    target = f"/search?type={resource}&limit=100&{EVERYTHING}"
    rows = []
    for count in SEARCH_CONNECTIONS:
        group = ClientGroup(
            name=f"search-{resource}",
            requests=[Request(target=target)],
            connections=count,
            seconds=bench.seconds,
        )
        bench.warm_up(group)
        floor = bench.measure_baseline_rate(f"/search/{resource}", [], count)
        [outcome], usage = bench.load_daemons(group)
        floor_is = "bare route, one SELECT"
        rows.append(make_measurement(bench, group, outcome, usage, floor=floor, floor_is=floor_is))
    return rows


def _measure_large_search(bench: Bench) -> list[Measurement]:
    """Measure a search for many commands; the floor is psql's copy of the same rows."""
    limit = min(LARGE_LIMIT, bench.size.commands)
    target = f"/search?type=command&limit={limit}&{EVERYTHING}"
    group = ClientGroup(name="search-command-large", requests=[Request(target=target)])
    first = bench.warm_up(group)
    floor = bench.time_copy(NEWEST_COMMANDS.format(limit=limit))
    [outcome], usage = bench.load_daemons(group)
    return [
        make_measurement(
            bench,
            group,
            outcome,
            usage,
            unit="commands",
            each=limit,
            floor=limit / floor,
            floor_is="psql copy of the same rows",
            note=_check_sizes(outcome, first),
        )
    ]


def _measure_slow_client(bench: Bench) -> list[Measurement]:
    """Measure a report whose client reads slowly and leaves after some seconds."""
    group = ClientGroup(
        name="report-slow-client",
        requests=[bench.report_request],
        seconds=min(SLOW_SECONDS, 2 * bench.seconds),
        rate=SLOW_BYTES,
    )
    bench.warm_up(ClientGroup(name=group.name, requests=[bench.report_request]))
    [outcome], usage = bench.load_daemons(group)
    measurement = make_measurement(
        bench, group, outcome, usage, unit="bytes", each=0, note="peak memory is what counts"
    )
    return [measurement]


def _measure_during_reports(bench: Bench) -> list[Measurement]:
    """Measure small requests with pauses while reports run one after the other."""
    reports = ClientGroup(
        name="reports", requests=[bench.report_request], seconds=4 * bench.seconds
    )
    small = [
        ClientGroup(
            name=f"{noun}-during-reports",
            requests=make_id_requests(f"/{noun}", bench.sample_ids(noun)),
            is_background=True,
            pause=PAUSE_SECONDS,
        )
        for noun in ("heartbeat", "agent")
    ]
    (report_outcome, *outcomes), usage = bench.load_daemons(reports, *small)
    if report_outcome.failures:
        raise RuntimeError(f"a report failed: {report_outcome.failure}")
    return [
        make_measurement(bench, group, outcome, usage, note="one request every 5 ms")
        for group, outcome in zip(small, outcomes, strict=True)
    ]


def _measure_creation(name: str, investigators: int, bench: Bench) -> list[Measurement]:
    """Measure new signed actions; the floor is gpg alone on the same signatures."""
    if bench.signer is None:
        raise RuntimeError("there is no signer")
    rows = []
    for clients in SUBMITTERS:
        signed = bench.signer.sign_actions(bench.sign, investigators)
        requests = [make_form_request("action", one.body, "/action/create/") for one in signed]
        group = ClientGroup(name=name, requests=requests, connections=clients, expect=202)
        floor = len(signed) / bench.signer.time_verification(signed, clients)
        [outcome], usage = bench.load_daemons(group)
        floor_is = "gpg --verify, as many at once"
        rows.append(make_measurement(bench, group, outcome, usage, floor=floor, floor_is=floor_is))
    return rows


def _make_creation_scenario(name: str, investigators: int) -> Scenario:
    return Scenario(
        name=name,
        about=f"POST /action/create/ of new actions, by {investigators} investigator(s) in turn",
        kind="file",
        measure=partial(_measure_creation, name, investigators),
        signs=True,
    )


def _make_report_scenario(kind: str) -> Scenario:
    name = f"report-{kind}"
    about = f"one compliance report of the fleet {kind!r}"
    return Scenario(
        name=name, about=about, kind=kind, measure=partial(_measure_reports, name, 1), fresh=True
    )


def _make_get_scenario(noun: str) -> Scenario:
    about = f"GET /{noun} on {', '.join(map(str, CONNECTIONS))} connections"
    measure = partial(_measure_small, noun, CONNECTIONS)
    return Scenario(name=f"get-{noun}", about=about, kind="file", measure=measure)


_MANY: Final = "reports-at-once"

SCENARIOS: Final = (
    _make_report_scenario("file"),
    Scenario(
        name=_MANY,
        about=f"{REPORTS_AT_ONCE} reports at once",
        kind="file",
        measure=partial(_measure_reports, _MANY, REPORTS_AT_ONCE),
        fresh=True,
    ),
    Scenario(
        name="report-formats",
        about="a report in every format and encoding, in turns",
        kind="file",
        measure=_measure_formats,
        fresh=True,
    ),
    Scenario(
        name="report-summary",
        about="the summary of all items, by policy and check",
        kind="file",
        measure=partial(_measure_variant, "report-summary", _ask_for_summary),
        fresh=True,
    ),
    Scenario(
        name="report-latest",
        about="a report of the newest answers, which is read twice",
        kind="file",
        measure=partial(_measure_variant, "report-latest", _ask_for_latest),
        fresh=True,
    ),
    Scenario(
        name="report-slow-client",
        about="a report for a client that reads 4 MB/s",
        kind="file",
        measure=_measure_slow_client,
        fresh=True,
    ),
    Scenario(
        name="small-during-reports",
        about="GET /heartbeat and /agent by id while reports run",
        kind="file",
        measure=_measure_during_reports,
        fresh=True,
    ),
    *map(
        _make_get_scenario, ("heartbeat", "action", "agent", "command", "investigator", "dashboard")
    ),
    Scenario(
        name="search-command",
        about="search?type=command&limit=100",
        kind="file",
        measure=partial(_measure_search, "command"),
    ),
    Scenario(
        name="search-command-large",
        about=f"search?type=command&limit={LARGE_LIMIT}",
        kind="file",
        measure=_measure_large_search,
        fresh=True,
    ),
    Scenario(
        name="search-agent",
        about="search?type=agent&limit=100",
        kind="file",
        measure=partial(_measure_search, "agent"),
    ),
    *CREDENTIAL_SCENARIOS,
    *OBSERVED_SCENARIOS,
    _make_creation_scenario("create-action", 1),
    _make_creation_scenario("create-action-by-many", INVESTIGATORS),
    *SCALING_SCENARIOS,
    _make_report_scenario("alternating"),
    _make_report_scenario("mixed"),
    _make_report_scenario("distinct"),
)
"""In the order in which they run, those of one kind of fleet next to each other."""
