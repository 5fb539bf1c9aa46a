"""``mig-api VERB``, as an administrator runs it."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from psycopg2.extensions import parse_dsn

from mig import __version__
from mig.cli import main
from mig.cli.migration import NO_ADMINISTRATOR
from mig.database.schema.declaration import API_ROLE
from mig.demo.postgres import EmbeddedPostgres
from mig.model.permissions import DEFAULT_PERMISSIONS
from tests.support import catalog
from tests.support.callers import add_investigator
from tests.support.cli import CLI, run_cli
from tests.support.generations import set_up_2014
from tests.support.postgres import NewDatabase, TestDatabase, hold_transaction

NOBODY = f"mig-api: {NO_ADMINISTRATOR}\n"


@pytest.fixture
def old(new_database: NewDatabase) -> TestDatabase:
    return set_up_2014(new_database("template0"))


def test_version_and_help_are_printed() -> None:
    runner = CliRunner()
    assert runner.invoke(main, ["--version"]).output == f"mig-api {__version__}\n"
    told = runner.invoke(main, ["migrate", "--help"])
    assert told.exit_code == 0
    assert "MIG_DATABASE" in told.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "Name the database with --database or --config"),
        (["--database", "nonsense"], "it must be a postgresql:// URL or a connection string"),
        (["--database", "embedded:/x"], "sets up an embedded database when it starts"),
    ],
)
def test_a_missing_or_unusable_database_is_a_usage_error(arguments: list[str], says: str) -> None:
    told = CliRunner(env={"MIG_DATABASE": ""}).invoke(main, ["migrate", *arguments])
    assert told.exit_code == 2
    assert says in told.output


def list_verbs(group: click.Group) -> Iterator[click.Command]:
    for command in group.commands.values():
        if isinstance(command, click.Group):
            yield from list_verbs(command)
        else:
            yield command


def test_every_verb_that_needs_a_database_takes_the_configuration_file() -> None:
    """The demo has a database of its own."""
    options = {verb.name: {each.name for each in verb.params} for verb in list_verbs(main)}
    others = [name for name, names in options.items() if not {"config", "database"} <= names]
    assert len(options) > 10 and others == ["demo"]


def test_a_verb_has_database_and_limits_of_its_configuration_file(
    database: TestDatabase, tmp_path: Path
) -> None:
    """A database on the command line takes precedence, also over the environment."""
    config = tmp_path / "api.cfg"
    values = parse_dsn(database.dsn).items()
    config.write_text("\n".join(["[postgres]", *(f'{key} = "{text}"' for key, text in values)]))
    away = "postgresql://x@127.0.0.1:1/x"
    verb = ("investigator", "list", "--config", str(config))
    assert run_cli(*verb, MIG_DATABASE=away) == (0, "", "")
    status, _, errors = run_cli(*verb, "--database", away)
    assert status == 1 and errors.startswith("mig-api: the database cannot be reached")
    add_investigator(database)
    config.write_text("[limits]\napi_key_seconds = 30d\n")
    create = ("apikey", "create", "1", "--name", "x", "--expires", "31d", "--config", str(config))
    status, _, errors = run_cli(*create, "--database", database.dsn)
    assert status == 1 and "at most 30 days ahead" in errors
    config.write_text("[postgres]\nhots = x\n")
    status, _, errors = run_cli(*verb)
    assert (status, errors) == (
        1,
        f"mig-api: {config}: [postgres] hots is not a key: did you mean host?\n",
    )
    config.write_text("[server]\n")
    status, _, errors = run_cli(*verb)
    assert status == 2 and "has no section [postgres]" in " ".join(errors.split())


def test_a_plan_is_sql_that_does_what_a_migration_does(
    old: TestDatabase, new_database: NewDatabase
) -> None:
    """The plan itself changes nothing; psql can run it."""
    before = catalog.describe_all(old)
    status, sql, errors = run_cli("migrate", "--plan", "--database", old.dsn)
    assert (status, errors) == (0, "")
    assert catalog.describe_all(old) == before
    by_hand = set_up_2014(new_database("template0"))
    psql = ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", by_hand.dsn]
    subprocess.run(psql, input=sql, text=True, check=True)
    assert run_cli("migrate", "--database", old.dsn)[0] == 0
    assert catalog.describe_all(by_hand) == catalog.describe_all(old)


def test_each_step_is_printed_and_a_second_run_has_none(old: TestDatabase) -> None:
    _, sql, _ = run_cli("migrate", "--plan", MIG_DATABASE=old.dsn)
    comments = [line[3:] for line in sql.splitlines() if line.startswith("-- ")]
    roles = [comment for comment in comments if comment.startswith("as ")]
    steps = [comment for comment in comments if comment not in roles]
    assert roles == ["as migadmin:", "as migadmin, only for searches with target=:"]
    status, output, errors = run_cli("migrate", MIG_DATABASE=old.dsn)
    assert (status, errors) == (0, NOBODY)
    assert output.splitlines() == [
        *(f"done: {step}" for step in steps),
        "the database is up to date",
    ]
    assert run_cli("migrate", MIG_DATABASE=old.dsn) == (0, "nothing to do\n", NOBODY)
    assert run_cli("migrate", "--plan", MIG_DATABASE=old.dsn) == (0, "-- nothing to do\n", "")


def test_a_migration_says_that_nobody_is_an_administrator_until_somebody_is(
    old: TestDatabase,
) -> None:
    """The active investigators of 2014 get the default permissions."""
    assert run_cli("migrate", "--database", old.dsn)[2] == NOBODY
    [(investigator_id, permissions), *_] = old.execute(
        "select id::text, permissions from investigators where status = 'active' order by id"
    )
    assert permissions == DEFAULT_PERMISSIONS
    verb = ("investigator", "permissions", investigator_id, "--set", "admin")
    assert run_cli(*verb, "--database", old.dsn)[0] == 0
    assert run_cli("migrate", "--database", old.dsn) == (0, "nothing to do\n", "")


def test_an_empty_database_is_set_up(new_database: NewDatabase) -> None:
    empty = new_database("template0")
    status, output, _ = run_cli("migrate", "--database", empty.dsn)
    assert (status, output) == (
        0,
        "done: set up an empty database\nthe database is up to date\n",
    )


@pytest.mark.parametrize("arguments", [["migrate"], ["migrate", "--plan"]])
def test_a_failure_is_one_line_and_status_1(
    arguments: list[str],
    database: TestDatabase,
    postgres: EmbeddedPostgres,
) -> None:
    database.execute("insert into mig_schema values (99)")
    faults = {
        database.dsn: "made by a newer mig-api",
        "postgresql://x@127.0.0.1:1/x": "the database cannot be reached",
        "postgresql://x@no-such-host.invalid/x": "the database cannot be reached",
        f"{postgres.format_dsn(database='no_such_database')}": "no_such_database",
    }
    for dsn, says in faults.items():
        status, output, errors = run_cli(*arguments, "--database", dsn)
        assert (status, output) == (1, "")
        assert errors.startswith("mig-api: ")
        assert errors.count("\n") == 1
        assert says in errors


def test_a_plan_that_needs_another_role_ends_with_status_2(
    old: TestDatabase, postgres: EmbeddedPostgres
) -> None:
    """Every role gets the same plan; the status says whether this role can run it."""
    limited = postgres.format_dsn(API_ROLE, old.execute("select current_database()")[0][0])
    status, sql, errors = run_cli("migrate", "--plan", "--database", limited)
    assert (status, errors) == (2, "")
    assert (0, sql, "") == run_cli("migrate", "--plan", "--database", old.dsn)
    assert sql.startswith("-- as migadmin:\nset role migadmin;\n")


def test_a_migration_that_needs_another_role_prints_its_steps(
    old: TestDatabase, postgres: EmbeddedPostgres
) -> None:
    """Nothing is changed; one line says which role must run the SQL that is printed."""
    before = catalog.describe_all(old)
    limited = postgres.format_dsn(API_ROLE, old.execute("select current_database()")[0][0])
    status, sql, errors = run_cli("migrate", "--database", limited)
    assert status == 2
    assert errors.startswith("mig-api: migapi may not create sequence investigators_id_seq, and ")
    assert errors.count("\n") == 1
    assert "must be run by migadmin" in errors
    assert catalog.describe_all(old) == before
    psql = ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", old.dsn]
    subprocess.run(psql, input=sql, text=True, check=True)
    assert run_cli("migrate", "--database", limited) == (0, "nothing to do\n", NOBODY)


def test_a_plan_groups_consecutive_steps_by_role(
    old: TestDatabase, new_database: NewDatabase
) -> None:
    """A superuser can run all of it, and every object has the right owner."""
    by_hand = set_up_2014(new_database("template0"))
    for database in (old, by_hand):
        database.execute("alter table agents owner to migapi")
        database.execute("revoke select on agents from migapi")
        database.execute("revoke create on schema public from public")
    status, sql, _ = run_cli("migrate", "--plan", "--database", old.dsn)
    assert status == 0
    roles = [line for line in sql.splitlines() if line.startswith("-- as ")]
    only = ", only for searches with target=:"
    assert roles == [
        *("-- as migadmin:", "-- as migapi:", "-- as migadmin:"),
        *(f"-- as migapi{only}", f"-- as migadmin{only}"),
    ]
    psql = ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", by_hand.dsn]
    subprocess.run(psql, input=sql, text=True, check=True)
    assert run_cli("migrate", "--database", old.dsn)[0] == 0
    assert catalog.describe_all(by_hand) == catalog.describe_all(old)
    assert run_cli("migrate", "--plan", "--database", by_hand.dsn)[1] == "-- nothing to do\n"


def test_an_interrupted_migration_says_so_and_can_be_repeated(old: TestDatabase) -> None:
    with hold_transaction(old, "update commands set status = 'sent'"):
        process = subprocess.Popen(
            [*CLI, "migrate", "--database", old.dsn],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # a shell lets its background jobs, and so this process, ignore the signal
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        while "commands_newest" not in catalog.list_invalid_indexes(old):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert output.splitlines()[-1] == "mig-api: interrupted; run it again to complete it"
    assert "Traceback" not in output
    assert run_cli("migrate", "--database", old.dsn)[0] == 0
    assert catalog.list_invalid_indexes(old) == []


@pytest.mark.parametrize("verb", [["list"], ["disable", "1"]])
def test_investigator_commands_ask_for_a_missing_migration(
    database: TestDatabase, verb: list[str]
) -> None:
    database.execute("alter table investigators drop column permissions")
    status, output, errors = run_cli("investigator", *verb, "--database", database.dsn)
    assert (status, output, errors.count("\n")) == (1, "", 1)
    assert "mig-api migrate" in errors
