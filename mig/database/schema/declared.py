"""What the database must have, read from the SQL that sets up an empty one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final

VERSION: Final = 2
"""The schema that this program needs. Up by one whenever the SQL or the grants change."""

API_ROLE: Final = "migapi"

SHARED: Final = ("agents", "actions", "commands", "investigators", "signatures")
"""The tables that the API reads by column; any other one is left alone where it exists."""

_SCHEDULERS_OWN = "privatekey"
_COMMENT = re.compile(r"--.*\n")
_TABLE = re.compile(r"create table (\w+) \((.+)\)", re.DOTALL)
_INDEX = re.compile(r"create index (\w+) on (\w+) \(([\w, ]+)\)")
_SEQUENCE = re.compile(r"create sequence (\w+)")
_CONSTRAINTS = ("unique (", "primary key (", "foreign key (", "check (")


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table; *columns* are the definitions, without the name, by name."""

    name: str
    columns: dict[str, str]
    sql: str


@dataclass(frozen=True, kw_only=True)
class Index:
    """An index, ascending and over a whole table."""

    name: str
    table: str
    columns: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Grant:
    """A right of the API's role on one table, some columns of one, or one sequence."""

    privilege: str
    relation: str
    columns: tuple[str, ...] = ()
    kind: str = "table"

    @property
    def sql(self) -> str:
        columns = f" ({', '.join(self.columns)})" if self.columns else ""
        return f"grant {self.privilege}{columns} on {self.kind} {self.relation} to {API_ROLE}"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The whole schema; *sql* is the text that makes it in an empty database."""

    sql: str
    sequences: tuple[str, ...]
    tables: tuple[Table, ...]
    indexes: tuple[Index, ...]

    @property
    def grants(self) -> Iterator[Grant]:
        """The API reads all but the scheduler's private key, and writes what it must."""
        for table in self.tables:
            if table.name != "investigators":
                yield Grant(privilege="select", relation=table.name)
                continue
            readable = tuple(name for name in table.columns if name != _SCHEDULERS_OWN)
            yield Grant(privilege="select", relation=table.name, columns=readable)
            yield Grant(privilege="insert", relation=table.name, columns=readable)
            yield Grant(
                privilege="update",
                relation=table.name,
                columns=("status", "lastmodified", "permissions", "apikey", "apisalt"),
            )
        yield Grant(privilege="insert", relation="actions")
        yield Grant(privilege="insert", relation="signatures")
        yield Grant(privilege="insert", relation="submissions")
        yield Grant(privilege="update", relation="submissions", columns=("handedover", "document"))
        for sequence in self.sequences:
            yield Grant(privilege="usage", relation=sequence, kind="sequence")


@cache
def wanted() -> Wanted:
    """The schema of the SQL files of this package."""
    folder = resources.files("mig.database.schema")
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".sql")), key=lambda f: f.name)
    return read("\n".join(file.read_text(encoding="utf-8") for file in files))


def read(sql: str) -> Wanted:
    """The schema that *sql* makes.

    :raises ValueError: for a statement of a kind that could not be compared with a database.
    """
    sequences, tables, indexes = [], [], []
    for statement in filter(None, map(str.strip, _COMMENT.sub("\n", sql).split(";"))):
        if found := _TABLE.fullmatch(statement):
            tables.append(Table(name=found[1], columns=_columns(found[2]), sql=statement))
        elif found := _INDEX.fullmatch(statement):
            columns = tuple(found[3].split(", "))
            indexes.append(Index(name=found[1], table=found[2], columns=columns))
        elif found := _SEQUENCE.fullmatch(statement):
            sequences.append(found[1])
        else:
            raise ValueError(f"no statement for a schema that is compared: {statement}")
    return Wanted(
        sql=sql.rstrip(),
        sequences=tuple(sequences),
        tables=tuple(tables),
        indexes=tuple(indexes),
    )


def _columns(body: str) -> dict[str, str]:
    columns = {}
    for line in filter(None, (line.strip().removesuffix(",") for line in body.splitlines())):
        if not line.startswith(_CONSTRAINTS):
            name, definition = line.split(maxsplit=1)
            columns[name] = definition
    return columns
