"""The events at the end of requests."""

from __future__ import annotations

import msgspec

from mig.web.request import RequestEnded

COMPLETE = RequestEnded(
    operation="17",
    client="127.0.0.1",
    method=b"GET",
    uri=b"/",
    route="/",
    caller="-",
    status=200,
    seconds=0.0,
    rows=0,
    items=0,
    sent_bytes=0,
    received_bytes=0,
    outcome="complete",
)


def make_request_ended(**changes: object) -> RequestEnded:
    """Return the event of a request that was answered, with *changes*."""
    return msgspec.structs.replace(COMPLETE, **changes)
