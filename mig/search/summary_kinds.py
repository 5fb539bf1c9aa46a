"""The kinds of parameters of a summary."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from mig.compliance.grouping import GROUP_NAMES, TAG
from mig.errors import InvalidInputError
from mig.search.kinds import (
    MAX_KEY_CHARACTERS,
    MAX_RELATIVE_DAYS,
    JsonSchema,
    ParameterKind,
    ParseContext,
)
from mig.values import DURATION_PATTERN, parse_duration, quote_if_short, suggest_name

MAX_NAMES: Final = 2
_NAME: Final = "(?:{})".format(
    "|".join(
        f"tag\\.[^,]{{1,{MAX_KEY_CHARACTERS}}}" if "." in name else name for name in GROUP_NAMES
    )
)


class GroupByKind(ParameterKind[tuple[str, ...]]):
    """What the items of a summary are grouped by."""

    @property
    def description(self) -> str:
        """What the value is, in words."""
        return f"one or two, with a comma between them, of {', '.join(GROUP_NAMES)}"

    def parse_text(self, name: str, text: str, context: ParseContext) -> tuple[str, ...]:
        """Return the names."""
        names = tuple(text.split(","))
        for each in names:
            is_tag = each.startswith(TAG) and len(each) <= len(TAG) + MAX_KEY_CHARACTERS
            if (each not in GROUP_NAMES and not is_tag) or each == TAG:
                hint = suggest_name(each, GROUP_NAMES, f"they are {', '.join(GROUP_NAMES)}")
                raise InvalidInputError(
                    f"{name} must be one or two names with a comma between them"
                    f"{quote_if_short(each)}; {hint}",
                    name,
                )
        if len(names) > MAX_NAMES or len(set(names)) < len(names):
            raise InvalidInputError(f"{name} must be one name, or two different ones", name)
        return names

    def build_json_schema(self) -> JsonSchema:
        """Return the JSON schema of the names."""
        return {
            "type": "string",
            "pattern": f"^{_NAME}(,{_NAME})?$",
            "examples": ["policy,check", "os", "tag.operator,day"],
        }

    def to_json_value(self, value: tuple[str, ...]) -> object:
        """Return the names as text."""
        return ",".join(value)


class AgeKind(ParameterKind[timedelta]):
    """How long ago something may have been."""

    @property
    def description(self) -> str:
        """What the value is, in words."""
        return "a duration such as 30d or 1d12h"

    def parse_text(self, name: str, text: str, context: ParseContext) -> timedelta:
        """Return the duration in ``text``."""
        try:
            duration = parse_duration(text)
        except ValueError:
            duration = timedelta.max
        if duration > timedelta(days=MAX_RELATIVE_DAYS):
            raise InvalidInputError(
                f"{name} must be weeks, days, hours, minutes, seconds and milliseconds in this"
                f" order, more than nothing and at most {MAX_RELATIVE_DAYS} days, for example 30d"
                f"{quote_if_short(text)}",
                name,
            )
        return duration

    def build_json_schema(self) -> JsonSchema:
        """Return the JSON schema of a duration."""
        return {"type": "string", "pattern": f"^{DURATION_PATTERN}$", "examples": ["30d", "1d12h"]}
