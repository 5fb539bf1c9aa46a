"""The parts of the declared schema that a database has, and the roles that may change them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from mig.database.schema.declaration import (
    FunctionDefinition,
    Grant,
    Membership,
    Months,
    RoleSetting,
    Schema,
    normalize_function_setting,
)
from mig.errors import SchemaError
from mig.model.row import make_row_reader
from mig.model.statement import QueryFunction, Statement

MIN_SERVER_VERSION: Final = 110000
"""Since PostgreSQL 11, adding a column with a constant default does not rewrite the table."""

ADMIN_OPTION_SERVER_VERSION: Final = 160000
"""Before PostgreSQL 16, a role with CREATEROLE can grant membership in any role."""


class _ServerRow(NamedTuple):
    version: int
    encoding: str
    schema: str
    is_schema_public: bool
    schema_owner: str
    is_schema_owner_usable: bool
    user: str
    is_superuser: bool
    can_create_roles: bool
    can_read_version: bool | None


# Since PostgreSQL 14 the schema public belongs to pg_database_owner, a role that cannot log in; its
# only member is the owner of the database.
_SERVER = Statement(
    """
with place as (
    select coalesce(current_schema(), 'public') as name
), owner as (
    select coalesce(
        (
            select n.nspowner from pg_namespace n join pg_roles r on r.oid = n.nspowner
            where n.nspname = place.name and r.rolname <> 'pg_database_owner'
        ),
        (select datdba from pg_database where datname = current_database())
    ) as oid
    from place
)
select current_setting('server_version_num')::integer, current_setting('server_encoding'),
    quote_ident(place.name),
    coalesce(has_schema_privilege('public', current_schema(), 'usage'), false),
    quote_ident(pg_get_userbyid(owner.oid)), pg_has_role(owner.oid, 'usage'),
    quote_ident(r.rolname), r.rolsuper, r.rolcreaterole,
    has_any_column_privilege(to_regclass('mig_schema')::oid, 'select')
from place, owner, pg_roles r
where r.rolname = current_user
""",
    make_row_reader(_ServerRow),
)


class _VersionRow(NamedTuple):
    version: int | None


_VERSION = Statement("select max(version) from mig_schema", make_row_reader(_VersionRow))


class _ColumnRow(NamedTuple):
    table: str
    owner: str
    is_usable: bool
    name: str
    has_default: bool


_COLUMNS = Statement(
    """
select t.name, quote_ident(pg_get_userbyid(c.relowner)), pg_has_role(c.relowner, 'usage'),
    a.attname::text, a.atthasdef
from unnest(%s::text[]) with ordinality as t (name, place)
join pg_class c on c.oid = to_regclass(t.name)
join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
order by t.place, a.attnum
""",
    make_row_reader(_ColumnRow),
)


class _SequenceRow(NamedTuple):
    name: str
    owner: str
    is_usable: bool


_SEQUENCES = Statement(
    """
select s.name, quote_ident(pg_get_userbyid(c.relowner)), pg_has_role(c.relowner, 'usage')
from unnest(%s::text[]) as s (name) join pg_class c on c.oid = to_regclass(s.name)
""",
    make_row_reader(_SequenceRow),
)


class _IndexRow(NamedTuple):
    table: str
    name: str
    is_valid: bool
    is_plain: bool
    columns: list[str]


_INDEXES = Statement(
    """
select t.name, i.relname::text, x.indisvalid and x.indisready and x.indislive,
    m.amname = 'btree' and x.indpred is null and x.indexprs is null
    and array(select distinct o from unnest(x.indoption::int2[]) as o)
        in (array[0::int2], array[3::int2]),  -- all ascending, or all descending
    array(
        select a.attname::text
        from unnest(x.indkey::int2[]) with ordinality as k (attnum, place)
        join pg_attribute a on a.attrelid = x.indrelid and a.attnum = k.attnum
        where k.place <= x.indnkeyatts order by k.place
    )
from unnest(%s::text[]) as t (name)
join pg_index x on x.indrelid = to_regclass(t.name)
join pg_class i on i.oid = x.indexrelid
join pg_am m on m.oid = i.relam
""",
    make_row_reader(_IndexRow),
)


class _FunctionRow(NamedTuple):
    signature: str
    owner: str
    is_usable: bool
    has_same_result: bool
    argument_names: list[str]
    body: str
    language: str
    parallel: str
    returns_set: bool
    security_definer: bool
    settings: list[str]
    strict: bool
    volatility: str


# Every version stores the body of a function exactly, and its other properties in columns. The text
# that PostgreSQL makes of a function or trigger differs (docs/decisions/0002).
_FUNCTIONS = Statement(
    """
select f.signature, quote_ident(pg_get_userbyid(p.proowner)), pg_has_role(p.proowner, 'usage'),
    p.prorettype = to_regtype(f.result)::oid and p.prokind = 'f',
    array(select n from unnest(p.proargnames) as n), p.prosrc, l.lanname::text,
    p.proparallel::text, p.proretset, p.prosecdef, array(select s from unnest(p.proconfig) as s),
    p.proisstrict, p.provolatile::text
from unnest(%s::text[], %s::text[]) as f (signature, result)
join pg_proc p on p.oid = to_regprocedure(f.signature)
join pg_language l on l.oid = p.prolang
""",
    make_row_reader(_FunctionRow),
)


class _TriggerRow(NamedTuple):
    name: str
    table: str
    kind: int
    columns: list[str]
    is_plain: bool


_TRIGGERS = Statement(
    """
select d.name, d.relation, t.tgtype::integer,
    array(
        select a.attname::text from unnest(t.tgattr::int2[]) as k (attnum)
        join pg_attribute a on a.attrelid = t.tgrelid and a.attnum = k.attnum
    ),
    coalesce(t.tgfoid = to_regprocedure(d.function || '()')::oid, false)
    and t.tgenabled in ('O', 'A') and t.tgqual is null and t.tgnargs = 0 and t.tgconstraint = 0
    and t.tgoldtable is null and t.tgnewtable is null
from unnest(%s::text[], %s::text[], %s::text[]) as d (name, relation, function)
join pg_trigger t on t.tgrelid = to_regclass(d.relation) and t.tgname = d.name
    and not t.tgisinternal
""",
    make_row_reader(_TriggerRow),
)


class _CreatorRow(NamedTuple):
    name: str


_CREATORS = Statement(
    """
select quote_ident(rolname) from pg_roles
where quote_ident(rolname) = any(%s) and has_schema_privilege(oid, current_schema(), 'create')
""",
    make_row_reader(_CreatorRow),
)


class _RoleRow(NamedTuple):
    name: str
    can_use_schema: bool
    is_administered: bool


_ROLES = Statement(
    """
select r.rolname::text, coalesce(has_schema_privilege(r.oid, current_schema(), 'usage'), false),
    pg_has_role(r.oid, 'member with admin option')
from pg_roles r where r.rolname = any(%s)
""",
    make_row_reader(_RoleRow),
)


class _PlaceRow(NamedTuple):
    place: int


_MISSING_GRANTS = Statement(
    """
select distinct g.place
from unnest(%s::int[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[])
    as g (place, kind, relation, col, privilege, role)
left join pg_attribute a on a.attname = g.col
    and a.attrelid = case when g.kind = 'table' then to_regclass(g.relation) end
where not coalesce(case
    when g.kind = 'function' then has_function_privilege(
        g.role::name, to_regprocedure(g.relation)::oid, g.privilege)
    when g.kind = 'sequence'
        then has_sequence_privilege(g.role::name, to_regclass(g.relation)::oid, g.privilege)
    when g.col = ''
        then has_table_privilege(g.role::name, to_regclass(g.relation)::oid, g.privilege)
    else has_column_privilege(
        g.role::name, to_regclass(g.relation)::oid, a.attnum, g.privilege)
end, false)
""",
    make_row_reader(_PlaceRow),
)
# The owner's own grants: nothing else is revoked, and nobody else's can be.
_EXISTING_GRANTS = Statement(
    """
select distinct g.place
from unnest(%s::int[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[])
    as g (place, kind, relation, col, privilege, role)
join pg_roles r on r.rolname = g.role
cross join lateral (
    select c.relowner, case when g.col = '' then c.relacl else a.attacl end
    from pg_class c
    left join pg_attribute a on a.attrelid = c.oid and a.attname = g.col
    where g.kind <> 'function' and c.oid = to_regclass(g.relation)
    union all
    select p.proowner, p.proacl
    from pg_proc p
    where g.kind = 'function' and p.oid = to_regprocedure(g.relation)
) as o (owner, acl)
cross join lateral aclexplode(o.acl) as x
where x.grantor = o.owner and x.grantee = r.oid and lower(x.privilege_type) = g.privilege
""",
    make_row_reader(_PlaceRow),
)
# since PostgreSQL 16, a member WITH SET FALSE may not assume the role
_MISSING_MEMBERSHIPS = Statement(
    """
select m.place from unnest(%s::int[], %s::text[], %s::text[]) as m (place, role, member)
where not pg_has_role(
    m.member::name, m.role::name,
    case when current_setting('server_version_num')::int >= 160000 then 'set' else 'member' end
)
""",
    make_row_reader(_PlaceRow),
)
_MISSING_SETTINGS = Statement(
    """
select s.place from unnest(%s::int[], %s::text[], %s::text[]) as s (place, role, parameter)
join pg_roles r on r.rolname = s.role
where not exists (
    select from pg_db_role_setting d cross join unnest(d.setconfig) as each
    where d.setrole = r.oid and split_part(each, '=', 1) = s.parameter
)
""",
    make_row_reader(_PlaceRow),
)

_MISSING_MONTHS = Statement(
    """
select m.place
from unnest(%s::int[], %s::text[], %s::int[]) as m (place, relation, count)
where to_regclass(m.relation) is null or exists (
    select from generate_series(0, m.count) as n
    where to_regclass(
        m.relation || to_char(now() at time zone 'UTC' + n * interval '1 month', '_YYYY_MM')
    ) is null
)
""",
    make_row_reader(_PlaceRow),
)


@dataclass(frozen=True, kw_only=True)
class StepRunner:
    """The role that can run a step.

    ``role`` is its quoted name, or empty when any role that ``title`` describes will do.
    ``is_usable`` says whether the current user has its privileges.
    """

    title: str
    role: str
    is_usable: bool


def _make_runner(name: str, is_usable: bool) -> StepRunner:
    return StepRunner(title=name, role=name, is_usable=is_usable)


@dataclass(frozen=True, kw_only=True)
class ExistingTable:
    """A table; ``columns`` maps the name of each column to whether it has a default."""

    owner: StepRunner
    columns: dict[str, bool]


@dataclass(frozen=True, kw_only=True)
class ExistingIndex:
    """An index; ``is_plain`` when it covers a whole table in one direction."""

    table: str
    name: str
    is_valid: bool
    is_plain: bool
    columns: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ExistingFunction:
    """A function with a declared signature."""

    owner: StepRunner
    has_same_result: bool
    definition: FunctionDefinition


@dataclass(frozen=True, kw_only=True)
class ExistingTrigger:
    """A trigger with a declared name.

    ``is_plain`` when it is enabled, has no condition, and calls the declared function.
    """

    kind: int
    columns: frozenset[str]
    is_plain: bool


@dataclass(frozen=True, kw_only=True)
class ExistingRole:
    """A role that exists."""

    can_use_schema: bool
    is_administered: bool


@dataclass(frozen=True, kw_only=True)
class ExistingSchema:
    """The parts of the schema that a database has.

    ``creators`` are the owners that may create objects in it. ``missing_grants``,
    ``missing_memberships`` and ``missing_settings`` are those of existing roles; ``former_grants``
    are those that the recorded version has made and the declared one has not. ``missing_months``
    are the partitions by month that are not all there.
    """

    server: int
    version: int | None
    can_read_version: bool
    user: StepRunner
    is_superuser: bool
    can_create_roles: bool
    schema: str
    is_schema_public: bool
    schema_owner: StepRunner
    creators: frozenset[str]
    tables: dict[str, ExistingTable]
    sequences: dict[str, StepRunner]
    indexes: tuple[ExistingIndex, ...]
    functions: dict[str, ExistingFunction]
    triggers: dict[tuple[str, str], ExistingTrigger]
    roles: dict[str, ExistingRole]
    missing_grants: frozenset[Grant]
    former_grants: frozenset[Grant]
    missing_memberships: frozenset[Membership]
    missing_settings: frozenset[RoleSetting]
    missing_months: frozenset[Months]

    @property
    def is_empty(self) -> bool:
        """Whether none of the declared tables exists."""
        return not self.tables


async def inspect_schema(query: QueryFunction, schema: Schema) -> ExistingSchema:
    """Return the parts of ``schema`` that the database has.

    :raises SchemaError: for a database of another encoding or a newer schema, and for a server that
        is too old.
    """
    names = [table.name for table in schema.tables]
    # the tables first: another process creates all objects with them in one transaction, so what
    # is read after the tables is at least as complete
    tables: dict[str, ExistingTable] = {}
    for row in await query(_COLUMNS, (names,)):
        owner = _make_runner(row.owner, row.is_usable)
        table = tables.setdefault(row.table, ExistingTable(owner=owner, columns={}))
        table.columns[row.name] = row.has_default
    [server] = await query(_SERVER)
    if server.encoding != "UTF8":
        raise SchemaError(f"the database's encoding is {server.encoding}; it must be UTF8")
    if server.version < MIN_SERVER_VERSION:
        raise SchemaError("the server must be PostgreSQL 11 or newer")
    version = (await query(_VERSION))[0].version if server.can_read_version else None
    if version is not None and version > schema.version:
        raise SchemaError(
            f"the database has schema version {version}, made by a newer mig-api;"
            f" this one supports version {schema.version}"
        )
    functions = await _inspect_functions(query, schema)
    owners = {table.owner.role for table in tables.values()}
    owners |= {function.owner.role for function in functions.values()}
    owners |= {server.user, server.schema_owner}
    roles = {
        row.name: ExistingRole(
            can_use_schema=row.can_use_schema, is_administered=row.is_administered
        )
        for row in await query(_ROLES, (schema.role_names,))
    }
    sequences = [sequence.name for sequence in schema.sequences]
    return ExistingSchema(
        server=server.version,
        version=version,
        can_read_version=server.can_read_version is not False,  # None: there is no such table
        user=_make_runner(server.user, True),
        is_superuser=server.is_superuser,
        can_create_roles=server.can_create_roles,
        schema=server.schema,
        is_schema_public=server.is_schema_public,
        schema_owner=_make_runner(server.schema_owner, server.is_schema_owner_usable),
        creators=frozenset(row.name for row in await query(_CREATORS, (list(owners),))),
        tables=tables,
        sequences={
            row.name: _make_runner(row.owner, row.is_usable)
            for row in await query(_SEQUENCES, (sequences,))
        },
        indexes=tuple(
            ExistingIndex(
                table=row.table,
                name=row.name,
                is_valid=row.is_valid,
                is_plain=row.is_plain,
                columns=tuple(row.columns),
            )
            for row in await query(_INDEXES, (names,))
        ),
        functions=functions,
        triggers=await _inspect_triggers(query, schema),
        roles=roles,
        missing_grants=await find_missing_grants(
            query, [grant for grant in schema.grants if grant.role in roles]
        ),
        former_grants=await _find_former_grants(query, schema, version),
        missing_memberships=await _find_missing_memberships(query, schema, roles),
        missing_settings=await _find_missing_settings(query, schema),
        missing_months=await _find_missing_months(query, schema),
    )


async def _inspect_functions(query: QueryFunction, schema: Schema) -> dict[str, ExistingFunction]:
    signatures = [function.signature for function in schema.functions]
    results = [function.result_type for function in schema.functions]
    found = {}
    for row in await query(_FUNCTIONS, (signatures, results)):
        definition = FunctionDefinition(
            argument_names=tuple(row.argument_names),
            body=row.body,
            language=row.language,
            parallel=row.parallel,
            returns_set=row.returns_set,
            security_definer=row.security_definer,
            settings=frozenset(map(normalize_function_setting, row.settings)),
            strict=row.strict,
            volatility=row.volatility,
        )
        owner = _make_runner(row.owner, row.is_usable)
        found[row.signature] = ExistingFunction(
            owner=owner, has_same_result=row.has_same_result, definition=definition
        )
    return found


async def _inspect_triggers(
    query: QueryFunction, schema: Schema
) -> dict[tuple[str, str], ExistingTrigger]:
    declared = [(trigger.name, trigger.table, trigger.function) for trigger in schema.triggers]
    return {
        (row.table, row.name): ExistingTrigger(
            kind=row.kind, columns=frozenset(row.columns), is_plain=row.is_plain
        )
        for row in await query(_TRIGGERS, _transpose_rows(declared, 3))
    }


async def find_missing_grants(query: QueryFunction, grants: Sequence[Grant]) -> frozenset[Grant]:
    """Return those of ``grants`` whose role, which must exist, lacks the privilege."""
    return await _select_grants(query, _MISSING_GRANTS, grants)


async def _find_former_grants(
    query: QueryFunction, schema: Schema, version: int | None
) -> frozenset[Grant]:
    if version is None:
        return frozenset()
    former = [each.grant for each in schema.former_grants if version < each.version]
    return await _select_grants(query, _EXISTING_GRANTS, former)


async def _select_grants(
    query: QueryFunction, statement: Statement[_PlaceRow], grants: Sequence[Grant]
) -> frozenset[Grant]:
    """Return those of ``grants`` that ``statement`` finds, on any of their columns."""
    each = [
        (place, grant.kind, grant.relation, column, grant.privilege, grant.role)
        for place, grant in enumerate(grants)
        for column in grant.columns or ("",)
    ]
    return frozenset(grants[row.place] for row in await query(statement, _transpose_rows(each, 6)))


async def _find_missing_memberships(
    query: QueryFunction, schema: Schema, roles: dict[str, ExistingRole]
) -> frozenset[Membership]:
    each = [
        (place, membership.role, membership.member)
        for place, membership in enumerate(schema.memberships)
        if membership.role in roles and membership.member in roles
    ]
    missing = await query(_MISSING_MEMBERSHIPS, _transpose_rows(each, 3))
    return frozenset(schema.memberships[row.place] for row in missing)


async def _find_missing_settings(query: QueryFunction, schema: Schema) -> frozenset[RoleSetting]:
    each = [
        (place, setting.role, setting.parameter) for place, setting in enumerate(schema.settings)
    ]
    missing = await query(_MISSING_SETTINGS, _transpose_rows(each, 3))
    return frozenset(schema.settings[row.place] for row in missing)


async def _find_missing_months(query: QueryFunction, schema: Schema) -> frozenset[Months]:
    each = [(place, months.table, months.count) for place, months in enumerate(schema.months)]
    missing = await query(_MISSING_MONTHS, _transpose_rows(each, 3))
    return frozenset(schema.months[row.place] for row in missing)


def _transpose_rows(rows: Sequence[tuple[object, ...]], width: int) -> list[list[object]]:
    """Return the columns of ``rows``, each as one parameter."""
    return [[row[place] for row in rows] for place in range(width)]
