"""Statements that are asked often: each connection has PostgreSQL plan them once."""

from __future__ import annotations

from collections.abc import Mapping


class Prepared:
    """A statement with a name of its own in this program.

    :param sql: the statement; parameters stand in it as ``%(name)s``.
    :param types: the PostgreSQL types of the parameters, by name.
    """

    def __init__(self, name: str, sql: str, types: Mapping[str, str]) -> None:
        numbers = {parameter: f"${n}" for n, parameter in enumerate(types, 1)}
        given = ", ".join(f"%({parameter})s" for parameter in types)
        self.name = name
        self.prepare = f"prepare {name} ({', '.join(types.values())}) as {sql % numbers}"
        self.execute = f"execute {name} ({given})"
