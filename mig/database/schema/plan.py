"""The steps from what a database has to what is declared, each with the role that runs it.

What is new belongs to the *author*, the role that owns most of the declared tables; in an empty
database that is the current user. A change of an existing table is its owner's.

The order serves a person who runs them role by role: first what managers of roles and the owner of
the schema must do, then the owners of single tables, then the author.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from mig.database.schema.catalog import (
    ADMIN_OPTION_SERVER,
    Found,
    FoundIndex,
    Runner,
)
from mig.database.schema.declared import (
    Function,
    Grant,
    Index,
    Membership,
    Table,
    Trigger,
    Wanted,
)
from mig.database.schema.declared import Sequence as DeclaredSequence
from mig.errors import SchemaError

ROLE_CREATOR: Final = "a superuser or a role with CREATEROLE"


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a step waits for others' locks, how often it tries, and how long it may run."""

    lock_seconds: int
    attempts: int
    run_seconds: int


BRIEF: Final = Patience(lock_seconds=1, attempts=60, run_seconds=60)
CONCURRENT: Final = Patience(lock_seconds=300, attempts=3, run_seconds=7 * 24 * 3600)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One change, all or nothing: *what* for people, its SQL, and who can run it.

    One that *creates* an object needs the right to do so in the schema, too.
    """

    what: str
    sql: str
    runner: Runner
    concurrent: bool = False
    creates: bool = False

    @property
    def script(self) -> str:
        """The step for psql, as it is run here."""
        patience = CONCURRENT if self.concurrent else BRIEF
        body = f"{self.sql};" if self.concurrent else f"begin;\n{self.sql};\ncommit;"
        return f"-- {self.what}\nset lock_timeout = '{patience.lock_seconds}s';\n{body}\n"


def format_script(steps: Sequence[Step]) -> str:
    """Return *steps* as SQL for psql, those of one role together, below a comment with its name.

    A superuser can run all of it at once, with the same result.
    """
    parts = []
    for runner, group in groupby(steps, key=lambda step: step.runner):
        become = f"set role {runner.role};" if runner.role else "reset role;"
        parts.append(f"-- as {runner.title}:\n{become}\n")
        parts += [step.script for step in group]
    return "\n".join(parts)


def make_plan(schema: Wanted, found: Found) -> list[Step]:
    """Return the steps from *found* to *schema*, in their order.

    :raises SchemaError: when the database is not one of MIG's.
    """
    return _Planner(schema, found).steps()


class _Planner:
    def __init__(self, schema: Wanted, found: Found) -> None:
        self._schema = schema
        self._found = found
        self._author = self._choose_author()
        self._new_roles = [role for role in schema.roles if role.name not in found.roles]
        present = {*found.roles, *(role.name for role in self._new_roles)}
        self._grants = [
            grant
            for grant in schema.grants
            if grant.role in present
            and (grant.role not in found.roles or grant in found.missing_grants)
        ]
        self._memberships = [
            each
            for each in schema.memberships
            if {each.role, each.member} <= present
            and (
                not {each.role, each.member} <= set(found.roles)
                or each in found.missing_memberships
            )
        ]

    def steps(self) -> list[Step]:
        if self._found.empty:
            objects = [self._set_up()]
        else:
            objects = [
                *self._create_sequences(),
                *self._create_tables(),
                *self._create_functions(),
                *self._create_triggers(),
                *self._create_indexes(),
                *map(self._grant, self._grants),
            ]
        return [
            *self._create_roles(),
            *self._grant_on_schema(objects),
            *self._sort(objects),
            *self._note_version(),
        ]

    def _choose_author(self) -> Runner:
        owners = Counter(table.owner for table in self._found.tables.values())
        if owners:
            return owners.most_common(1)[0][0]
        user = self._found.user
        return user if user.role in self._found.creators else self._found.schema_owner

    def _sort(self, steps: Sequence[Step]) -> Iterator[Step]:
        """Put the steps of one role together; the author's come last."""
        runners = dict.fromkeys(step.runner for step in steps)
        runners.pop(self._author, None)
        for runner in [*runners, self._author]:
            yield from (step for step in steps if step.runner == runner)

    def _owner(self, table: str) -> Runner:
        found = self._found.tables.get(table)
        return found.owner if found else self._author

    def _set_up(self) -> Step:
        grants = [grant.sql for grant in self._grants]
        version = [_version_statement(self._schema)]
        return Step(
            what="set up an empty database",
            sql=";\n".join([*self._schema.objects, *grants, *version]),
            runner=self._author,
            creates=True,
        )

    def _create_roles(self) -> Iterator[Step]:
        found = self._found
        may_create = found.superuser or found.creates_roles
        creator = Runner(title=ROLE_CREATOR, role="", usable=may_create)
        for role in self._new_roles:
            yield Step(what=f"create role {role.name}", sql=role.sql, runner=creator)
        for membership in self._memberships:
            granting = self._membership_runner(membership, creator)
            yield Step(what=membership.sql, sql=membership.sql, runner=granting)

    def _membership_runner(self, membership: Membership, creator: Runner) -> Runner:
        role = self._found.roles.get(membership.role)
        if role is None or self._found.server < ADMIN_OPTION_SERVER:
            return creator
        return Runner(
            title=f"a superuser or a role with ADMIN OPTION on {membership.role}",
            role="",
            usable=self._found.superuser or role.administered,
        )

    def _grant_on_schema(self, steps: Sequence[Step]) -> Iterator[Step]:
        """Let those who create objects do so, and those who have a privilege reach its object."""
        wanting = dict.fromkeys(step.runner.role for step in steps if step.creates)
        for role in wanting:
            if role not in self._found.creators | {self._found.schema_owner.role}:
                yield self._grant_schema("create", role)
        new = {role.name: self._found.schema_used_by_all for role in self._new_roles}
        uses = new | {name: role.uses_schema for name, role in self._found.roles.items()}
        for role in dict.fromkeys(grant.role for grant in self._schema.grants):
            if not uses.get(role, True):
                yield self._grant_schema("usage", role)

    def _grant_schema(self, privilege: str, role: str) -> Step:
        sql = f"grant {privilege} on schema {self._found.schema} to {role}"
        return Step(what=sql, sql=sql, runner=self._found.schema_owner)

    def _create_sequences(self) -> Iterator[Step]:
        for sequence in self._schema.sequences:
            if sequence.name not in self._found.sequences:
                yield self._create_sequence(sequence)

    def _create_sequence(self, sequence: DeclaredSequence) -> Step:
        sql = what = f"create sequence {sequence.name}"
        table = self._found.tables.get(sequence.table)
        if table and table.columns.get(sequence.column) is False:
            sql += (
                f";\nalter table {sequence.table} alter column {sequence.column}"
                f" set default {sequence.default}"
            )
        return Step(what=what, sql=sql, runner=self._owner(sequence.table), creates=True)

    def _create_tables(self) -> Iterator[Step]:
        for table in self._schema.tables:
            if table.name not in self._found.tables:
                yield Step(
                    what=f"create table {table.name}",
                    sql=";\n".join([table.sql, *self._data(table.name, [""])]),
                    runner=self._author,
                    creates=True,
                )
            elif not table.fixed:
                has = self._found.tables[table.name].columns
                if missing := [name for name in table.columns if name not in has]:
                    yield self._add_columns(table, missing)

    def _data(self, table: str, columns: Sequence[str]) -> list[str]:
        return [
            step.sql for step in self._schema.data if step.table == table and step.column in columns
        ]

    def _add_columns(self, table: Table, names: Sequence[str]) -> Step:
        """All new columns of a table at once: its writers step aside only once."""
        for name in names:
            definition = table.columns[name]
            if "primary key" in definition or (
                "not null" in definition and "default" not in definition
            ):
                raise SchemaError(
                    f"the table {table.name} has no column {name}: this is no database of MIG"
                )
        added = ",\n    ".join(f"add column {name} {table.columns[name]}" for name in names)
        sql = [f"alter table {table.name}\n    {added}", *self._data(table.name, names)]
        return Step(
            what=f"add to {table.name}: {', '.join(names)}",
            sql=";\n".join(sql),
            runner=self._owner(table.name),
            creates=any("unique" in table.columns[name] for name in names),
        )

    def _create_functions(self) -> Iterator[Step]:
        for function in self._schema.functions:
            found = self._found.functions.get(function.signature)
            if not found:
                yield self._create_function("create", function, self._function_owner(function))
            elif not found.same_result or found.definition != function.definition:
                yield self._create_function("replace", function, found.owner)

    def _create_function(self, verb: str, function: Function, runner: Runner) -> Step:
        what = f"{verb} function {function.signature}"
        return Step(what=what, sql=function.sql, runner=runner, creates=True)

    def _function_owner(self, function: Function) -> Runner:
        """A new function of a trigger is made by who makes the trigger: it needs the function."""
        for trigger in self._schema.triggers:
            if trigger.function == function.name:
                return self._owner(trigger.table)
        return self._author

    def _create_triggers(self) -> Iterator[Step]:
        for trigger in self._schema.triggers:
            found = self._found.triggers.get((trigger.table, trigger.name))
            if not found:
                yield self._create_trigger("create", trigger, [])
            elif (found.kind, found.columns) != (trigger.kind, trigger.columns) or not found.plain:
                drop = f"drop trigger {trigger.name} on {trigger.table}"
                yield self._create_trigger("replace", trigger, [drop])

    def _create_trigger(self, verb: str, trigger: Trigger, before: list[str]) -> Step:
        return Step(
            what=f"{verb} trigger {trigger.name} on {trigger.table}",
            sql=";\n".join([*before, trigger.sql]),
            runner=self._owner(trigger.table),
        )

    def _create_indexes(self) -> Iterator[Step]:
        found = self._found.indexes
        for index in self._schema.indexes:
            owner = self._owner(index.table)
            if any(each.name == index.name and not each.valid for each in found):
                yield Step(
                    what=f"drop the unfinished index {index.name}",
                    sql=f"drop index concurrently {index.name}",
                    runner=owner,
                    concurrent=True,
                )
            if not any(_serves(each, index) for each in found):
                yield Step(
                    what=f"create index {index.name}",
                    sql=f"create index concurrently {index.name} on {index.table}"
                    f" ({', '.join(index.columns)})",
                    runner=owner,
                    concurrent=True,
                    creates=True,
                )

    def _grant(self, grant: Grant) -> Step:
        return Step(what=grant.what, sql=grant.sql, runner=self._owner_of_granted(grant))

    def _owner_of_granted(self, grant: Grant) -> Runner:
        if grant.kind == "function":
            if found := self._found.functions.get(grant.relation):
                return found.owner
            functions = {function.signature: function for function in self._schema.functions}
            return self._function_owner(functions[grant.relation])
        if grant.kind == "sequence":
            if owner := self._found.sequences.get(grant.relation):
                return owner
            sequences = {sequence.name: sequence for sequence in self._schema.sequences}
            return self._owner(sequences[grant.relation].table)
        return self._owner(grant.relation)

    def _note_version(self) -> Iterator[Step]:
        if not self._found.empty and self._found.version != self._schema.version:
            yield Step(
                what=f"note schema version {self._schema.version}",
                sql=_version_statement(self._schema),
                runner=self._owner("mig_schema"),
            )


def _version_statement(schema: Wanted) -> str:
    return f"insert into mig_schema (version) values ({schema.version:d})"  # noqa: S608


def _serves(found: FoundIndex, index: Index) -> bool:
    same = (found.table, found.columns) == (index.table, index.columns)
    return same and found.valid and found.plain
