"""The formats of answers, and the table of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Final

from mig.formats.collection_json import MEDIA_TYPES as JSON_MEDIA_TYPES
from mig.formats.collection_json import CollectionJson
from mig.formats.csv_rows import MEDIA_TYPE as CSV
from mig.formats.csv_rows import CsvRows
from mig.formats.format import Format, FormatOptions
from mig.formats.ndjson import MEDIA_TYPE as NDJSON
from mig.formats.ndjson import Ndjson
from mig.hypermedia.urls import Urls

COLLECTION: Final = "collection"

FORMATS: Final[dict[str, Callable[[Urls, FormatOptions], Format]]] = {
    COLLECTION: CollectionJson,
    "ndjson": Ndjson,
    "csv": CsvRows,
}
"""Every format of an answer, by the name in ``format=``; the first one is the default.

Browsers get :class:`mig.formats.html.Html`, which has no such name.
"""

MEDIA_TYPES: Final = (*JSON_MEDIA_TYPES, NDJSON, CSV)
"""The media types of all of them."""


@cache
def read_style() -> bytes:
    """Return the style sheet of HTML, which is read once."""
    return (files("mig.formats") / "pages" / "style.css").read_bytes()


def load_html() -> None:
    """Import the format HTML, in a thread: it takes some milliseconds, and few processes need it.

    From then on, importing it takes no time.
    """
    import mig.formats.html  # noqa: F401
