"""The free memory of the process: kept while answers are made, and returned afterwards."""

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

KEPT_BYTES: Final = 33_554_432
"""How much free memory glibc keeps; the pages of an answer need it again and again."""

MAX_HEAP_BLOCK_BYTES: Final = 4_194_304
"""glibc maps larger blocks one by one, and returns each at once; the page of an answer is none."""

_M_TRIM_THRESHOLD: Final = -1  # in malloc.h
_M_MMAP_THRESHOLD: Final = -3

_libc: Final = ctypes.CDLL(None)
_trim: Callable[[int], Any] | None = getattr(_libc, "malloc_trim", None)
_set_option: Callable[[int, int], Any] | None = getattr(_libc, "mallopt", None)


def keep_free_memory() -> None:
    """Let glibc, if it is the C library, keep free memory until it is returned.

    Otherwise it may return the memory of each page of an answer, and ask for it again for the next
    one (docs/decisions/0124).
    """
    if _set_option is not None:
        _set_option(_M_TRIM_THRESHOLD, KEPT_BYTES)
        _set_option(_M_MMAP_THRESHOLD, MAX_HEAP_BLOCK_BYTES)


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
