"""The formats of answers, and the table of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mig.formats.collection_json import CollectionJson
from mig.formats.csv_rows import CsvRows
from mig.formats.format import Format, FormatOptions
from mig.formats.ndjson import Ndjson
from mig.hypermedia.urls import Urls

COLLECTION: Final = "collection"

FORMATS: Final[dict[str, Callable[[Urls, FormatOptions], Format]]] = {
    COLLECTION: CollectionJson,
    "ndjson": Ndjson,
    "csv": CsvRows,
}
"""Every format of an answer, by the name in ``format=``; the first one is the default."""
