"""Single Collection+JSON documents, and the records in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeVar

from mig.client.body import Response
from mig.client.errors import InvalidResponseError, UnreadableRecordsError
from mig.client.pages import convert, convert_record, list_data
from mig.client.reading import CollectionReader
from mig.client.records import JsonValue, Record
from mig.model.record import UnreadableRecord

RecordType = TypeVar("RecordType", bound=Record)

COLLECTION_JSON: Final = ("application/vnd.collection+json", "application/json")


async def read_record(response: Response, noun: str, record: type[RecordType]) -> RecordType:
    """Return the record of a document.

    :raises UnreadableRecordsError: when the service could not read it.
    """
    items, _ = await read_document(response)
    for name, value in list_data(items):
        if name == noun:
            return convert_record(value, record)
        if name == UnreadableRecord.noun:
            raise UnreadableRecordsError([convert(value, UnreadableRecord)], 1)
    raise InvalidResponseError(f"the answer has no {noun}")


async def read_document(response: Response) -> tuple[list[JsonValue], dict[str, JsonValue]]:
    """Return the items and the other members of a document."""
    check_media_type(response, COLLECTION_JSON)
    reader = CollectionReader()
    items: list[JsonValue] = []
    async for chunk in response.read_chunks():
        items += reader.feed(chunk)
    return items + reader.close(), reader.members


def check_media_type(response: Response, accepted: Sequence[str]) -> None:
    """Check that an answer is of a kind that a MIG API has.

    :raises InvalidResponseError: when it is not.
    """
    if response.media_type not in accepted:
        response.abort()
        raise InvalidResponseError(
            f"the answer is {response.media_type or 'of no media type'}, not Collection+JSON:"
            " is this the base URL of the API, such as https://mig.example.com/api/v1?"
        )
