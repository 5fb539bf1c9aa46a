"""``mig-api audit`` prints the audit for people and for other programs."""

from __future__ import annotations

import json
import subprocess

import pytest
from click.testing import CliRunner
from psycopg2.extensions import make_dsn

from mig.cli import main
from mig.database.schema.declaration import API_ROLE
from mig.search.audit import MAX_LIMIT
from tests.support.cli import CLI, run_cli
from tests.support.postgres import TestDatabase

EVIL = "\n\r\x1b[2J\u202e\x85\u2028\U000e0001"


def insert_row(database: TestDatabase, ago: str, **columns: object) -> None:
    row = {"operation": "17", "callername": "Carol", "object": "action", "outcome": "done"}
    values = {**row, **columns}
    database.execute(
        f"insert into audit (at, {', '.join(values)}) values (now() - %s::interval,"
        f" {', '.join(['%s'] * len(values))})",
        (ago, *values.values()),
    )


def run_audit(database: TestDatabase, *options: str) -> list[str]:
    status, output, errors = run_cli("audit", "--database", database.dsn, *options)
    assert (status, errors) == (0, "")
    return output.splitlines()


def test_a_table_has_aligned_columns_and_the_oldest_entry_first(database: TestDatabase) -> None:
    database.execute(
        "insert into audit (at, operation, caller, callername, key, client, method, path, object,"
        " objectid, before, after, outcome, count) values"
        " (now() - interval '1 h', '1', 7, 'Carol', 3, '2001:db8::1', 'POST',"
        " '/investigator/update/', 'investigator', 12, '{\"status\":\"active\"}',"
        " '{\"status\":\"disabled\"}', 'done', 1),"
        " (now() - interval '2 h', '2', null, 'root', null, null, null,"
        " 'mig-api investigator disable', 'investigator', 12, null, null, 'done', 1),"
        " (now() - interval '25 h', '3', 8, 'Dora', null, '192.0.2.1', 'GET', '/audit', 'audit',"
        " null, null, null, 'refused with 403: this request needs the permission x', 40)"
    )
    head, second, first = run_audit(database)
    titles = ["TIME", "CALLER", "CLIENT", "REQUEST", "OBJECT", "COUNT", "OUTCOME", "CHANGE"]
    assert head.split() == titles
    places = [head.index(title) for title in titles]
    for line, cells in {
        first: [
            "Carol/7/3",
            "2001:db8::1",
            "POST /investigator/update/",
            "investigator 12",
            "1",
            "done",
            '{"status":"active"} -> {"status":"disabled"}',
        ],
        second: ["root", "", "mig-api investigator disable", "investigator 12", "1", "done", ""],
    }.items():
        found = [line[a:b].strip() for a, b in zip(places, [*places[1:], None], strict=True)]
        assert found[0].endswith("Z") and found[1:] == cells
    head, third, *_ = run_audit(database, "--since", "2d")
    assert third[head.index("OUTCOME") :].startswith("refused with 403: this request needs the")
    assert [line.split()[1] for line in run_audit(database, "--investigator", "7")][1:] == [
        "Carol/7/3"
    ]


def test_ndjson_has_an_object_with_the_names_of_the_api_on_each_line(
    database: TestDatabase,
) -> None:
    insert_row(database, "90 min", caller=7, key=3, objectid=18446744073709551615)
    insert_row(database, "80 min", before='{\n "a":\t1.0,\n "b": "\\n"}', after="[]", count=2)
    first, second = map(json.loads, run_audit(database, "--format", "ndjson", "--since", "1h31m"))
    names = "id at operation caller callername key client method path object objectid before after"
    assert list(first) == [*names.split(), "outcome", "count"]
    assert (first["caller"], first["key"], first["objectid"]) == (7, 3, 18446744073709551615)
    assert (second["before"], second["after"], second["count"]) == ({"a": 1.0, "b": "\n"}, [], 2)
    assert second["caller"] is None


@pytest.mark.parametrize("format_name", ["table", "ndjson"])
def test_nobody_can_write_a_line_of_their_own(database: TestDatabase, format_name: str) -> None:
    """Whatever a name or a value contains, an entry is one line of visible characters."""
    after = json.dumps({"name": EVIL + "x" * 100_000}, ensure_ascii=False)
    insert_row(database, "1 min", callername=f"Carol{EVIL}", outcome=f"no{EVIL}", after=after)
    insert_row(database, "1 min", object=EVIL, path=f"/{EVIL}", client="y" * 64)
    lines = run_audit(database, "--format", format_name)
    lines = lines[1:] if format_name == "table" else lines
    assert len(lines) == 2 and all(line.isprintable() for line in lines)
    if format_name == "table":
        assert all(len(line) < 700 for line in lines)
    else:
        first, second = map(json.loads, lines)
        assert (first["callername"], second["object"]) == (f"Carol{EVIL}", EVIL)


@pytest.mark.parametrize("format_name", ["table", "ndjson"])
def test_entries_of_many_pages_are_printed_once_each(
    database: TestDatabase, format_name: str
) -> None:
    """Also when many have the same time."""
    count = 3 * MAX_LIMIT + 1
    database.execute(
        "insert into audit (at, operation, callername, object, outcome)"
        " select now() - (n / 700) * interval '1 s', n::text, 'op' || n, 'action', 'done'"
        " from generate_series(1, %s) n",
        (count,),
    )
    lines = run_audit(database, "--format", format_name)
    lines = lines[1:] if format_name == "table" else lines
    assert len(lines) == count
    if format_name == "ndjson":
        entries = [json.loads(line) for line in lines]
        assert {int(entry["operation"]) for entry in entries} == set(range(1, count + 1))
        places = [(entry["at"], entry["id"]) for entry in entries]
        assert places == sorted(places)
    else:
        assert {line.split()[1] for line in lines} == {f"op{n}" for n in range(1, count + 1)}


def test_an_unreadable_entry_is_not_left_out(database: TestDatabase) -> None:
    insert_row(database, "1 min")
    database.execute("update audit set at = 'infinity'")
    [_, line] = run_audit(database)
    assert "entry 1" in line and "cannot be read: the time 'infinity'" in line
    [line] = run_audit(database, "--format", "ndjson")
    assert json.loads(line)["kind"] == "audit"


def test_an_empty_audit_is_no_failure_and_a_closed_pipe_no_traceback(
    database: TestDatabase,
) -> None:
    assert run_audit(database, "--format", "ndjson") == []
    database.execute(
        "insert into audit (at, operation, callername, object, outcome)"
        " select now(), n::text, repeat('x', 500), 'action', 'done' from generate_series(1, 900) n"
    )
    options = ["audit", "--format", "ndjson", "--database", database.dsn]
    pipe = subprocess.PIPE
    with subprocess.Popen([*CLI, *options], stdout=pipe, stderr=pipe) as run:
        assert run.stdout and run.stderr
        assert run.stdout.readline()
        run.stdout.close()
        assert run.stderr.read() == b""
        assert run.wait(60) == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--since", "yesterday"], "it must be a duration such as 10m, 90d or 1h30m"),
        (["--since", "0s"], "it must be a duration such as"),
        (["--investigator", "0"], "it must be a whole number from 1 to"),
        (["--format", "csv"], "'csv' is not one of 'table', 'ndjson'"),
    ],
)
def test_a_bad_option_is_a_usage_error(options: list[str], says: str) -> None:
    told = CliRunner().invoke(main, ["audit", "--database", "postgresql://x", *options])
    assert told.exit_code == 2
    assert says in told.output


def test_the_longest_duration_finds_everything(database: TestDatabase) -> None:
    insert_row(database, "900 years")
    assert len(run_audit(database, "--since", "999999d", "--format", "ndjson")) == 1


def test_the_limited_role_reads_the_audit(database: TestDatabase) -> None:
    insert_row(database, "1 min")
    limited = TestDatabase(dsn=make_dsn(database.dsn, user=API_ROLE))
    assert len(run_audit(limited)) == 2
