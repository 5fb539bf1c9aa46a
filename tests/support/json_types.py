"""The type of decoded JSON, which the tests do not check further."""

from __future__ import annotations

from typing import Any

Json = Any
"""A decoded JSON document, or a part of one."""
JsonObject = dict[str, Json]
