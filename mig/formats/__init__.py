"""The formats of answers, and the table of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mig.formats.collection_json import CollectionJson
from mig.formats.format import Format
from mig.hypermedia.urls import Urls

FORMATS: Final[dict[str, Callable[[Urls], Format]]] = {"collection": CollectionJson}
"""Every format of an answer, by name; the first one is the default."""
