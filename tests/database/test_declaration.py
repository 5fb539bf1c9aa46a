"""The schema that databases are compared with is the text that sets one up."""

from __future__ import annotations

import pytest

from mig.database.schema.declaration import FunctionDefinition, load_schema, parse_schema
from mig.model.permissions import DEFAULT_PERMISSIONS

T = "create table t (\n    a text\n);\n"


def test_tables_columns_and_indexes_are_read() -> None:
    schema = parse_schema(
        "-- a comment; with a semicolon\n"
        "create sequence s;\n"
        "create table t (\n    id numeric primary key, -- why\n    name varchar(9) not null,\n"
        "    unique (id, name)\n);\n"
        "create index t_name on t (name, id);\n"
    )
    assert [sequence.name for sequence in schema.sequences] == ["s"]
    [table] = schema.tables
    assert table.columns == {"id": "numeric primary key", "name": "varchar(9) not null"}
    [index] = schema.indexes
    assert (index.name, index.table, index.columns) == ("t_name", "t", ("name", "id"))


def test_a_table_that_exists_may_be_declared_to_stay_as_it_is() -> None:
    schema = parse_schema(
        "create table t (\n    a text\n);\ncreate table if not exists u (\n    a text\n);"
    )
    assert [(table.name, table.is_fixed) for table in schema.tables] == [("t", False), ("u", True)]


def test_functions_and_triggers_are_read() -> None:
    """A body is kept unchanged, with its semicolons, quotes and comments."""
    schema = parse_schema("""
        create table t (
            a text, -- not; the end
            b text default ';--'
        );
        create function f(since timestamptz, least numeric) returns setof double precision
            language sql stable strict security definer parallel safe
            set search_path = pg_catalog, pg_temp as $f$ select 1; -- it's $$ $f$;
        create function g() returns trigger language plpgsql as $$begin return new; end$$;
        create trigger t_g after insert or update of a, b on t
            for each row execute function g();
    """)
    f, g = schema.functions
    assert f.signature == "f(timestamptz, numeric)"
    assert (f.result_type, g.result_type) == ("double precision", "trigger")
    assert f.definition == FunctionDefinition(
        argument_names=("since", "least"),
        body=" select 1; -- it's $$ ",
        language="sql",
        parallel="s",
        returns_set=True,
        security_definer=True,
        settings=frozenset({"search_path=pg_catalog,pg_temp"}),
        strict=True,
        volatility="s",
    )
    [trigger] = schema.triggers
    assert (trigger.table, trigger.function, trigger.kind) == ("t", "g", 1 + 4 + 16)
    assert trigger.columns == {"a", "b"}
    assert len(schema.objects) == 4


def test_roles_and_grants_are_read() -> None:
    """Each grant is of one privilege on one object to one role; only a declared role is created."""
    schema = parse_schema("""
        create sequence s;
        create table t (
            a text,
            b text
        );
        create function f(a text) returns text language sql as $$select a$$;
        create role r nologin;
        grant select, update (a, b) on t to r, q;
        grant usage on sequence s to q;
        grant execute on function f(text) to r;
        grant r to q, p;
    """)
    assert [role.name for role in schema.roles] == ["r"]
    assert schema.role_names == ["r", "q", "p"]
    assert [grant.sql for grant in schema.grants] == [
        "grant select on table t to r",
        "grant select on table t to q",
        "grant update (a, b) on table t to r",
        "grant update (a, b) on table t to q",
        "grant usage on sequence s to q",
        "grant execute on function f(text) to r",
    ]
    assert [membership.sql for membership in schema.memberships] == ["grant r to q", "grant r to p"]


def test_what_only_one_feature_needs_is_read() -> None:
    schema = parse_schema(f"""{T}
        -- only for searches with target=:
        create role r;
        -- only for a limit:
        alter role s set temp_file_limit = '1GB';
        create role q;
    """)
    assert [(role.name, role.purpose) for role in schema.roles] == [
        ("r", "searches with target="),
        ("q", ""),
    ]
    [setting] = schema.settings
    assert (setting.role, setting.parameter) == ("s", "temp_file_limit")
    assert (setting.sql, setting.purpose) == (
        "alter role s set temp_file_limit = '1GB'",
        "a limit",
    )
    assert schema.role_names == ["r", "q", "s"]
    assert not schema.without_upkeep().settings


def test_data_steps_are_read() -> None:
    schema = parse_schema(f"""{T}
        -- when t.a is added:
        update t set a = 'x; y';
        -- Why the table begins with a row.
        -- when t is created:
        insert into t values ('z');
    """)
    assert [(step.table, step.column, step.sql) for step in schema.data] == [
        ("t", "a", "update t set a = 'x; y'"),
        ("t", "", "insert into t values ('z')"),
    ]


def test_grants_on_new_objects_are_read() -> None:
    schema = parse_schema(f"""{T}
        -- when each is created:
        grant select, insert (a) on t to r, s;
    """)
    assert [grant.sql for grant in schema.creation_grants] == [
        "grant select on table t to r",
        "grant select on table t to s",
        "grant insert (a) on table t to r",
        "grant insert (a) on table t to s",
    ]
    assert not schema.grants
    assert schema.role_names == ["r", "s"]


def test_grants_of_earlier_versions_are_read() -> None:
    schema = parse_schema(f"""{T}
        -- granted before version 4:
        revoke select, update (a) on t from r;
    """)
    assert [(former.grant.revoke_sql, former.version) for former in schema.former_grants] == [
        ("revoke select on table t from r", 4),
        ("revoke update (a) on table t from r", 4),
    ]
    assert not schema.grants
    assert schema.role_names == ["r"]


@pytest.mark.parametrize(
    "sql",
    [
        "alter table t add column c text",
        "create index i on t (lower(name))",
        "create unique index i on t (name)",
        "create index i on t (name) where name is not null",
        "create view v as select 1",
        "create role r superuser",
        "create function f() returns text as $$select ''$$",
        "create function f() returns text language sql cost 5 as $$select ''$$",
        "create function f() returns text language sql as 'select 1'",
        "create trigger x before insert on t for each row when (new.a = '') execute function f()",
        "create trigger x instead of insert on t for each row execute function f()",
        "create trigger x before insert of a on t for each row execute function f()",
        "create trigger x before insert on t for each row execute function f('a')",
        "grant select",
        "update t set a = ''",
        "-- when t.a is added:\ncreate index i on t (a)",
        "revoke select on t from r",
        "-- when t is created:\nrevoke select on t from r",
        "-- granted before version 2:\nupdate t set a = ''",
        "-- when t is created:\ngrant select on t to r",
        "-- granted before version 2:\ngrant select on t to r",
        "-- when each is created:\nrevoke select on t from r",
        "-- when each is created:\ngrant r to s",
        "alter role r set work_mem = '1MB'",
        "-- when t is created:\nalter role r set work_mem = '1MB'",
        "-- only for a feature:\nalter role r superuser",
        "-- only for a feature:\nupdate t set a = ''",
        "-- only for a feature:\ngrant r to s",
        "-- when each is created:\ncreate role r",
    ],
)
def test_a_statement_that_cannot_be_compared_is_refused(sql: str) -> None:
    with pytest.raises(ValueError, match="this statement cannot be compared with a database"):
        parse_schema(T + sql)


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("grant select on u to r", "table u is not declared"),
        ("grant select (b) on t to r", "column t.b is not declared"),
        ("grant usage on sequence t to r", "sequence t is not declared"),
        ("grant execute on function f(text) to r", r"function f\(text\) is not declared"),
        ("create index i on t (b)", "column t.b is not declared"),
        ("-- when t.b is added:\nupdate t set b = ''", "column t.b is not declared"),
        ("-- when t.a is added:\nupdate u set a = ''", "a data step may change t only"),
        (
            "create trigger x before insert on t for each row execute function f()",
            "function f is not declared",
        ),
        ("create function f(a) returns text language sql as $$$$", "a name and a type"),
        (
            "create sequence s; create table u (\n a int default nextval('s'),\n"
            " b int default nextval('s')\n)",
            "default of more than one column",
        ),
    ],
)
def test_a_schema_that_names_undeclared_objects_is_refused(sql: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_schema(T + sql)


def test_the_private_key_is_granted_to_nobody() -> None:
    """The whole table, which includes it, is granted to nobody either."""
    grants = [grant for grant in load_schema().grants if grant.relation == "investigators"]
    assert grants
    assert all(grant.columns and "privatekey" not in grant.columns for grant in grants)


def test_adopted_investigators_get_the_permissions_of_new_ones() -> None:
    [step] = load_schema().data
    assert (step.table, step.column) == ("investigators", "permissions")
    assert f"set permissions = {int(DEFAULT_PERMISSIONS)} where" in step.sql


def test_partitions_by_month_are_read() -> None:
    """The check of the schema, unlike a migration, does not look at which months exist."""
    schema = parse_schema(
        "create table t (\n    at timestamptz not null,\n    primary key (at)\n)"
        " partition by range (at);\n"
        "create table t_default partition of t default;\n"
        "select create_months('t', 12);\n"
    )
    table, default = schema.tables
    assert (table.columns, default.name, default.is_fixed) == (
        {"at": "timestamptz not null"},
        "t_default",
        True,
    )
    [months] = schema.months
    assert (months.table, months.count) == ("t", 12)
    assert not schema.without_upkeep().months
