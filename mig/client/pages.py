"""Records of Collection+JSON documents, and the pages of a search."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Generic, TypeVar

import msgspec

from mig.client.errors import (
    IncompleteResponseError,
    InvalidResponseError,
    UnreadableRecordsError,
)
from mig.client.reading import CollectionReader
from mig.client.records import JsonValue, Record
from mig.model.record import UnreadableRecord
from mig.model.search import SearchParameters

RecordType = TypeVar("RecordType", bound=Record)
AnyType = TypeVar("AnyType")

_MAX_KEPT_UNREADABLE: Final = 1_000
_ORIGINAL_MEDIA_TYPE: Final = "application/json"


def convert(value: JsonValue, type_: type[AnyType]) -> AnyType:
    """Return decoded JSON as ``type_``.

    :raises InvalidResponseError: when it is something else.
    """
    try:
        return msgspec.convert(value, type_)
    except (msgspec.ValidationError, UnicodeError) as reason:  # half a surrogate pair is not text
        raise InvalidResponseError(f"the answer cannot be read: {reason}") from None


def convert_record(value: JsonValue, record: type[RecordType]) -> RecordType:
    """Return decoded JSON as a record; a member that is null is one that was left out.

    :raises InvalidResponseError: when it is something else.
    """
    return convert(_drop_nulls(value), record)


def _drop_nulls(value: JsonValue) -> JsonValue:
    if not isinstance(value, dict):
        return value
    members = {name: member for name, member in value.items() if member is not None}
    for name in ("action", "agent"):  # of a command
        if name in members:
            members[name] = _drop_nulls(members[name])
    return members


def list_data(items: Sequence[JsonValue]) -> Iterator[tuple[str, JsonValue]]:
    """Yield name and value of all data of some items.

    :raises InvalidResponseError: when they are not items of Collection+JSON.
    """
    try:
        for item in items:
            for data in item["data"] or ():
                yield str(data["name"]), data["value"]
    except (KeyError, TypeError):
        raise InvalidResponseError("an item of the answer has no data") from None


class _Link(msgspec.Struct):
    href: str
    rel: str = ""


class _SearchParameters(msgspec.Struct):
    limit: int | None = None


class NextPages:
    """The links to next pages that a search follows, which must not lead to a page again.

    Brent's algorithm finds a cycle of any length with one URL kept.
    """

    def __init__(self) -> None:
        self._kept: str | None = None
        self._count = 0
        self._keep_at = 1

    def check(self, following: str | None) -> str | None:
        """Return the URL of the next page.

        :raises InvalidResponseError: when the pages lead back to one before: such a search would
            never end.
        """
        if following is None:
            return None
        if following == self._kept:
            raise InvalidResponseError("the link to the next page leads back to a page before")
        self._count += 1
        if self._count == self._keep_at:
            self._kept = following
            self._keep_at *= 2
        return following


def find_next(members: Mapping[str, JsonValue]) -> str | None:
    """Return the URL of the next page, from the members of a document other than its items.

    :raises InvalidResponseError: when the links cannot be read.
    """
    links = convert(members.get("links") or [], list[_Link])
    return next((link.href for link in links if link.rel == "next"), None)


class CollectionPage(Generic[RecordType]):
    """A page of a search in Collection+JSON.

    :param noun: the name of the data that are results.
    :param media_type: that of the answer; the original API has its own.
    :param has_limit: whether the search has a limit of the caller.
    """

    def __init__(
        self, noun: str, record: type[RecordType], media_type: str, *, has_limit: bool
    ) -> None:
        self._noun = noun
        self._record = record
        self._is_cut_at_limit = media_type == _ORIGINAL_MEDIA_TYPE and not has_limit
        self._reader = CollectionReader()
        self._unreadable: list[UnreadableRecord] = []
        self._count = 0
        self._limit: int | None = None

    @property
    def following(self) -> str | None:
        """The URL of the next page, once the document has ended."""
        return find_next(self._reader.members)

    def feed(self, data: bytes) -> list[RecordType]:
        """Return the records that are complete with these bytes.

        :raises InvalidResponseError: when they cannot be part of such a document.
        """
        return self._convert_items(self._reader.feed(data))

    def close(self) -> list[RecordType]:
        """Return the last records, and check that there are no others.

        :raises IncompleteResponseError: when the document was cut, and when the original API has
            stopped at its limit, which it does without a word.
        """
        records = self._convert_items(self._reader.close())
        if self._is_cut_at_limit and self._limit is not None and self._count >= self._limit:
            raise IncompleteResponseError(
                f"the service returns at most {self._limit} results, and no link to further ones;"
                " ask with a limit, or for a shorter time"
            )
        return records

    def take_unreadable(self) -> list[UnreadableRecord]:
        """Return the placeholders for records that the service could not read, and forget them."""
        taken, self._unreadable = self._unreadable, []
        return taken

    def _convert_items(self, items: Sequence[JsonValue]) -> list[RecordType]:
        records = []
        for name, value in list_data(items):
            if name == self._noun:
                records.append(convert_record(value, self._record))
            elif name == UnreadableRecord.noun:
                self._unreadable.append(convert(value, UnreadableRecord))
            elif name == SearchParameters.noun:
                self._limit = convert(value, _SearchParameters).limit
        self._count += len(records)
        return records


class UnreadableRecords:
    """The placeholders that a search has returned."""

    def __init__(self) -> None:
        self._first: list[UnreadableRecord] = []
        self._count = 0

    def add(self, records: Sequence[UnreadableRecord]) -> None:
        """Add some, of which the first thousand are kept."""
        self._count += len(records)
        self._first += records[: _MAX_KEPT_UNREADABLE - len(self._first)]

    def check(self) -> None:
        """Raise an error when there are any.

        :raises UnreadableRecordsError: with the first of them.
        """
        if self._count:
            raise UnreadableRecordsError(self._first, self._count)
