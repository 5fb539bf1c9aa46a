"""The trace that a request belongs to (W3C Trace Context), and its name in the database."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Final

_TRACEPARENT = re.compile(
    rb"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<parent>[0-9a-f]{16})-[0-9a-f]{2}"
    rb"(?P<more>-.*)?",
    re.DOTALL,
)
_CURRENT_VERSION: Final = b"00"
_INVALID_VERSION: Final = b"ff"

# A coroutine keeps what was set when it was started, also when other code resumes it.
_application_name: ContextVar[str | None] = ContextVar("application_name", default=None)

_NOTHING: Final = nullcontext()


def parse_traceparent(values: Sequence[bytes]) -> str | None:
    """Return the trace id of the header ``traceparent``; ``None`` when it is not valid.

    :param values: those of all headers with this name, of which there must be one.
    """
    match = _TRACEPARENT.fullmatch(values[0]) if len(values) == 1 else None
    if match is None or match["version"] == _INVALID_VERSION:
        return None
    # only a later version may have more parts
    if match["more"] is not None and match["version"] == _CURRENT_VERSION:
        return None
    is_zero = not (match["trace"].strip(b"0") and match["parent"].strip(b"0"))
    return None if is_zero else match["trace"].decode()


def build_application_name(operation: str, trace: str | None) -> str:
    """Return the ``application_name`` of a request's statements, at most 57 of 63 characters."""
    return f"mig-api {operation} {trace}" if trace else f"mig-api {operation}"


def get_application_name() -> str | None:
    """Return the ``application_name`` of a statement that the running code starts.

    It is ``None`` in what is not done for one request alone, and for a request without a trace.
    """
    return _application_name.get()


def name_statements(operation: str, trace: str | None) -> AbstractContextManager[None]:
    """Name the statements of a request: those of all coroutines that are started in the block."""
    if trace is None:
        return name_no_statements()
    return _set_application_name(build_application_name(operation, trace))


def name_no_statements() -> AbstractContextManager[None]:
    """Start in the block what is not done for one request alone, though one has caused it."""
    if _application_name.get() is None:
        return _NOTHING
    return _set_application_name(None)


@contextmanager
def _set_application_name(name: str | None) -> Iterator[None]:
    token = _application_name.set(name)
    try:
        yield
    finally:
        _application_name.reset(token)
