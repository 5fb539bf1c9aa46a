"""How many connections the process's limit of open files leaves room for (docs/decisions/0050)."""

from __future__ import annotations

import resource
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from mig.access.tokenverifier import limit_token_processes
from mig.errors import StartupError
from mig.limits import Limits
from mig.service.shared_port import MAX_ACCEPTS
from mig.signing.gpg.process import count_processes
from mig.web.connections import MAX_ENDING

MIN_CONNECTIONS: Final = 16
"""With room for fewer connections the daemon does not start."""

OTHER_DESCRIPTORS: Final = 32
"""Those of the reactor, of the log while it is reopened, of name look-ups, and of libraries."""

PIPES_PER_GPG: Final = 3
FILES_PER_GPG: Final = 3
"""Text, signature and keyring; those of a batch are counted apart."""

PIPES_PER_PARSER: Final = 3

FILES_PER_SPOOL_THREAD: Final = 8


def fit_limits(limits: Limits, listener_count: int) -> Limits:
    """Return ``limits`` with no more connections than there are descriptors for.

    :raises StartupError: when the soft limit of open files is too low for any service.
    """
    soft_limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft_limit == resource.RLIM_INFINITY:
        return limits
    needed = _count_open() + count_needed_descriptors(limits, listener_count)
    if soft_limit < needed + MIN_CONNECTIONS:
        raise StartupError(
            f"the limit of open files is {soft_limit}, and at least {needed + MIN_CONNECTIONS} are"
            " needed: raise it by LimitNOFILE= in the unit, or by ulimit -n"
        )
    return replace(limits, connections=min(limits.connections, soft_limit - needed))


def count_needed_descriptors(limits: Limits, listener_count: int) -> int:
    """Return how many descriptors the service needs, apart from its connections to clients."""
    database = (
        limits.query_connections
        + limits.stream_connections
        + limits.short_connections
        + 1  # runs the condition of a client
        + 1  # cancels statements, and is asked whether all is well
    )
    gpg_processes = count_processes(limits) + count_processes(limit_token_processes(limits))
    # gpg is started by one call at a time, which opens both ends of its pipes and all its files
    gpg_start = PIPES_PER_GPG + FILES_PER_GPG + limits.shared_signatures
    return (
        database
        + gpg_processes * PIPES_PER_GPG
        + gpg_start
        + (limits.large_actions + 1) * PIPES_PER_PARSER  # one is started, with both ends
        + limits.handoff_threads * FILES_PER_SPOOL_THREAD
        # a listener's own, and those it accepts before the ones that make room are closed
        + listener_count * (1 + MAX_ACCEPTS)
        + limits.admin_connections
        + MAX_ENDING
        + OTHER_DESCRIPTORS
    )


def _count_open() -> int:
    """Return how many descriptors are open."""
    with suppress(OSError):
        return len(list(Path("/proc/self/fd").iterdir()))
    return 0
