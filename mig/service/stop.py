"""The end of the daemon's service: answers may go on for a while, and a second signal cuts them."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IReactorFromThreads
from twisted.logger import Logger

from mig.database.database import Database
from mig.limits import Limits
from mig.web.site import ApiSite

_log = Logger()

CLOSING_SECONDS: Final = 20
"""How long the daemon may take to close everything else: gpg, the hand-off, the database."""


def count_stop_seconds(limits: Limits) -> float:
    """Return how long a stop may take."""
    # what is cut may take as long to end here as then at the database
    return limits.grace_seconds + 2 * limits.cut_seconds + CLOSING_SECONDS


async def end_requests(
    reactor: IReactorFromThreads, site: ApiSite, database: Database, limits: Limits
) -> None:
    """Let the requests of a site that accepts no more end, and cut them after the grace.

    A second SIGTERM or SIGINT cuts them at once. Their statements have ended at the database when
    this returns, or have been cancelled there.
    """
    _call_on_signal(reactor, site.cut)
    if count := site.connections.count_handled():
        _log.info(
            "stopping, with {seconds:g} s for requests that are being answered: {count}; a second"
            " signal cuts them at once",
            count=count,
            seconds=limits.grace_seconds,
        )
    await site.drain(limits.grace_seconds)
    await database.wait_until_unused(limits.cut_seconds)


def _call_on_signal(reactor: IReactorFromThreads, call: Callable[[], None]) -> None:
    """Have a signal that would stop the daemon call ``call``, since it stops already."""

    def schedule(_number: int, _frame: object) -> None:
        reactor.callFromThread(call)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, schedule)
