"""What the formats with one line for each record have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mig.formats.format import ActionFields, FormatOptions
from mig.hypermedia.urls import Urls
from mig.model.fields import list_fields


class RowFormat:
    """A format with a line for each record, which consists of fields.

    A line is the value of each field after its mark, and then the end. The parts of a compliance
    item are consecutive fields, so that a line is made of parts that are encoded once.

    :param marks: by name, what comes before the value of each field, in the order of the record.
    :param end: what comes after the last value, before ``line_end``.
    :param encode_value: returns the bytes of a value.
    """

    is_paged = False
    separator = b""
    max_items = None

    def __init__(
        self,
        urls: Urls,
        options: FormatOptions,
        *,
        marks: Mapping[str, bytes],
        end: bytes,
        line_end: bytes,
        encode_value: Callable[[object], bytes],
    ) -> None:
        self._urls = urls
        self._options = options
        fields = list_fields(options.record)
        self._readers = [(marks[field.name], field.read) for field in fields if field.name in marks]
        self._marks = marks
        self._end = end
        fields_of_command = {"link": b"link", "timestamp": b"time", "utctimestamp": b"time"}
        self._item_tail = b"".join(
            b"%b%%(%b)b" % (marks[name], key)  # no mark contains a %
            for name, key in fields_of_command.items()
            if name in marks
        )
        self._item_tail += end + line_end
        self._encode_value = encode_value

    def _encode_fields(self, record: object) -> bytes:
        """Return the line of a record, without its end."""
        encode = self._encode_value
        parts = [part for mark, read in self._readers for part in (mark, encode(read(record)))]
        return b"".join(parts) + self._end

    def _encode_values(self, values: Mapping[str, object]) -> bytes:
        """Return the part of a line with those of the values that it has; they are in its order."""
        marks, encode = self._marks, self._encode_value
        return b"".join(
            [marks[name] + encode(value) for name, value in values.items() if name in marks]
        )

    def make_check_encoder(
        self, *, name: str, type_: str, value: str, compliance: bool
    ) -> Callable[[str], bytes]:
        """Return a function that encodes the fields from ``check.location`` to ``compliance``."""
        rest = self._encode_values(
            {
                "check.name": name,
                "check.test.type": type_,
                "check.test.value": value,
                "compliance": compliance,
            }
        )
        if "check.location" not in self._marks:
            return lambda location: rest
        # local names are faster, and some reports call this for each item
        mark, encode = self._marks["check.location"], self._encode_value
        return lambda location: mark + encode(location) + rest

    def encode_action_part(self, action: ActionFields) -> bytes:
        """Return the fields from ``policy.level`` to ``check.description``."""
        return self._encode_values(
            {
                "policy.level": action.policy.level,
                "policy.name": action.policy.name,
                "policy.url": action.policy.url,
                "check.ref": action.ref,
                "check.description": action.description,
            }
        )

    def encode_agent_part(self, target: str) -> bytes:
        """Return the field ``target``."""
        return self._encode_values({"target": target})

    def encode_command_parts(
        self, link: str, agent: bytes, action: bytes, timestamp: str
    ) -> tuple[bytes, bytes]:
        """Return the fields before and after those of the check."""
        encode = self._encode_value
        return agent + action, self._item_tail % {b"link": encode(link), b"time": encode(timestamp)}
