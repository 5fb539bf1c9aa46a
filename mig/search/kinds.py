"""The kinds of search parameters: what each takes, and the condition that its value makes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Literal, TypeVar

from whenever import Instant

from mig.errors import InvalidInputError
from mig.search.condition import Condition
from mig.values import MAX_ID, parse_id, parse_time, suggest_name

MAX_COUNT: Final = 2**63 - 1
MAX_PATTERN_CHARACTERS: Final = 256
MAX_WILDCARDS: Final = 8

_WHOLE_NUMBER = re.compile(r"[0-9]{1,20}", re.ASCII)
_CURSOR_TIME = re.compile(
    r"-?infinity|[0-9]{4,6}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?\+00( BC)?",
    re.ASCII,
)
_CURSOR_ID = re.compile(r"NaN|-?[0-9]{1,1000}(\.[0-9]{1,100})?", re.ASCII)

Value = TypeVar("Value")
JsonSchema = dict[str, object]


class ParameterKind(Generic[Value]):
    """What a parameter takes: its text, its JSON schema, and its condition."""

    def parse_text(self, name: str, text: str) -> Value:
        """Return the value of *text*, which is not empty.

        :raises InvalidInputError: naming the parameter *name*, and saying what it takes.
        """
        raise NotImplementedError

    def build_json_schema(self) -> JsonSchema:
        """Return the JSON schema of the value."""
        raise NotImplementedError

    def build_condition(self, table: str, sql: str, value: Value) -> Condition:
        """Return what *value* demands of the rows of *table*.

        :param sql: the condition of the parameter, with one ``%s``.
        """
        return Condition(sql, (value,))

    def to_json_value(self, value: Value) -> object:
        """Return the value as the item "search parameters" repeats it."""
        return value


class IdKind(ParameterKind[int]):
    """An id of MIG."""

    def parse_text(self, name: str, text: str) -> int:
        return parse_id(name, text)

    def build_json_schema(self) -> JsonSchema:
        return {"type": "integer", "minimum": 1, "maximum": MAX_ID}


@dataclass(frozen=True)
class TimeKind(ParameterKind[Instant]):
    """A time, of which a column holds microseconds: *rounding* says which one is compared."""

    rounding: Literal["floor", "ceil"]

    def parse_text(self, name: str, text: str) -> Instant:
        return parse_time(name, text)

    def build_json_schema(self) -> JsonSchema:
        return {"type": "string", "format": "date-time"}

    def build_condition(self, table: str, sql: str, value: Instant) -> Condition:
        try:
            time = value.round("microsecond", mode=self.rounding).format_iso()
        except ValueError:  # the last microsecond of the year 9999, rounded up
            time = "10000-01-01T00:00:00Z"
        return Condition(sql, (time,))

    def to_json_value(self, value: Instant) -> object:
        return value.format_iso()


class PatternKind(ParameterKind[str]):
    """An ILIKE pattern."""

    def parse_text(self, name: str, text: str) -> str:
        if len(text) > MAX_PATTERN_CHARACTERS or text.count("%") > MAX_WILDCARDS:
            raise InvalidInputError(
                f"{name} must be an ILIKE pattern of at most {MAX_PATTERN_CHARACTERS} letters"
                f" and {MAX_WILDCARDS} %",
                name,
            )
        if (len(text) - len(text.rstrip("\\"))) % 2:
            raise InvalidInputError(
                f"{name} must not end in a single backslash, which escapes nothing", name
            )
        return text

    def build_json_schema(self) -> JsonSchema:
        return {"type": "string", "maxLength": MAX_PATTERN_CHARACTERS}

    def build_condition(self, table: str, sql: str, value: str) -> Condition:
        return Condition() if value == "%" else Condition(sql, (value,))


@dataclass(frozen=True)
class StatusKind(PatternKind):
    """A pattern for a status, or a word that stands for several statuses of a table's rows."""

    words: Mapping[str, Mapping[str, Sequence[str]]]

    def build_condition(self, table: str, sql: str, value: str) -> Condition:
        statuses = self.words.get(table, {}).get(value.lower())
        if statuses:
            return Condition("status = any(%s)", (list(statuses),))
        return super().build_condition(table, sql, value)


@dataclass(frozen=True)
class ChoiceKind(ParameterKind[str]):
    """One of some words."""

    words: Sequence[str]

    def parse_text(self, name: str, text: str) -> str:
        if text in self.words:
            return text
        hint = suggest_name(text, self.words)
        raise InvalidInputError(
            f"{name} must be one of {', '.join(self.words)}{f'; {hint}' if hint else ''}", name
        )

    def build_json_schema(self) -> JsonSchema:
        return {"type": "string", "enum": list(self.words)}


class FlagKind(ParameterKind[bool]):
    """True or false."""

    _words = ChoiceKind(("true", "false"))

    def parse_text(self, name: str, text: str) -> bool:
        return self._words.parse_text(name, text) == "true"

    def build_json_schema(self) -> JsonSchema:
        return {"type": "boolean"}

    def build_condition(self, table: str, sql: str, value: bool) -> Condition:
        return Condition(sql, ("true" if value else "false",))


@dataclass(frozen=True)
class CountKind(ParameterKind[int]):
    """A whole number from *minimum* on."""

    minimum: int

    def parse_text(self, name: str, text: str) -> int:
        if _WHOLE_NUMBER.fullmatch(text) and self.minimum <= int(text) <= MAX_COUNT:
            return int(text)
        raise InvalidInputError(
            f"{name} must be a whole number from {self.minimum} to {MAX_COUNT}", name
        )

    def build_json_schema(self) -> JsonSchema:
        return {"type": "integer", "minimum": self.minimum, "maximum": MAX_COUNT}


@dataclass(frozen=True, kw_only=True)
class PagePosition:
    """Where a page ended: the sort time as PostgreSQL writes it, and the id, of its last row."""

    time: str
    id: str

    def __str__(self) -> str:
        return f"{self.time},{self.id}"


class CursorKind(ParameterKind[PagePosition]):
    """Where an earlier page ended, as its next link says."""

    def parse_text(self, name: str, text: str) -> PagePosition:
        time, _, row_id = text.rpartition(",")
        if _CURSOR_TIME.fullmatch(time) and _CURSOR_ID.fullmatch(row_id):
            return PagePosition(time=time, id=row_id)
        raise InvalidInputError(f"{name} must be taken from the next link of an earlier page", name)

    def build_json_schema(self) -> JsonSchema:
        return {"type": "string"}

    def to_json_value(self, value: PagePosition) -> object:
        return str(value)
