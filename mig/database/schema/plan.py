"""The steps from the schema that a database has to the declared one, each with the role to run it.

New objects belong to the *author*, the role that owns most of the declared tables; in an empty
database that is the current user. The owner of an existing table changes that table.

The order suits a person who runs the steps role by role: first those of a role that creates roles
and of the owner of the schema, then those of the owners of single tables, then those of the author.
Last come the optional ones, which a migration leaves out if the current user cannot run them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final

from mig.database.schema.catalog import (
    ADMIN_OPTION_SERVER_VERSION,
    ExistingIndex,
    ExistingSchema,
    StepRunner,
)
from mig.database.schema.declaration import (
    Function,
    Grant,
    Index,
    Membership,
    Schema,
    Table,
    Trigger,
)
from mig.database.schema.declaration import Sequence as DeclaredSequence
from mig.errors import SchemaError

SUPERUSER: Final = "a superuser"
ROLE_CREATOR: Final = "a superuser or a role with CREATEROLE"

MAX_SEQUENCE_START: Final = 2**53 - 2
"""Larger ids in a table do not move its new sequence: a number after them is not always exact."""


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How long a step waits for locks, how often it is tried, and how long it may run."""

    lock_timeout_seconds: int
    max_attempts: int
    run_timeout_seconds: int


# others queue behind a lock that a step waits for: it waits briefly, and often
TRANSACTIONAL_RETRY_POLICY: Final = RetryPolicy(
    lock_timeout_seconds=1, max_attempts=60, run_timeout_seconds=60
)
# an index built concurrently blocks nobody, and waits for every older transaction
CONCURRENT_RETRY_POLICY: Final = RetryPolicy(
    lock_timeout_seconds=300, max_attempts=3, run_timeout_seconds=7 * 24 * 3600
)


@dataclass(frozen=True, kw_only=True)
class Step:
    """A change that takes effect as a whole or not at all.

    ``description`` is for people; ``runner`` is the role that can run ``sql``. A step that
    ``creates_object`` also needs the privilege to create objects in the schema. A step with a
    ``purpose`` is optional: only what that names needs it.
    """

    description: str
    sql: str
    runner: StepRunner
    is_concurrent: bool = False
    creates_object: bool = False
    purpose: str = ""

    @property
    def is_refused(self) -> bool:
        """Whether the service needs the step, and the current user cannot run it."""
        return not (self.runner.is_usable or self.purpose)

    @property
    def psql_script(self) -> str:
        """The step as a script for psql, with the same transaction and time limit."""
        retry_policy = CONCURRENT_RETRY_POLICY if self.is_concurrent else TRANSACTIONAL_RETRY_POLICY
        body = f"{self.sql};" if self.is_concurrent else f"begin;\n{self.sql};\ncommit;"
        limit = f"set lock_timeout = '{retry_policy.lock_timeout_seconds}s';"
        return f"-- {self.description}\n{limit}\n{body}\n"


def format_script(steps: Sequence[Step]) -> str:
    """Return ``steps`` as a script for psql, with a comment above the steps of each role.

    A superuser can run the whole script, with the same result.
    """
    parts = []
    for (runner, purpose), group in groupby(steps, key=lambda step: (step.runner, step.purpose)):
        become = f"set role {runner.role};" if runner.role else "reset role;"
        only = f", only for {purpose}" if purpose else ""
        parts.append(f"-- as {runner.title}{only}:\n{become}\n")
        parts += [step.psql_script for step in group]
    return "\n".join(parts)


def plan_steps(schema: Schema, existing: ExistingSchema) -> list[Step]:
    """Return the steps from ``existing`` to ``schema``, in the order to run them.

    :raises SchemaError: when the database is not a MIG database.
    """
    return _Planner(schema, existing).plan_steps()


class _Planner:
    def __init__(self, schema: Schema, existing: ExistingSchema) -> None:
        self._schema = schema
        self._existing = existing
        self._author = self._choose_author()
        may_create = existing.is_superuser or existing.can_create_roles
        self._creator = StepRunner(title=ROLE_CREATOR, role="", is_usable=may_create)
        self._purposes = {role.name: role.purpose for role in schema.roles}
        self._new_roles = [role for role in schema.roles if role.name not in existing.roles]
        # an optional role comes last: until then nothing may name it
        present = {
            *existing.roles,
            *(role.name for role in self._new_roles if not role.purpose),
        }
        missing = [
            grant
            for grant in schema.grants
            if grant in existing.missing_grants or grant.role not in existing.roles
        ]
        self._grants = [grant for grant in missing if grant.role in present]
        self._optional_grants = [each for each in missing if self._is_optional_and_new(each.role)]
        created = [
            grant for grant in schema.creation_grants if not _find_object_owner(existing, grant)
        ]
        self._creation_grants = [grant for grant in created if grant.role in present]
        self._memberships = [
            each
            for each in schema.memberships
            if {each.role, each.member} <= {*present, *self._purposes}
            and (
                not {each.role, each.member} <= set(existing.roles)
                or each in existing.missing_memberships
            )
        ]

    def plan_steps(self) -> list[Step]:
        """Return the steps, in the order to run them."""
        if self._existing.is_empty:
            objects = [self._set_up_database()]
        else:
            objects = [
                *self._create_sequences(),
                *self._create_tables(),
                *self._create_functions(),
                *self._create_triggers(),
                *self._create_indexes(),
                *self._create_months(),
                *map(self._make_grant_step, self._grants),
                *self._revoke_former_grants(),
            ]
        steps = [
            *self._create_roles(),
            *self._grant_on_schema(objects),
            *self._sort_by_role(objects),
            *map(self._make_grant_step, self._optional_grants),
            *self._record_version(),
            *self._change_settings(),
        ]
        return sorted(steps, key=lambda step: bool(step.purpose))

    def _choose_author(self) -> StepRunner:
        owners = Counter(table.owner for table in self._existing.tables.values())
        if owners:
            return owners.most_common(1)[0][0]
        user = self._existing.user
        return user if user.role in self._existing.creators else self._existing.schema_owner

    def _sort_by_role(self, steps: Sequence[Step]) -> Iterator[Step]:
        """Yield the steps role by role, those of the author last."""
        runners = dict.fromkeys(step.runner for step in steps)
        runners.pop(self._author, None)
        for runner in [*runners, self._author]:
            yield from (step for step in steps if step.runner == runner)

    def _find_owner(self, table: str) -> StepRunner:
        existing = self._existing.tables.get(table)
        return existing.owner if existing else self._author

    def _set_up_database(self) -> Step:
        grants = [grant.sql for grant in (*self._grants, *self._creation_grants)]
        version = [_format_version_statement(self._schema)]
        return Step(
            description="set up an empty database",
            sql=";\n".join([*self._schema.objects, *grants, *version]),
            runner=self._author,
            creates_object=True,
        )

    def _create_roles(self) -> Iterator[Step]:
        for role in self._new_roles:
            yield Step(
                description=f"create role {role.name}",
                sql=role.sql,
                runner=self._creator,
                purpose=role.purpose,
            )
        for membership in self._memberships:
            yield Step(
                description=membership.sql,
                sql=membership.sql,
                runner=self._choose_membership_runner(membership),
                purpose=self._purposes.get(membership.role, ""),
            )

    def _choose_membership_runner(self, membership: Membership) -> StepRunner:
        role = self._existing.roles.get(membership.role)
        if role is None or self._existing.server < ADMIN_OPTION_SERVER_VERSION:
            return self._creator
        return StepRunner(
            title=f"a superuser or a role with ADMIN OPTION on {membership.role}",
            role="",
            is_usable=self._existing.is_superuser or role.is_administered,
        )

    def _change_settings(self) -> Iterator[Step]:
        superuser = StepRunner(title=SUPERUSER, role="", is_usable=self._existing.is_superuser)
        for setting in self._schema.settings:
            if setting in self._existing.missing_settings:
                yield Step(
                    description=setting.sql,
                    sql=setting.sql,
                    runner=superuser,
                    purpose=setting.purpose,
                )

    def _is_optional_and_new(self, role: str) -> bool:
        return bool(self._purposes.get(role)) and role not in self._existing.roles

    def _choose_granting_runner(self, owner: StepRunner, role: str) -> StepRunner:
        """Return the owner, who can grant nothing to a role that nobody has created."""
        is_lost = self._is_optional_and_new(role) and not self._creator.is_usable
        return replace(owner, is_usable=False) if is_lost else owner

    def _grant_on_schema(self, steps: Sequence[Step]) -> Iterator[Step]:
        """Yield the grants on the schema, to roles that create objects or may use them."""
        creators = dict.fromkeys(step.runner.role for step in steps if step.creates_object)
        for role in creators:
            if role not in self._existing.creators | {self._existing.schema_owner.role}:
                yield self._grant_schema("create", role)
        new = {role.name: self._existing.is_schema_public for role in self._new_roles}
        uses = new | {name: role.can_use_schema for name, role in self._existing.roles.items()}
        grants = (*self._schema.grants, *self._creation_grants)
        for role in dict.fromkeys(grant.role for grant in grants):
            if not uses.get(role, True):
                yield self._grant_schema("usage", role)

    def _grant_schema(self, privilege: str, role: str) -> Step:
        sql = f"grant {privilege} on schema {self._existing.schema} to {role}"
        return Step(
            description=sql,
            sql=sql,
            runner=self._choose_granting_runner(self._existing.schema_owner, role),
            purpose=self._purposes.get(role, ""),
        )

    def _create_sequences(self) -> Iterator[Step]:
        for sequence in self._schema.sequences:
            if sequence.name not in self._existing.sequences:
                yield self._create_sequence(sequence)

    def _create_sequence(self, sequence: DeclaredSequence) -> Step:
        sql = description = f"create sequence {sequence.name}"
        table = self._existing.tables.get(sequence.table)
        if table and table.columns.get(sequence.column) is False:
            # in a database of 2014 the administrator chose the ids; the sequence goes on after them
            used = f"{sequence.column} between 1 and {MAX_SEQUENCE_START}"
            last = f"coalesce(max(trunc({sequence.column})) filter (where {used}), 0)"
            sql += (
                f";\nselect setval('{sequence.name}', {last}::bigint + 1, false)"
                f" from {sequence.table}"
                f";\nalter table {sequence.table} alter column {sequence.column}"
                f" set default {sequence.default}"
            )
        return Step(
            description=description,
            sql=";\n".join([sql, *self._find_creation_grants("sequence", sequence.name)]),
            runner=self._find_owner(sequence.table),
            creates_object=True,
        )

    def _create_tables(self) -> Iterator[Step]:
        for table in self._schema.tables:
            if table.name not in self._existing.tables:
                data = self._find_data_statements(table.name, [""])
                grants = self._find_creation_grants("table", table.name)
                yield Step(
                    description=f"create table {table.name}",
                    sql=";\n".join([table.sql, *data, *grants]),
                    runner=self._author,
                    creates_object=True,
                )
            elif not table.is_fixed:
                has = self._existing.tables[table.name].columns
                if missing := [name for name in table.columns if name not in has]:
                    yield self._add_columns(table, missing)

    def _find_creation_grants(self, kind: str, relation: str) -> list[str]:
        """Return the grants on a new object, which are made in the step that creates it."""
        return [
            grant.sql
            for grant in self._creation_grants
            if (grant.kind, grant.relation) == (kind, relation)
        ]

    def _find_data_statements(self, table: str, columns: Sequence[str]) -> list[str]:
        return [
            step.sql for step in self._schema.data if step.table == table and step.column in columns
        ]

    def _add_columns(self, table: Table, names: Sequence[str]) -> Step:
        """Return one step that adds all missing columns, so that the table is locked only once."""
        for name in names:
            definition = table.columns[name]
            if "primary key" in definition or (
                "not null" in definition and "default" not in definition
            ):
                raise SchemaError(
                    f"the table {table.name} has no column {name}: this is not a MIG database"
                )
        added = ",\n    ".join(f"add column {name} {table.columns[name]}" for name in names)
        sql = [
            f"alter table {table.name}\n    {added}",
            *self._find_data_statements(table.name, names),
        ]
        return Step(
            description=f"add to {table.name}: {', '.join(names)}",
            sql=";\n".join(sql),
            runner=self._find_owner(table.name),
            creates_object=any("unique" in table.columns[name] for name in names),
        )

    def _create_functions(self) -> Iterator[Step]:
        for function in self._schema.functions:
            existing = self._existing.functions.get(function.signature)
            if not existing:
                yield self._create_function(
                    "create", function, self._choose_function_owner(function)
                )
            elif not existing.has_same_result or existing.definition != function.definition:
                yield self._create_function("replace", function, existing.owner)

    def _create_function(self, verb: str, function: Function, runner: StepRunner) -> Step:
        grants = self._find_creation_grants("function", function.signature)
        return Step(
            description=f"{verb} function {function.signature}",
            sql=";\n".join([function.sql, *grants]),
            runner=runner,
            creates_object=True,
        )

    def _choose_function_owner(self, function: Function) -> StepRunner:
        """Return who creates a new function.

        A trigger's function must exist before the trigger, so the role that creates the trigger
        also creates the function (docs/decisions/0003).
        """
        for trigger in self._schema.triggers:
            if trigger.function == function.name:
                return self._find_owner(trigger.table)
        return self._author

    def _create_triggers(self) -> Iterator[Step]:
        for trigger in self._schema.triggers:
            existing = self._existing.triggers.get((trigger.table, trigger.name))
            if not existing:
                yield self._create_trigger("create", trigger, [])
            elif (existing.kind, existing.columns) != (
                trigger.kind,
                trigger.columns,
            ) or not existing.is_plain:
                drop = f"drop trigger {trigger.name} on {trigger.table}"
                yield self._create_trigger("replace", trigger, [drop])

    def _create_trigger(self, verb: str, trigger: Trigger, before: list[str]) -> Step:
        return Step(
            description=f"{verb} trigger {trigger.name} on {trigger.table}",
            sql=";\n".join([*before, trigger.sql]),
            runner=self._find_owner(trigger.table),
        )

    def _create_indexes(self) -> Iterator[Step]:
        existing = self._existing.indexes
        # PostgreSQL builds no index of a partitioned table concurrently, and leaves none unfinished
        partitioned = {table.name for table in self._schema.tables if table.is_partitioned}
        for index in self._schema.indexes:
            is_concurrent = index.table not in partitioned
            owner = self._find_owner(index.table)
            if any(each.name == index.name and not each.is_valid for each in existing):
                yield Step(
                    description=f"drop the unfinished index {index.name}",
                    sql=f"drop index concurrently {index.name}",
                    runner=owner,
                    is_concurrent=True,
                )
            if not any(_is_equivalent(each, index) for each in existing):
                yield Step(
                    description=f"create index {index.name}",
                    sql=f"create index {'concurrently ' if is_concurrent else ''}{index.name}"
                    f" on {index.table} ({', '.join(index.columns)})",
                    runner=owner,
                    is_concurrent=is_concurrent,
                    creates_object=True,
                )

    def _create_months(self) -> Iterator[Step]:
        for months in self._schema.months:
            if months in self._existing.missing_months:
                yield Step(
                    description=f"create the months of {months.table}",
                    sql=months.sql,
                    runner=self._find_owner(months.table),
                    creates_object=True,
                )

    def _make_grant_step(self, grant: Grant) -> Step:
        owner = self._find_owner_of_granted(grant)
        return Step(
            description=grant.description,
            sql=grant.sql,
            runner=self._choose_granting_runner(owner, grant.role),
            purpose=self._purposes.get(grant.role, ""),
        )

    def _revoke_former_grants(self) -> Iterator[Step]:
        for former in self._schema.former_grants:
            grant = former.grant
            if grant not in self._existing.former_grants:
                continue
            # revoking a privilege on a table also revokes it on each column: in one transaction,
            # the role never lacks what is declared
            declared = [
                each.sql
                for each in self._schema.grants
                if (each.kind, each.relation, each.role, each.privilege)
                == (grant.kind, grant.relation, grant.role, grant.privilege)
            ]
            yield Step(
                description=grant.revoke_description,
                sql=";\n".join([grant.revoke_sql, *declared]),
                runner=self._find_owner_of_granted(grant),
            )

    def _find_owner_of_granted(self, grant: Grant) -> StepRunner:
        if owner := _find_object_owner(self._existing, grant):
            return owner
        if grant.kind == "function":
            functions = {function.signature: function for function in self._schema.functions}
            return self._choose_function_owner(functions[grant.relation])
        if grant.kind == "sequence":
            sequences = {sequence.name: sequence for sequence in self._schema.sequences}
            return self._find_owner(sequences[grant.relation].table)
        return self._find_owner(grant.relation)

    def _record_version(self) -> Iterator[Step]:
        if not self._existing.is_empty and self._existing.version != self._schema.version:
            yield Step(
                description=f"record schema version {self._schema.version}",
                sql=_format_version_statement(self._schema),
                runner=self._find_owner("mig_schema"),
            )


def _find_object_owner(existing: ExistingSchema, grant: Grant) -> StepRunner | None:
    """Return the owner of what ``grant`` is on, ``None`` if it does not exist."""
    if grant.kind == "function":
        function = existing.functions.get(grant.relation)
        return function.owner if function else None
    if grant.kind == "sequence":
        return existing.sequences.get(grant.relation)
    table = existing.tables.get(grant.relation)
    return table.owner if table else None


def _format_version_statement(schema: Schema) -> str:
    return f"insert into mig_schema (version) values ({schema.version:d})"  # noqa: S608


def _is_equivalent(existing: ExistingIndex, index: Index) -> bool:
    same = (existing.table, existing.columns) == (index.table, index.columns)
    return same and existing.is_valid and existing.is_plain
