"""Conditions on agents: what reaches PostgreSQL is a condition, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing

import psycopg2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mig.database.schema.declaration import READER_ROLE
from mig.demo.postgres import EmbeddedPostgres
from mig.errors import InvalidInputError
from mig.search.target import (
    CALLABLE_NAMES,
    MAX_TARGET_CHARACTERS,
    TYPES,
    list_columns,
    parse_target,
)
from tests.support.postgres import NewDatabase

ACCEPTED = (
    # of existing clients
    "status='online'",
    "environment->>'os'='linux'",
    "tags->>'operator'='x'",
    "name LIKE '%.example.net'",
    "agents.os='linux'",
    "id IN (select agentid from commands, json_array_elements(commands.results) as r"
    " where actionid=5 and r#>>'{foundanything}' = 'true') AND status='online'",
    "(environment->>'os' = 'darwin' OR environment->>'os' = 'windows') AND mode != 'checkin'",
    "name ILIKE 'web%' AND NOT (tags->>'operator' IS NULL) AND version ~* '^2017[01]'",
    # all that the grammar of a condition has
    "true",
    "queueloc = 'it''s; -- /* a \"text\" $1 \\'",
    "\"name\" = 'é 😀' and agents.\"os\" <> ''",
    "id % 10 = 3 and pid*2 > 1.5e3 and pid / 2 >= -1",
    "heartbeattime > now() - interval '1 day' and starttime >= date_trunc('day', now())",
    "heartbeattime at time zone 'utc' between timestamp '2026-01-01' and to_timestamp(1e9)",
    "lower(name) in ('a', 'b') and upper(os) not in ('C')",
    "id::text like '7%' and (environment->>'cpus')::int > 4",
    "cast(environment->>'load' as numeric(5, 2)) < 1 and tags::jsonb ? 'operator'",
    "environment::jsonb @> '{\"os\": \"linux\"}' and tags::jsonb ?| array['a', 'b']",
    "os = any('{linux,darwin}'::text[]) and os = any (array['linux'])",
    "case when os = 'linux' then pid > 1 else (pid < 1) end",
    "coalesce(os, nullif(name, 'x'), '') = split_part(name, '.', 1)",
    "substring(name from '[a-z]+') = 'a' and position('a' in name) = 1 and length(os) > 1",
    "exists (select * from commands where agentid = agents.id and commands.status = 'success')",
    "(select count(*) from commands where commands.agentid = agents.id) > 3",
    "exists (select from json_each_text(environment) as e where e.key = 'os' and value = 'x')",
    "os in (values ('linux'), ('darwin')) and id is distinct from 5",
    "inet(environment->>'publicip') << inet '192.0.2.0/24' and host(inet '::1') = '::1'",
    "exists (select 1 from actions a join signatures s on s.actionid = a.id"
    " where a.target = 'x' group by a.name, a.id having count(distinct s.investigatorid) > 1)",
    "os = 'sha256:d3e00412345678e123456789'",  # not a large number
)
REFUSED = (
    # another statement, or the end of the bracket around the condition
    ("true); delete from agents; select (true", "';'", 6),
    ("true; select 1", "';'", 5),
    ("true) --", "--", 7),
    ("true -- comment", "--", 6),
    ("1 +-- 1", "--", 4),
    ("true /* comment", "/*", 6),
    ("1 */* 1", "/*", 4),
    ("true) union select 1 where (true", ") without its opening bracket", 5),
    ("(true", "a bracket that is not closed", 1),
    ("array[(true]", "( in square brackets", 7),
    ("(array['a')", ") in square brackets", 11),
    ("a = $1", "'$'", 5),
    ("$$text$$ = ''", "'$'", 1),
    ("a = %(name)s", "% before anything but a number", 5),
    ("true :a", "':'", 6),
    ("a = `b`", "'`'", 5),
    ("é = 1", "'é'", 1),
    ("a\u00a0= 1", r"'\xa0'", 2),
    ("a = 'b", "a quote that is not closed", 5),
    ("a = 'b''", "a quote that is not closed", 5),
    ('a = "b""', "a quote that is not closed", 5),
    ("a\n= 1", "the control character U+000A", 2),
    ("a = 'b\0'", "the control character U+0000", 7),
    ("a = '\x85'", "the control character U+0085", 6),
    # strings of another syntax
    (r"a = E'\n'", r"E'\n' without a space", 6),
    ("a = U&'b'", "U& without a space", 5),
    ('u&"b" = 1', "U& without a space", 1),
    ("a = x'1'", "x'1' without a space", 6),
    ("a = 'b''c'(d)'", "a quote that is not closed", 14),
    ("a = 0x10", "0x10 without a space", 6),
    ("a = E '1'", "a string after E", 7),
    # functions
    ("pg_sleep(30) is null", "the name pg_sleep", 1),
    ("set_config('role', 'migapi', false) = ''", "the function set_config", 1),
    ("pg_catalog.lower('a') = 'a'", "the name pg_catalog", 1),
    ("public.lower('a') = 'a'", "the function lower", 8),
    ('"lower" (name) = 1', 'the function "lower"', 1),
    ('"pg_sleep"(1) is null', "the name pg_sleep", 1),
    ("repeat ('x', 1000) = ''", "the function repeat", 1),
    ("lo_create(1) = 1", "the function lo_create", 1),
    ("query_to_xml('table agents', true, true, '') is null", "the function query_to_xml", 1),
    ("exists (select 1 from generate_series(1, 1000000000))", "the function generate_series", 23),
    ("1 operator(pg_catalog.=) 1", "the function operator", 3),
    ("array(select id) = null", "the function array", 1),
    ("row(1) is null", "the function row", 1),
    ("count(*) over () > 1", "the function over", 10),
    # x.f is f(x)
    ("(0.1).pg_sleep is null", "a dot that is not between two names", 6),
    ("(environment).row_to_json is null", "a dot that is not between two names", 14),
    ("agents.row_to_json is null", "row_to_json after a dot, only columns", 8),
    ('agents."row_to_json" is null', "row_to_json after a dot, only columns", 8),
    ("agents . to_json is null", "to_json after a dot, only columns", 10),
    ("public.agents.os = ''", "agents after a dot, only columns", 8),
    ("exists (select 1 from information_schema.tables)", "tables after a dot", 42),
    ("exists (select 1 from pg_shadow)", "the name pg_shadow", 23),
    ('exists (select 1 from "pg_shadow")', "the name pg_shadow", 23),
    ("a = 1.5.5", "a dot that is not between two names", 8),
    ("agents.* is null", "a dot that is not between two names", 7),
    # casts
    ("'agents'::regclass = 1", "a cast to regclass", 9),
    ("cast('agents' as regclass) = 1", "a cast to regclass", 15),
    ("regclass 'agents' = 1", "a string after regclass", 10),
    ('name::"text" = 1', 'a cast to "text"', 5),
    ("name::pg_catalog.text = 1", "a cast to pg_catalog", 5),
    ("name:: = 1", "a cast to =", 5),
    ("substring(name::bytea::text from 3) = ''", "a cast to bytea", 15),
    ("'<a/>'::xml is null", "a cast to xml", 7),
    ("name::text[1] = ''", "[ after text", 11),
    # what takes PostgreSQL's memory
    ("id in (with t as (select 1) select 1 from t)", "the name with", 8),
    ("id in (select 1 union table commands)", "the name table", 23),
    ("id in (select (select (select 1)))", "more than 2 selects", 24),
    ("name||name = ''", "||", 5),
    ("name|||name = ''", "||", 5),
    ("||/ 8 = 2", "||", 1),
    ("(name, os)::text = ''", "a row of several values", 6),
    ("name, os", "a row of several values", 5),
    ("(name, os) in (('a', 'b'))", "a row of several values", 6),
    ("exists (select name, os from agents)", "a row of several values", 20),
    ("exists (select a is distinct from b, c from agents)", "a row of several values", 36),
    ("exists (values (1, 2))", "a row of several values", 18),
    ("exists (select 1 from (agents a join agents b on true) j)", "a bracket without a select", 23),
    ("exists (select 1 from agents a, (agents b))", "a bracket without a select", 33),
    ("exists (select 1 from lateral (values (1)) t)", "the function lateral", 23),
    ("exists (select 1 from (values (1)) t(x))", "the function t", 36),
    ("exists (select 1 from (select * from agents) t)", "* before anything but", 31),
    ("array[array['\"']::text]::text = ''", "array in square brackets", 7),
    ("array[name, name]::text = ''", "name in square brackets", 7),
    ("name[1] = ''", "[ after name", 5),
    # what PostgreSQL does not stop
    ("7.7 ^ 140000 > 1", "the operator ^", 5),
    ("100000 ! > 1", "the operator !", 8),
    ("!! 100000 > 1", "the operator !!", 1),
    ("id * id > 1", "* before anything but a number", 4),
    ("id *-1 > 1", "* before anything but a number", 4),
    ("id /(1) > 1", "/ before anything but a number", 4),
    ("id % pid = 1", "% before anything but a number", 4),
    ("1e1000 > 1", "a number with so large an exponent", 1),
    ("id = '1E+10000'", "a number with so large an exponent", 7),
    ("id = '1.5e1_000'", "a number with so large an exponent", 7),
    ("length('[1, 1e1000]'::jsonb::text) > 1", "a number with so large an exponent", 13),
    ("length('{\"a\":-1e1000}'::jsonb::text) > 1", "a number with so large an exponent", 15),
)


@pytest.fixture(scope="module")
def connection(postgres: EmbeddedPostgres) -> Iterator[psycopg2.extensions.connection]:
    """Return a connection to the database that each test's database is a copy of."""
    dsn = postgres.format_dsn(database="template1")
    with closing(psycopg2.connect(dsn)) as opened:
        opened.autocommit = True
        yield opened


@pytest.mark.parametrize("condition", ACCEPTED)
def test_a_condition_is_accepted(
    condition: str, new_database: NewDatabase, connection: psycopg2.extensions.connection
) -> None:
    """PostgreSQL accepts it, too, from the role that runs conditions."""
    assert parse_target(condition) == condition
    cursor = connection.cursor()
    cursor.execute(f"begin; set local role {READER_ROLE}")
    try:
        cursor.execute(f"select id from agents where ({condition})")
    finally:
        cursor.execute("rollback")


@pytest.mark.parametrize(("condition", "what", "position"), REFUSED)
def test_anything_else_is_refused_by_its_position(condition: str, what: str, position: int) -> None:
    with pytest.raises(InvalidInputError) as refused:
        parse_target(condition)
    assert refused.value.where == "target"
    message = str(refused.value)
    assert f"it cannot contain {what}" in message
    assert message.endswith(f"(at character {position})")


def test_a_condition_has_a_length() -> None:
    longest = f"name = '{'é' * (MAX_TARGET_CHARACTERS - 9)}'"
    assert parse_target(longest) == longest
    with pytest.raises(InvalidInputError, match="target must have at most 2048 characters"):
        parse_target(longest + " ")


def test_only_columns_that_the_role_may_read_follow_a_dot() -> None:
    assert list_columns() >= {"os", "environment", "results", "investigatorid", "pgpfingerprint"}
    assert not list_columns() & {"privatekey", "apikey", "apisalt", "loaderkey", "permissions"}


FRAGMENTS = (
    *sorted(CALLABLE_NAMES),
    *sorted(TYPES),
    *("true", "agents", "commands", "id", "os", "name", "is", "null", "as", "union", "join", "on"),
    *("(", ")", "(", ")", "[", "]", ",", ".", "::", "*", "+", "-", "=", "->>", "%", "^", "||"),
    *("--", "/*", "*/", ";", "'", "''", '"', "$$", "E'", "U&'", "\\", "\n", "\0", " ", " ", " "),
    *("'a'", '"os"', "1", "1.5", "1e3", "0x1", "é", "true) or (true", "select", "with", "pg_sleep"),
)


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=12), st.sampled_from(("", " ")))
@example(["true) or (true"], "")
def test_what_is_accepted_stays_in_its_bracket(
    connection: psycopg2.extensions.connection, parts: list[str], between: str
) -> None:
    """PostgreSQL reads it as part of one statement, which stays false, or refuses it."""
    condition = between.join(parts)
    try:
        parse_target(condition)
    except InvalidInputError:
        return
    cursor = connection.cursor()
    try:
        cursor.execute(f"begin; set local role {READER_ROLE}")
        cursor.execute(f"select 1 from agents where false and ({condition}) or false")
        assert (cursor.statusmessage, cursor.fetchall()) == ("SELECT 0", [])
    except psycopg2.Error as reason:
        assert reason.pgcode is not None
        assert re.match("22|42|0A|21|54", reason.pgcode), (condition, reason)
    finally:
        cursor.execute("rollback")
        cursor.execute("reset role")
