"""The return of free memory to the operating system, when large requests have ended."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from mig.web.request import RequestEnded

LARGE_BYTES: Final = 262_144
"""A request is large when its body or its answer is longer."""

QUIET_SECONDS: Final = 1.0
"""How long no large request must have ended: to return memory takes some milliseconds."""

_trim: Callable[[int], Any] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)


def return_free_memory() -> None:
    """Return what is free to the operating system, if the C library is glibc.

    Large values come and go between small ones that stay, and glibc keeps the holes
    (docs/decisions/0045).
    """
    if _trim is not None:
        _trim(0)


class MemoryTrimmer:
    """An observer of requests that returns free memory after large ones.

    :param trim: how memory is returned.
    """

    def __init__(self, clock: IReactorTime, trim: Callable[[], None] = return_free_memory) -> None:
        self._clock = clock
        self._trim_memory = trim
        self._call: IDelayedCall | None = None

    def __call__(self, event: RequestEnded) -> None:
        """Return memory soon if the request was large, unless another one ends before."""
        if max(event.sent_bytes, event.received_bytes) <= LARGE_BYTES:
            return
        if self._call is not None:
            self._call.reset(QUIET_SECONDS)
        else:
            self._call = self._clock.callLater(QUIET_SECONDS, self._trim)

    def stop(self) -> None:
        """Return no memory any more."""
        call, self._call = self._call, None
        if call is not None:
            call.cancel()

    def _trim(self) -> None:
        self._call = None
        self._trim_memory()
