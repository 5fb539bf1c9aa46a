"""The schema that the database must have, parsed from the SQL that sets up an empty one.

Only statements that can be compared with a database are accepted (docs/decisions/0002). Keywords
are in lower case:

``create [or replace] function NAME(ARGUMENT TYPE, …) returns TYPE OPTION… as $$…$$``
    no argument has a default; an option is ``language``, the volatility, ``strict``, ``security
    definer``, ``parallel``, or ``set NAME = VALUE``.
``create index NAME on TABLE (COLUMN, …)``
    ascending, over all rows of the table.
``alter role NAME set PARAMETER = VALUE``
    of a role that exists and has no value of its own for the parameter. Only a superuser can run
    it, so it needs a comment ``-- only for PURPOSE:``.
``create role NAME [login | nologin]``
    a role that a migration creates. The administrator creates all others. Below a comment
    ``-- only for PURPOSE:``, a migration leaves out this role, its grants and its members if the
    user may not create it.
``create sequence NAME``
    the default of at most one column; the sequence belongs to the owner of that column's table.
``create table [if not exists] NAME (…) [partition by range (COLUMN)]``
    each column on a line of its own. An existing table gets the columns that it lacks, unless it
    is declared with ``if not exists``.
``create table NAME partition of TABLE default``
    the partition for what belongs to no other one.
``create trigger NAME before | after EVENT [or EVENT…] on TABLE for each row | statement execute
function NAME()``
    an event may be ``update of COLUMN, …``. A condition belongs in the function: the text that
    PostgreSQL makes of a ``when`` differs from version to version.
``grant PRIVILEGE [(COLUMN, …)], … on [table | sequence | function] NAME, … to ROLE, …``
    granted to the roles that exist.
    Below a comment ``-- when each is created:`` it is granted with the creation of each table,
    sequence or function, in the same transaction, and never again.
``grant ROLE, … to ROLE, …``
    membership, where both roles exist.
``revoke PRIVILEGE [(COLUMN, …)], … on [table | sequence | function] NAME, … from ROLE, …``
    what earlier versions granted, below a comment ``-- granted before version NUMBER:``. It is
    revoked from a database whose recorded version is lower. Other grants are left alone.
``insert into``, ``update`` and ``delete from``
    a data step, below a comment ``-- when TABLE is created:`` or ``-- when TABLE.COLUMN is
    added:``. It changes that table once, in the transaction that creates the table or the column.
``select create_months('TABLE', COUNT)``
    makes the partitions of the current month and of the next ``COUNT`` months, where they are
    missing. A migration runs it whenever one is; the check of the schema does not look at months.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from typing import Final

SCHEMA_VERSION: Final = 4
"""The schema that this program needs. Add one whenever the SQL files change the schema."""

API_ROLE: Final = "migapi"
"""The role that is granted what the service needs."""

READER_ROLE: Final = "migreadonly"
"""The role as which the conditions of clients run (:mod:`mig.database.restricted`)."""

_NOT_COMPARABLE = "this statement cannot be compared with a database"
# the alternatives of _TOKEN cover every character: a quote or a slash alone is a token of its own
_TOKEN = re.compile(
    r"""(?P<comment>--[^\n]*|/\*.*?\*/)
    | '(?:[^']|'')*' | "[^"]*" | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$
    | (?P<end>;) | [^-/'"$;]+ | .""",
    re.DOTALL | re.VERBOSE,
)
_OCCASION = re.compile(
    r"-- (?:when (\w+)(?:\.(\w+) is added| is created)|granted before version (?P<version>\d+)"
    r"|only for (?P<purpose>.+)):"
)
_EACH_IS_CREATED = "when each is created:"
_DATA = re.compile(r"(?:insert into|update|delete from) (\w+)\s.+", re.DOTALL)
_ROLE = re.compile(r"create role (\w+)(?: login| nologin)?")
_SETTING = re.compile(r"alter role (\w+) set (\w+) = ('[^']*'|\w+)")
_TABLE = re.compile(
    r"create table (if not exists )?(\w+) \((.+?)\)(?: partition by range \(\w+\))?", re.DOTALL
)
_PARTITION = re.compile(r"create table (\w+) partition of (\w+) default")
_MONTHS = re.compile(r"select create_months\('(\w+)', (\d+)\)")
_INDEX = re.compile(r"create index (\w+) on (\w+) \(([\w, ]+)\)")
_SEQUENCE = re.compile(r"create sequence (\w+)")
_FUNCTION = re.compile(
    r"create (?:or replace )?function (\w+) ?\(([^()]*)\) returns (setof )?(.+?)"
    r" ((?:language|immutable|stable|volatile|strict|security|parallel|set) .+) as"
)
_FUNCTION_OPTION = re.compile(
    r"language (?P<language>\w+)|(?P<volatility>immutable|stable|volatile)|(?P<strict>strict)"
    r"|security (?P<definer>definer)|parallel (?P<parallel>safe|restricted|unsafe)"
    r"|set (?P<setting>\w+ (?:=|to) (?:'[^']*'|\w+)(?:, \w+)*)"
)
_BODY = re.compile(r"\$(\w*)\$(.*)\$\1\$", re.DOTALL)
_TRIGGER = re.compile(
    r"create trigger (\w+) (before|after) (.+) on (\w+)"
    r" for each (row|statement) execute function (\w+)\(\)"
)
_TRIGGER_EVENT = re.compile(r"(insert|delete|truncate|update)(?: of ([\w, ]+))?")
_GRANT = re.compile(r"grant (.+) on (?:(table|sequence|function) )?(.+?) to ([\w, ]+)")
_REVOKE = re.compile(r"revoke (.+) on (?:(table|sequence|function) )?(.+?) from ([\w, ]+)")
_PRIVILEGE = re.compile(r"(\w+)(?: \(([\w, ]+)\))?")
_MEMBERSHIP = re.compile(r"grant ([\w, ]+) to ([\w, ]+)")
_CONSTRAINTS = ("unique (", "primary key (", "foreign key (", "check (")

_TRIGGER_BITS: Final = {
    "row": 1,
    "statement": 0,
    "before": 2,
    "after": 0,
    "insert": 4,
    "delete": 8,
    "update": 16,
    "truncate": 32,
}
"""The bits of ``pg_trigger.tgtype`` (the macros TRIGGER_TYPE_… in PostgreSQL's pg_trigger.h)."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table.

    ``columns`` maps the name of a column to its definition. When ``is_fixed``, a migration does
    not change an existing table.
    """

    name: str
    columns: dict[str, str]
    sql: str
    is_fixed: bool

    @property
    def is_partitioned(self) -> bool:
        """Whether its rows are in partitions."""
        return ") partition by range (" in self.sql


@dataclass(frozen=True, kw_only=True)
class Index:
    """An index, ascending and over a whole table."""

    name: str
    table: str
    columns: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Sequence:
    """A sequence, and the column whose default it is, if any."""

    name: str
    table: str
    column: str

    @property
    def default(self) -> str:
        """The default of that column."""
        return f"nextval('{self.name}')"


@dataclass(frozen=True, kw_only=True)
class FunctionDefinition:
    """The properties of a function as in ``pg_proc``, without its types."""

    argument_names: tuple[str, ...]
    body: str
    language: str
    parallel: str
    returns_set: bool
    security_definer: bool
    settings: frozenset[str]
    strict: bool
    volatility: str


@dataclass(frozen=True, kw_only=True)
class Function:
    """A function. Its types are as they are written; PostgreSQL resolves them."""

    name: str
    argument_types: tuple[str, ...]
    result_type: str
    definition: FunctionDefinition
    sql: str

    @property
    def signature(self) -> str:
        """The name with the types of the arguments."""
        return f"{self.name}({', '.join(self.argument_types)})"


@dataclass(frozen=True, kw_only=True)
class Trigger:
    """A trigger.

    ``kind`` is its ``pg_trigger.tgtype``, and ``columns`` are those of ``update of``.
    """

    name: str
    table: str
    function: str
    kind: int
    columns: frozenset[str]
    sql: str


@dataclass(frozen=True, kw_only=True)
class Role:
    """A role that a migration creates when it is missing.

    ``purpose`` is empty when the service needs the role in any case.
    """

    name: str
    sql: str
    purpose: str = ""


@dataclass(frozen=True, kw_only=True)
class RoleSetting:
    """The value of a parameter in the sessions of a role, and what it is for."""

    role: str
    parameter: str
    sql: str
    purpose: str


@dataclass(frozen=True, kw_only=True)
class Grant:
    """One privilege of one role on a table, on some of its columns, a sequence or a function."""

    privilege: str
    relation: str
    role: str
    columns: tuple[str, ...] = ()
    kind: str = "table"

    @property
    def description(self) -> str:
        """The grant for people, without columns."""
        return f"grant {self.privilege} on {self.relation} to {self.role}"

    @property
    def sql(self) -> str:
        """The statement that grants the privilege."""
        return f"grant {self._describe_object()} to {self.role}"

    @property
    def revoke_description(self) -> str:
        """The revocation for people, without columns."""
        return f"revoke {self.privilege} on {self.relation} from {self.role}"

    @property
    def revoke_sql(self) -> str:
        """The statement that revokes the privilege."""
        return f"revoke {self._describe_object()} from {self.role}"

    def _describe_object(self) -> str:
        columns = f" ({', '.join(self.columns)})" if self.columns else ""
        return f"{self.privilege}{columns} on {self.kind} {self.relation}"


@dataclass(frozen=True, kw_only=True)
class FormerGrant:
    """A grant of the versions before ``version``."""

    grant: Grant
    version: int


@dataclass(frozen=True, kw_only=True)
class Membership:
    """A role and a member of it, which has its privileges or can assume them."""

    role: str
    member: str

    @property
    def sql(self) -> str:
        """The statement that grants the membership."""
        return f"grant {self.role} to {self.member}"


@dataclass(frozen=True, kw_only=True)
class DataStep:
    """A change of rows when ``column`` is added or, if that is empty, the table is created."""

    table: str
    column: str
    sql: str


@dataclass(frozen=True, kw_only=True)
class Months:
    """The partitions of a table for the current month and the next ``count`` ones."""

    table: str
    count: int
    sql: str


@dataclass(frozen=True, kw_only=True)
class Schema:
    """The whole schema.

    ``objects`` are the statements for everything but roles and grants, in their order.
    ``creation_grants`` are made when their object is created, and not on an existing object.
    """

    version: int
    objects: list[str] = field(default_factory=list)
    roles: list[Role] = field(default_factory=list)
    settings: list[RoleSetting] = field(default_factory=list)
    memberships: list[Membership] = field(default_factory=list)
    sequences: list[Sequence] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    indexes: list[Index] = field(default_factory=list)
    functions: list[Function] = field(default_factory=list)
    triggers: list[Trigger] = field(default_factory=list)
    months: list[Months] = field(default_factory=list)
    data: list[DataStep] = field(default_factory=list)
    grants: list[Grant] = field(default_factory=list)
    creation_grants: list[Grant] = field(default_factory=list)
    former_grants: list[FormerGrant] = field(default_factory=list)

    @property
    def role_names(self) -> list[str]:
        """Every role that the schema mentions, without duplicates."""
        names = [role.name for role in self.roles]
        names += [setting.role for setting in self.settings]
        names += [name for each in self.memberships for name in (each.role, each.member)]
        names += [grant.role for grant in (*self.grants, *self.creation_grants)]
        names += [former.grant.role for former in self.former_grants]
        return list(dict.fromkeys(names))

    def without_upkeep(self) -> Schema:
        """Return what the service needs: not which months exist, nor roles and their privileges."""
        return replace(
            self,
            months=[],
            roles=[],
            settings=[],
            memberships=[],
            grants=[],
            creation_grants=[],
            former_grants=[],
        )


@cache
def load_schema() -> Schema:
    """Return the schema that the SQL files of this package declare."""
    folder = resources.files("mig.database.schema")
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".sql")), key=lambda f: f.name)
    return parse_schema("\n".join(file.read_text(encoding="utf-8") for file in files))


def parse_schema(sql: str, version: int = SCHEMA_VERSION) -> Schema:
    """Return the schema that ``sql`` declares.

    :raises ValueError: for a statement that cannot be compared with a database, and for one that
        uses a name that is not declared.
    """
    schema = Schema(version=version)
    statements = list(_split_statements(sql))
    sequences = [found[1] for _, text in statements if (found := _SEQUENCE.fullmatch(text))]
    for occasion, text in statements:
        line = " ".join(text.split())
        needs_occasion = any(each.fullmatch(line) for each in (_DATA, _REVOKE, _SETTING))
        may_have_occasion = needs_occasion or _GRANT.fullmatch(line) or _ROLE.fullmatch(line)
        if not may_have_occasion if occasion else needs_occasion:
            raise ValueError(
                f"{_NOT_COMPARABLE}; a data step, a revocation and a setting need a comment that"
                f" says when they run, a grant and a role may have one, and nothing else: {text}"
            )
        if occasion is not None:
            _parse_conditional(schema, occasion, text)
        elif line.startswith("create role "):
            _parse_role(schema, line)
        elif line.startswith("grant "):
            _parse_grant(schema, line)
        else:
            _parse_object(schema, text, line)
    schema.sequences.extend(_find_sequence(schema, name) for name in sequences)
    _check_names(schema)
    return schema


def _split_statements(sql: str) -> Iterator[tuple[re.Match[str] | None, str]]:
    """Yield each statement without comments, with the match of the one that says when it runs."""
    text = ""
    occasion: re.Match[str] | None = None
    for token in _TOKEN.finditer(sql):
        if token["end"]:
            yield occasion, text.strip()
            text, occasion = "", None
        elif not token["comment"]:
            text += token[0]
        elif found := _OCCASION.fullmatch(token[0].strip()):
            occasion = found
    if text.strip():
        yield occasion, text.strip()


def _parse_object(schema: Schema, text: str, line: str) -> None:
    if found := _TABLE.fullmatch(text):
        columns = _parse_columns(found[3])
        table = Table(name=found[2], columns=columns, sql=text, is_fixed=bool(found[1]))
        schema.tables.append(table)
    elif found := _PARTITION.fullmatch(line):
        schema.tables.append(Table(name=found[1], columns={}, sql=text, is_fixed=True))
    elif found := _MONTHS.fullmatch(line):
        schema.months.append(Months(table=found[1], count=int(found[2]), sql=text))
    elif found := _INDEX.fullmatch(line):
        index = Index(name=found[1], table=found[2], columns=_split_list(found[3]))
        schema.indexes.append(index)
    elif line.startswith(("create function ", "create or replace function ")):
        function = _parse_function(text)
        schema.functions.append(function)
        text = function.sql
    elif found := _TRIGGER.fullmatch(line):
        schema.triggers.append(_parse_trigger(found, text))
    elif not _SEQUENCE.fullmatch(text):
        raise ValueError(f"{_NOT_COMPARABLE}: {text}")
    schema.objects.append(text)


def _parse_columns(body: str) -> dict[str, str]:
    columns = {}
    for line in filter(None, (line.strip().removesuffix(",") for line in body.splitlines())):
        if not line.startswith(_CONSTRAINTS):
            name, definition = line.split(maxsplit=1)
            columns[name] = definition
    return columns


def _parse_function(text: str) -> Function:
    head, dollar, after_dollar = text.partition("$")
    found = _FUNCTION.fullmatch(" ".join(head.split()))
    body = _BODY.fullmatch(dollar + after_dollar)
    if not found or not body:
        raise ValueError(f"{_NOT_COMPARABLE}: {text}")
    options = found[5]
    chosen: dict[str, str] = {}
    settings = set()
    for option in _FUNCTION_OPTION.finditer(options):
        if option["setting"]:
            settings.add(normalize_function_setting(option["setting"].replace(" to ", "=")))
        chosen.update((name, value) for name, value in option.groupdict().items() if value)
    if _FUNCTION_OPTION.sub("", options).strip() or "language" not in chosen:
        raise ValueError(f"{_NOT_COMPARABLE}: {text}")
    arguments = [argument.split(maxsplit=1) for argument in _split_list(found[2])]
    if any(len(argument) != 2 or " default " in argument[1] for argument in arguments):
        raise ValueError(f"each argument must be a name and a type: {text}")
    return Function(
        name=found[1],
        argument_types=tuple(type_ for _, type_ in arguments),
        result_type=found[4],
        definition=FunctionDefinition(
            argument_names=tuple(name for name, _ in arguments),
            body=body[2],
            language=chosen["language"],
            # pg_proc has the first character of this word, and of the volatility
            parallel=chosen.get("parallel", "unsafe")[0],
            returns_set=bool(found[3]),
            security_definer="definer" in chosen,
            settings=frozenset(settings),
            strict="strict" in chosen,
            volatility=chosen.get("volatility", "volatile")[0],
        ),
        sql=re.sub(r"^create (or replace )?function", "create or replace function", text),
    )


def normalize_function_setting(text: str) -> str:
    """Return a function's setting without its quotes and spaces, which PostgreSQL changes."""
    return re.sub(r"""[\s'"]""", "", text)


def _parse_trigger(found: re.Match[str], text: str) -> Trigger:
    name, moment, events, table, level, function = found.groups()
    kind = _TRIGGER_BITS[moment] | _TRIGGER_BITS[level]
    columns: tuple[str, ...] = ()
    for event in events.split(" or "):
        found_event = _TRIGGER_EVENT.fullmatch(event)
        if not found_event or (found_event[2] and found_event[1] != "update"):
            raise ValueError(f"{_NOT_COMPARABLE}: {text}")
        kind |= _TRIGGER_BITS[found_event[1]]
        columns += _split_list(found_event[2] or "")
    return Trigger(
        name=name,
        table=table,
        function=function,
        kind=kind,
        columns=frozenset(columns),
        sql=text,
    )


def _parse_role(schema: Schema, line: str, purpose: str = "") -> None:
    if not (found := _ROLE.fullmatch(line)):
        raise ValueError(f"{_NOT_COMPARABLE}: {line}")
    schema.roles.append(Role(name=found[1], sql=line, purpose=purpose))


def _parse_grant(schema: Schema, line: str) -> None:
    if found := _GRANT.fullmatch(line):
        schema.grants.extend(_parse_privileges(found))
    elif found := _MEMBERSHIP.fullmatch(line):
        for role in _split_list(found[1]):
            for member in _split_list(found[2]):
                schema.memberships.append(Membership(role=role, member=member))
    else:
        raise ValueError(f"{_NOT_COMPARABLE}: {line}")


def _parse_privileges(found: re.Match[str]) -> Iterator[Grant]:
    """Yield each privilege in a ``grant`` or ``revoke``."""
    privileges = [_PRIVILEGE.fullmatch(each) for each in _split_list(found[1])]
    for relation in _split_list(found[3]):
        for privilege in privileges:
            if not privilege:
                raise ValueError(f"{_NOT_COMPARABLE}: {found[0]}")
            for role in _split_list(found[4]):
                yield Grant(
                    privilege=privilege[1],
                    relation=relation,
                    role=role,
                    columns=_split_list(privilege[2] or ""),
                    kind=found[2] or "table",
                )


def _parse_conditional(schema: Schema, occasion: re.Match[str], text: str) -> None:
    """Parse a statement that runs only on the occasion in the comment above it."""
    line = " ".join(text.split())
    is_version, is_each = occasion["version"] is not None, occasion[0].endswith(_EACH_IS_CREATED)
    purpose = occasion["purpose"]
    if purpose and _ROLE.fullmatch(line):
        _parse_role(schema, line, purpose)
    elif purpose and (found := _SETTING.fullmatch(line)):
        setting = RoleSetting(role=found[1], parameter=found[2], sql=line, purpose=purpose)
        schema.settings.append(setting)
    elif (found := _REVOKE.fullmatch(line)) and is_version:
        version = int(occasion["version"])
        former = (FormerGrant(grant=grant, version=version) for grant in _parse_privileges(found))
        schema.former_grants.extend(former)
    elif (found := _GRANT.fullmatch(line)) and is_each:
        schema.creation_grants.extend(_parse_privileges(found))
    elif _DATA.fullmatch(text) and occasion[1]:
        _parse_data_step(schema, occasion, text)
    else:
        raise ValueError(f"{_NOT_COMPARABLE}; its comment is for another statement: {text}")


def _parse_data_step(schema: Schema, occasion: re.Match[str], text: str) -> None:
    found = _DATA.fullmatch(text)
    assert found is not None
    if found[1] != occasion[1]:
        raise ValueError(f"a data step may change {occasion[1]} only: {text}")
    schema.data.append(DataStep(table=occasion[1], column=occasion[2] or "", sql=text))
    schema.objects.append(text)


def _split_list(text: str) -> tuple[str, ...]:
    """Split ``text`` at the commas outside parentheses."""
    return tuple(filter(None, (name.strip() for name in re.split(r",(?![^(]*\))", text))))


def _find_sequence(schema: Schema, name: str) -> Sequence:
    used = [
        (table.name, column)
        for table in schema.tables
        for column, definition in table.columns.items()
        if f"nextval('{name}')" in definition
    ]
    if len(used) > 1:
        raise ValueError(f"the sequence {name} is the default of more than one column")
    table, column = used[0] if used else ("", "")
    return Sequence(name=name, table=table, column=column)


def _check_names(schema: Schema) -> None:
    tables = {table.name: table for table in schema.tables}
    functions = {function.name for function in schema.functions}
    relations = {
        "table": set(tables),
        "sequence": {sequence.name for sequence in schema.sequences},
        "function": {function.signature for function in schema.functions},
    }
    former = (former.grant for former in schema.former_grants)
    grants = [*schema.grants, *schema.creation_grants, *former]
    columns: list[tuple[str, Iterable[str]]] = [
        *((index.table, index.columns) for index in schema.indexes),
        *((trigger.table, trigger.columns) for trigger in schema.triggers),
        *((step.table, filter(None, [step.column])) for step in schema.data),
        *((grant.relation, grant.columns) for grant in grants if grant.kind == "table"),
    ]
    for grant in grants:
        if grant.relation not in relations[grant.kind]:
            raise ValueError(f"{grant.kind} {grant.relation} is not declared: {grant.sql}")
    for table, used in columns:
        if table not in tables:
            raise ValueError(f"the table {table} is not declared")
        for column in used:
            if column not in tables[table].columns:
                raise ValueError(f"the column {table}.{column} is not declared")
    for trigger in schema.triggers:
        if trigger.function not in functions:
            raise ValueError(f"the function {trigger.function} is not declared: {trigger.sql}")
