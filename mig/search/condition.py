"""Conditions in SQL, with their parameters."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Condition:
    """A condition in SQL, with its parameters; an empty one is true for every row."""

    sql: str = ""
    parameters: tuple[object, ...] = ()

    def __and__(self, other: Condition) -> Condition:
        if not self.sql or not other.sql:
            return self if self.sql else other
        return Condition(f"{self.sql} and {other.sql}", self.parameters + other.parameters)

    def __or__(self, other: Condition) -> Condition:
        if not self.sql or not other.sql:
            return Condition()
        return Condition(f"({self.sql} or {other.sql})", self.parameters + other.parameters)

    def negate(self) -> Condition:
        """Return the condition that this one, which must not be empty, is false."""
        return Condition(f"not ({self.sql})", self.parameters)

    def build_where_clause(self) -> str:
        """Return the ``where`` clause, empty for an empty condition."""
        return f" where {self.sql}" if self.sql else ""
