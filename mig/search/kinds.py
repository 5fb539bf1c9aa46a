"""The kinds of search parameters: the values that each accepts, and its conditions."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar, Final, Generic, Literal, TypeVar

from whenever import Instant

from mig.errors import InvalidInputError
from mig.search.condition import Condition
from mig.search.order import SORT_COLUMNS, Order, PagePosition, make_cursor_error
from mig.search.target import MAX_TARGET_CHARACTERS, parse_target
from mig.values import (
    DURATION_PATTERN,
    MAX_ID,
    parse_duration,
    parse_id,
    parse_time,
    quote_if_short,
    suggest_name,
)

MAX_COUNT: Final = 2**63 - 1  # of PostgreSQL's bigint, the type of limit and offset
MAX_PATTERN_CHARACTERS: Final = 256
MAX_WILDCARDS: Final = 8
MAX_KEY_CHARACTERS: Final = 64
MAX_REPETITIONS: Final = 16
"""How many values a parameter may have, if it may have several."""
MAX_RELATIVE_DAYS: Final = 36_525
"""How long ago a relative time may be: 100 years."""

_WHOLE_NUMBER = re.compile(r"[0-9]{1,20}", re.ASCII)
_LITERAL: Final = r"(?:[^\\%\u0000]|\\[^%\u0000])*"
_PATTERN_PATTERN: Final = rf"^{_LITERAL}(?:\\?%{_LITERAL}){{0,{MAX_WILDCARDS}}}$"
"""An ILIKE pattern in which every backslash escapes a character."""
_CURSOR_ROW = re.compile(
    r"(NaN|-?[0-9]{1,1000}(?:\.[0-9]{1,100})?)(?::([1-9][0-9]{0,8}))?", re.ASCII
)

Value = TypeVar("Value")
JsonSchema = dict[str, object]


@dataclass(frozen=True, kw_only=True)
class ParseContext:
    """What the meaning of a value may depend on: the searched type, and the current time."""

    type: str
    now: Instant


class ParameterKind(Generic[Value]):
    """A kind of parameter: how its text is parsed, its JSON schema, and its condition.

    ``is_repeatable`` tells whether a parameter may have several values, any of which may match;
    everything else here is about one value.
    """

    is_repeatable: ClassVar[bool] = False

    @property
    def description(self) -> str:
        """What the value is, in words."""
        raise NotImplementedError

    def parse_text(self, name: str, text: str, context: ParseContext) -> Value:
        """Return the value of ``text``, which is not empty.

        :raises InvalidInputError: for any other text; the message names the parameter ``name`` and
            says what it accepts.
        """
        raise NotImplementedError

    def build_json_schema(self) -> JsonSchema:
        """Return the JSON schema of the value."""
        raise NotImplementedError

    def build_condition(self, table: str, sql: str, values: Sequence[Value]) -> Condition:
        """Return the condition that a parameter with ``values`` sets on the rows of ``table``.

        :param sql: the condition of the parameter, with one ``%s``.
        :param values: one value; if the parameter is repeatable, one or several.
        """
        return Condition(sql, tuple(values))

    def to_json_value(self, value: Value) -> object:
        """Return the value as the item "search parameters" repeats it."""
        return value

    def format_text(self, text: str, value: Value) -> str:
        """Return the text of a value for a later request, made from the text of this one."""
        return text


class IdKind(ParameterKind[int]):
    """An id of MIG."""

    @property
    def description(self) -> str:
        """What the value is, in words."""
        return "an id"

    def parse_text(self, name: str, text: str, context: ParseContext) -> int:
        """Return the id in ``text``."""
        return parse_id(name, text)

    def build_json_schema(self) -> JsonSchema:
        """Return the JSON schema of an id."""
        return {"type": "integer", "minimum": 1, "maximum": MAX_ID}


@dataclass(frozen=True)
class TimeKind(ParameterKind[Instant]):
    """A time, or how long before the current time it was.

    It may have nanoseconds, and is rounded to the microseconds of a column.
    """

    rounding: Literal["floor", "ceil"]

    @property
    def description(self) -> str:
        """What the value is, in words."""
        return "a time"

    def parse_text(self, name: str, text: str, context: ParseContext) -> Instant:
        """Return the time in ``text``."""
        if not text.startswith("-"):
            try:
                return parse_time(name, text)
            except InvalidInputError as reason:
                message = f"{reason}, or a time before now such as -7d{quote_if_short(text)}"
                raise InvalidInputError(message, name) from None
        try:
            duration = parse_duration(text[1:], can_be_zero=True)
        except ValueError:
            duration = timedelta.max
        if duration > timedelta(days=MAX_RELATIVE_DAYS):
            raise InvalidInputError(
                f"{name} must be a minus sign, then weeks, days, hours, minutes, seconds and"
                f" milliseconds in this order, at most {MAX_RELATIVE_DAYS} days, for example -1d12h"
                f"{quote_if_short(text)}",
                name,
            )
        return context.now.subtract(seconds=duration.total_seconds())

    def build_json_schema(self) -> JsonSchema:
        """Return the JSON schema of a time."""
        relative = {"pattern": f"^-{DURATION_PATTERN}$"}
        return {
            "type": "string",
            "anyOf": [{"format": "date-time"}, relative],
            "examples": ["2014-05-30T00:00:00-04:00", "-1d12h"],
        }

    def build_condition(self, table: str, sql: str, values: Sequence[Instant]) -> Condition:
        """Return the condition for a time, rounded so that no other rows match."""
        try:
            time = values[0].round("microsecond", mode=self.rounding).format_iso()
        except ValueError:  # rounding up left the year 9999, the last one of an Instant
            time = "10000-01-01T00:00:00Z"
        return Condition(sql, (time,))

    def to_json_value(self, value: Instant) -> object:
        """Return the time in RFC 3339."""
        return value.format_iso()

    def format_text(self, text: str, value: Instant) -> str:
        """Return the time in RFC 3339: that of a relative one would move with the clock."""
        return value.format_iso() if text.startswith("-") else text


class PatternKind(ParameterKind[str]):
    """An ILIKE pattern."""

    is_repeatable = True

    @property
    def description(self) -> str:
        """What the value is, in words."""
        return "a pattern"

    def parse_text(self, name: str, text: str, context: ParseContext) -> str:
        """Return the pattern."""
        # the time to match a pattern grows with every %
        if len(text) > MAX_PATTERN_CHARACTERS or text.count("%") > MAX_WILDCARDS:
            raise InvalidInputError(
                f"{name} must be an ILIKE pattern of at most {MAX_PATTERN_CHARACTERS} characters"
                f" with at most {MAX_WILDCARDS} %",
                name,
            )
        if (len(text) - len(text.rstrip("\\"))) % 2:
            raise InvalidInputError(
                f"{name} must not end with a single backslash, which escapes nothing", name
            )
        return text

    def build_json_schema(self) -> JsonSchema:
        """Return the JSON schema of a pattern."""
        return {
            "type": "string",
            "maxLength": MAX_PATTERN_CHARACTERS,
            "pattern": _PATTERN_PATTERN,
            "examples": ["%"],
        }

    def build_condition(self, table: str, sql: str, values: Sequence[str]) -> Condition:
        """Return the condition that the text ``sql`` matches one of several patterns."""
        if "%" in values:  # without a condition, rows without a value are found, too
            return Condition()
        if len(values) == 1:
            return Condition(f"{sql} ilike %s", tuple(values))
        return Condition(f"{sql} ilike any(%s)", (list(values),))


def make_literal_pattern(text: str) -> str | None:
    """Return a pattern that matches ``text`` alone, or ``None`` if it would be refused."""
    pattern = re.sub(r"([%_\\])", r"\\\1", text)
    too_long = len(pattern) > MAX_PATTERN_CHARACTERS or pattern.count("%") > MAX_WILDCARDS
    return None if too_long else pattern


@dataclass(frozen=True)
class StatusKind(PatternKind):
    """A pattern for a status, or a word for several statuses.

    ``words`` maps a table to its words, and each word to its statuses (docs/decisions/0013).
    """

    words: Mapping[str, Mapping[str, Sequence[str]]]

    def build_condition(self, table: str, sql: str, values: Sequence[str]) -> Condition:
        """Return the condition for the statuses of words, and for patterns."""
        words = self.words.get(table, {})
        statuses = [each for value in values for each in words.get(value.lower(), ())]
        patterns = [value for value in values if value.lower() not in words]
        if not statuses:
            return super().build_condition(table, sql, patterns)
        condition = Condition(f"{sql} = any(%s)", (statuses,))
        return condition | super().build_condition(table, sql, patterns) if patterns else condition


@dataclass(frozen=True, kw_only=True)
class MemberPattern:
    """An ILIKE pattern for the member ``key`` of a JSON object."""

    key: str
    pattern: str


class MemberPatternKind(ParameterKind[MemberPattern]):
    """An ILIKE pattern for a member of a JSON object, whose key ends the parameter's name."""

    _patterns = PatternKind()

    @property
    def description(self) -> str:
        """What the value is, in words."""
        return self._patterns.description

    def parse_text(self, name: str, text: str, context: ParseContext) -> MemberPattern:
        """Return the key in ``name``, with the pattern."""
        key = name.partition(".")[2]
        if not 1 <= len(key) <= MAX_KEY_CHARACTERS:
            raise InvalidInputError(
                f"{name} must end with one key of 1 to {MAX_KEY_CHARACTERS} characters", name
            )
        return MemberPattern(key=key, pattern=self._patterns.parse_text(name, text, context))

    def build_json_schema(self) -> JsonSchema:
        """Return the JSON schema of the pattern."""
        return self._patterns.build_json_schema()

    def build_condition(self, table: str, sql: str, values: Sequence[MemberPattern]) -> Condition:
        """Return the condition that the member ``sql``, with one ``%s`` for its key, matches."""
        [value] = values
        condition = self._patterns.build_condition(table, sql, (value.pattern,))
        if not condition.sql:
            return condition
        return Condition(condition.sql, (value.key, *condition.parameters))


@dataclass(frozen=True)
class ChoiceKind(ParameterKind[str]):
    """One of several words."""

    words: Collection[str]

    @property
    def description(self) -> str:
        """What the value is, in words."""
        *others, last = self.words
        return " or ".join(filter(None, (", ".join(others), last)))

    def parse_text(self, name: str, text: str, context: ParseContext) -> str:
        """Return the word."""
        if text in self.words:
            return text
        hint = suggest_name(text, self.words)
        raise InvalidInputError(
            f"{name} must be one of {', '.join(self.words)}{f'; {hint}' if hint else ''}", name
        )

    def build_json_schema(self) -> JsonSchema:
        """Return the JSON schema of the words."""
        return {"type": "string", "enum": list(self.words)}


class FlagKind(ParameterKind[bool]):
    """Either true or false."""

    _words = ChoiceKind(("true", "false"))

    @property
    def description(self) -> str:
        """What the value is, in words."""
        return self._words.description

    def parse_text(self, name: str, text: str, context: ParseContext) -> bool:
        """Return whether ``text`` is ``true``; it may also be ``false``."""
        return self._words.parse_text(name, text, context) == "true"

    def build_json_schema(self) -> JsonSchema:
        """Return the JSON schema of a boolean."""
        return {"type": "boolean"}

    def build_condition(self, table: str, sql: str, values: Sequence[bool]) -> Condition:
        """Return the condition, whose parameter is the text ``true`` or ``false``."""
        return Condition(sql, ("true" if values[0] else "false",))


@dataclass(frozen=True)
class CountKind(ParameterKind[int]):
    """A whole number from ``minimum`` to ``maximum``."""

    minimum: int
    maximum: int = MAX_COUNT

    @property
    def description(self) -> str:
        """What the value is, in words."""
        end = f" to {self.maximum}" if self.maximum < MAX_COUNT else ""
        return f"a whole number from {self.minimum}{end}"

    def parse_text(self, name: str, text: str, context: ParseContext) -> int:
        """Return the number in ``text``."""
        if _WHOLE_NUMBER.fullmatch(text) and self.minimum <= int(text) <= self.maximum:
            return int(text)
        raise InvalidInputError(
            f"{name} must be a whole number from {self.minimum} to {self.maximum}"
            f"{quote_if_short(text)}",
            name,
        )

    def build_json_schema(self) -> JsonSchema:
        """Return the JSON schema of the number."""
        return {"type": "integer", "minimum": self.minimum, "maximum": self.maximum}


class SortKind(ParameterKind[Order]):
    """An order of the rows of a type: a column, with ``-`` in front for descending."""

    @property
    def description(self) -> str:
        """What the value is, in words."""
        columns = "; ".join(
            f"{type_}s: {', '.join(column.name for column in columns)}"
            for type_, columns in SORT_COLUMNS.items()
        )
        return f"{columns}; with - in front for descending"

    def parse_text(self, name: str, text: str, context: ParseContext) -> Order:
        """Return the order of the searched type."""
        column_name = text.removeprefix("-")
        for column in SORT_COLUMNS[context.type]:
            if column.name == column_name:
                return Order(column=column, is_descending=text.startswith("-"))
        names = " or ".join(column.name for column in SORT_COLUMNS[context.type])
        raise InvalidInputError(
            f"{name} must be {names}, with - in front for descending, in a search of type"
            f" {context.type}{quote_if_short(text)}",
            name,
        )

    def build_json_schema(self) -> JsonSchema:
        """Return the JSON schema of the orders of all types."""
        names = dict.fromkeys(
            column.name for columns in SORT_COLUMNS.values() for column in columns
        )
        words = [sign + name for name in names for sign in ("", "-")]
        return {"type": "string", "enum": words, "examples": ["id", "-id"]}


class FieldsKind(ParameterKind[tuple[str, ...]]):
    """The names of fields of the records in an answer."""

    @property
    def description(self) -> str:
        """What the value is, in words."""
        return "names of fields, with commas between them"

    def parse_text(self, name: str, text: str, context: ParseContext) -> tuple[str, ...]:
        """Return the names; the format of the answer knows which ones there are."""
        return tuple(text.split(","))

    def build_json_schema(self) -> JsonSchema:
        """Return the JSON schema of the names."""
        return {"type": "string", "examples": ["id,name", "check.name,compliance"]}


class TargetKind(ParameterKind[str]):
    """A condition on agents in SQL, as the target of an action."""

    @property
    def description(self) -> str:
        """What the value is, in words."""
        return "a condition in SQL"

    def parse_text(self, name: str, text: str, context: ParseContext) -> str:
        """Return the condition."""
        return parse_target(text)

    def build_json_schema(self) -> JsonSchema:
        """Return the JSON schema of a condition."""
        return {"type": "string", "maxLength": MAX_TARGET_CHARACTERS}


class CursorKind(ParameterKind[PagePosition]):
    """The end of an earlier page, as in its link to the next one."""

    @property
    def description(self) -> str:
        """What the value is, in words."""
        return "as in a next link"

    def parse_text(self, name: str, text: str, context: ParseContext) -> PagePosition:
        """Return the position in ``text``."""
        # anything that the column may contain: NaN, fractions; the order decides about the key
        key, comma, end = text.rpartition(",")
        row = _CURSOR_ROW.fullmatch(end)
        if row is None:
            raise make_cursor_error()
        return PagePosition(key=key if comma else None, id=row[1], items=int(row[2] or 0))

    def build_json_schema(self) -> JsonSchema:
        """Return the JSON schema of a cursor."""
        return {"type": "string", "examples": ["2014-05-30 04:00:00+00,6019232265601776819"]}

    def to_json_value(self, value: PagePosition) -> object:
        """Return the position as text."""
        return str(value)
