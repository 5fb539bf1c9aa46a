"""Faults on purpose, for tests of what survives them; nothing happens without these variables.

``MIG_API_TEST_KILL_AT=NAME`` kills the process at the point of that name (:data:`POINTS`), and
``MIG_API_TEST_FAIL_CALLS=N:ENOSPC,M:EIO`` lets the N-th and M-th call of :func:`call` fail so.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from typing import Any, Final

POINTS: Final = (
    "verified",
    "committed",
    "locked",
    "written",
    "linked",
    "handed over",
    "marked",
)
"""In the order in which a submission passes them."""

_kill_at = os.environ.get("MIG_API_TEST_KILL_AT")
_failures = dict(
    failure.split(":")
    for failure in os.environ.get("MIG_API_TEST_FAIL_CALLS", "").split(",")
    if failure
)
_calls = 0


def reached(point: str) -> None:
    """Mark a point between two steps."""
    if _kill_at == point:
        os.kill(os.getpid(), signal.SIGKILL)


def call(function: Callable[..., Any], *args: Any, **kw: Any) -> Any:
    """Call a function of the operating system."""
    global _calls
    _calls += 1
    if _failures and str(_calls) in _failures:
        code = getattr(errno, _failures[str(_calls)])
        raise OSError(code, os.strerror(code))
    return function(*args, **kw)
