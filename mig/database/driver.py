"""A connection of txpostgres, and how it is opened.

Only this module and :mod:`mig.database.connection` know txpostgres.
"""

from __future__ import annotations

import psycopg2
from psycopg2.extensions import make_dsn
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure
from txpostgres import txpostgres
from txpostgres.txpostgres import Cursor

from mig.database.failures import join_lines, summarize_failure
from mig.errors import UnavailableError
from mig.reactor import Reactor

UNREACHABLE = "the database cannot be reached"
CONNECTION_PARAMETERS: dict[str, str | int] = {
    "client_encoding": "utf8",
    "application_name": "mig-api",
    # a server that has vanished is noticed within a minute, not after the hours of TCP's defaults
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,  # in milliseconds
}


class DriverConnection(txpostgres.Connection):
    """A connection of txpostgres that closes itself when the server has gone.

    ``end_reason`` is then what the server said, or how the connection broke.
    """

    # txpostgres 1.7.0 lets these errors reach the reactor. libpq has closed the descriptor by then,
    # and the reactor does not accept what has none (docs/twisted-internals.md).

    end_reason = ""

    def doRead(self) -> None:
        """Read from an idle connection."""
        try:
            super().doRead()
        except (psycopg2.Error, OSError, ValueError):
            self._close_broken()

    def cursorFinished(self, cursor: Cursor) -> None:
        """Watch the connection again after a statement."""
        try:
            super().cursorFinished(cursor)
        except (psycopg2.Error, OSError, ValueError):
            self._close_broken()

    def _close_broken(self) -> None:
        self.end_reason = join_lines(self.take_notices() + Failure().getErrorMessage())
        self.close()

    def take_notices(self) -> str:
        """Return what the server has said beside its answers, and forget it.

        A server that ends an idle connection says why in such a notice.
        """
        notices: list[str] = self.pollable().notices
        said = "".join(notices)
        notices.clear()
        return said


async def connect(
    reactor: Reactor, raw: DriverConnection, server: dict[str, str], seconds: float
) -> None:
    """Connect to the server that the parameters of libpq in ``server`` name.

    :raises UnavailableError: when it does not accept the connection within ``seconds``.
    """
    is_silent = False

    def end_silence() -> None:
        nonlocal is_silent
        is_silent = True
        raw.close()

    attempt = raw.connect(make_dsn(None, **{**CONNECTION_PARAMETERS, **server}))
    timeout = reactor.callLater(seconds, end_silence)
    connected: Deferred[None] = Deferred()
    # a caller that is cancelled cancels this Deferred, not txpostgres' (docs/decisions/0005)
    attempt.addBoth(_forward_result, connected)
    try:
        await connected
    except (psycopg2.Error, ConnectionDone, OSError, ValueError):
        if is_silent:
            raise make_silence_error(seconds) from None
        raise UnavailableError(UNREACHABLE, summarize_failure(Failure())) from None
    finally:
        if timeout.active():
            timeout.cancel()


def make_silence_error(seconds: float) -> UnavailableError:
    """Return the error for a server that has not answered."""
    return UnavailableError("the database does not answer", f"no answer within {seconds:g} s")


def _forward_result(result: object, target: Deferred[None]) -> None:
    if not target.called:
        if isinstance(result, Failure):
            target.errback(result)
        else:
            target.callback(None)
