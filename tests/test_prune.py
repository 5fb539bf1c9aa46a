"""``mig-api prune`` beside schedulers and readers, as an operator runs it."""

from __future__ import annotations

import subprocess
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Event
from urllib.error import HTTPError

import psycopg2
import pytest
from psycopg2.extensions import make_dsn

from mig.cli.retention import make_progress_printer
from mig.database.schema.declaration import API_ROLE
from mig.demo.postgres import OWNER_ROLE
from mig.retention import Pruned
from tests.support.cli import run_cli
from tests.support.daemon import Daemon
from tests.support.postgres import MANY_COMMANDS, TestDatabase

OLD = 20_000
FIRST_OLD = 1_000_000
FIRST_NEW = 2_000_000
REPORT = "search?type=command&report=complianceitems&limit=100000&after=2000-01-01T00:00:00Z"


@pytest.fixture
def aged(large_database: TestDatabase) -> TestDatabase:
    """Return a database with young commands, and as many that are 500 days old."""
    large_database.execute(
        "insert into actions (id, name, target, validfrom, expireafter)"
        " select n, 'old', 't', now() - interval '1000 d', now() - interval '900 d'"
        " from generate_series(2, 11) n;"
        "insert into commands select %s + n, 2 + n %% 10, 1, 'success', '[]',"
        " now() - interval '500 d' - n * interval '1 s', now() from generate_series(1, %s) n",
        (FIRST_OLD, OLD),
    )
    return large_database


@pytest.fixture
def daemon(aged: TestDatabase, tmp_path: Path) -> Iterator[Daemon]:
    dsn = make_dsn(aged.dsn, user=API_ROLE)
    daemon = Daemon("--database", dsn, "--listen", "tcp:0", cwd=tmp_path)
    yield daemon
    daemon.stop()


def fetch_status(url: str) -> int:
    try:
        return int(urllib.request.urlopen(url).status)
    except HTTPError as error:
        return error.code


def test_a_pruned_command_is_not_found(aged: TestDatabase, daemon: Daemon) -> None:
    old, young = f"command?commandid={FIRST_OLD + 1}", "command?commandid=2"
    assert (fetch_status(daemon.base + old), fetch_status(daemon.base + young)) == (200, 200)
    dry = run_cli("prune", "--commands-older", "400d", "--dry-run", "--database", aged.dsn)
    what = f"deleted {OLD} commands and 0 actions, detached no month of the audit\n"
    assert dry == (0, f"would have {what}", "")
    assert fetch_status(daemon.base + old) == 200
    assert run_cli("prune", "--commands-older", "400d", "--database", aged.dsn) == (0, what, "")
    assert (fetch_status(daemon.base + old), fetch_status(daemon.base + young)) == (404, 200)
    again = run_cli("prune", "--commands-older", "400d", "--database", aged.dsn)
    assert again == (0, what.replace(str(OLD), "0"), "")


def test_nothing_of_schedulers_and_readers_fails_while_it_runs(
    aged: TestDatabase, daemon: Daemon
) -> None:
    """Nothing younger is deleted, and a running report has every row of its time."""
    reading = subprocess.Popen(
        ["curl", "-sSN", f"{daemon.base}{REPORT}&status=success&agentid=1&actionid=1"],
        stdout=subprocess.PIPE,
        bufsize=0,
    )
    assert reading.stdout
    first = reading.stdout.read(1)
    is_over = Event()
    with ThreadPoolExecutor() as pool:
        scheduler = pool.submit(schedule_commands, aged, is_over)
        ages = ("--commands-older", "400d", "--actions-older", "800d", "--audit-older", "2000d")
        status, output, errors = run_cli("prune", *ages, "--database", aged.dsn)
        is_over.set()
        made = scheduler.result()
    assert reading.poll() is None, "the report has not been running all the time"
    rest, _ = reading.communicate(timeout=60)
    assert (status, errors) == (0, "")
    assert output.startswith(f"deleted {OLD} commands and ")
    assert reading.returncode == 0
    assert (first + rest).count(b'"name":"compliance item"') == MANY_COMMANDS * 5
    assert made > 100
    [counts] = aged.execute(
        "select count(*) filter (where id < %s), count(*) filter (where id >= %s and id < %s),"
        " count(*) filter (where id >= %s and status = 'success') from commands",
        (FIRST_OLD, FIRST_OLD, FIRST_NEW, FIRST_NEW),
    )
    assert counts == (MANY_COMMANDS, 0, made)


def schedule_commands(database: TestDatabase, is_over: Event) -> int:
    """Work as a scheduler does until *is_over*: return how many commands got their results."""
    made = 0
    with closing(psycopg2.connect(database.dsn)) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        while not is_over.is_set() or made <= 100:
            command = FIRST_NEW + made
            cursor.execute(
                "insert into commands (id, actionid, agentid, status, results, starttime)"
                " values (%s, %s, 1, 'prepared', '[]', now())",
                (command, 1 + made % 2),  # a young action, and an old one that has commands
            )
            for state in ("sent", "success"):
                cursor.execute("update commands set status = %s where id = %s", (state, command))
                assert cursor.rowcount == 1
            made += 1
    return made


def test_every_100_000_rows_are_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_progress = make_progress_printer()
    for commands in range(0, 260_000, 5_000):
        print_progress(Pruned(commands=commands, actions=500))
    assert capsys.readouterr().out.splitlines() == [
        "deleted 100000 commands and 500 actions so far",
        "deleted 200000 commands and 500 actions so far",
    ]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give --commands-older, --actions-older or --audit-older"),
        (["--dry-run"], "give --commands-older, --actions-older or --audit-older"),
        (["--commands-older", "400"], "it must be a duration such as 10m, 90d or 1h30m"),
        (["--actions-older", "0d"], "it must be a duration such as 10m, 90d or 1h30m"),
        (["--audit-older", "-5d"], "it must be a duration such as 10m, 90d or 1h30m"),
    ],
)
def test_a_run_that_names_no_age_is_a_usage_error(
    arguments: list[str], says: str, database: TestDatabase
) -> None:
    status, output, errors = run_cli("prune", *arguments, "--database", database.dsn)
    assert (status, output) == (2, "")
    assert says in errors


def test_a_role_that_may_not_delete_is_refused_in_a_line(database: TestDatabase) -> None:
    verb = ("prune", "--commands-older", "999999d", "--database")
    status, output, errors = run_cli(*verb, make_dsn(database.dsn, user=API_ROLE))
    assert (status, output) == (1, "")
    assert errors == f"mig-api: {API_ROLE} may not delete: run this as {OWNER_ROLE}\n"
    assert run_cli(*verb, database.dsn)[0] == 0
