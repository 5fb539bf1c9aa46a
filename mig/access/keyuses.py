"""When each API key was used last: collected in memory, and written now and then."""

from __future__ import annotations

from typing import Final, NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from mig.errors import MigError, describe_error
from mig.limits import Limits
from mig.model.row import make_row_reader
from mig.model.statement import QueryFunction, Statement
from mig.reactor import WallClock


class _UsedRow(NamedTuple):
    pass


# in the order of the ids, so that two daemons cannot wait for each other's rows
_WRITE_USES: Final = Statement(
    """
    insert into apikeyuses (keyid, lastused)
    select keyid, to_timestamp(used)
    from unnest(%s::bigint[], %s::float8[]) as u (keyid, used)
    order by keyid
    on conflict (keyid) do update
    set lastused = greatest(apikeyuses.lastused, excluded.lastused)
    """,
    make_row_reader(_UsedRow),
)


class KeyUses:
    """The last use of each API key since it was written, which no request waits for.

    :param wall_clock: the time of day, which is what is stored.
    :param limits: ``key_use_seconds``.
    """

    log = Logger()

    def __init__(
        self, clock: IReactorTime, wall_clock: WallClock, query: QueryFunction, limits: Limits
    ) -> None:
        self._wall_clock = wall_clock
        self._query = query
        self._seconds = limits.key_use_seconds
        self._used: dict[int, float] = {}
        self._ended: Deferred[LoopingCall] | None = None
        self._loop = LoopingCall(self.write)
        self._loop.clock = clock

    def record(self, key_id: int) -> None:
        """Take note that a key is used now."""
        self._used[key_id] = self._wall_clock()

    def start(self) -> None:
        """Write now and then from now on."""
        self._ended = self._loop.start(self._seconds, now=False)

    async def stop(self) -> None:
        """Write what has not been written, and do not write again."""
        if self._ended is not None:
            self._loop.stop()
            await self._ended  # a statement that runs
        await self._write()

    def write(self) -> Deferred[None]:
        """Write what has not been written; a failure is logged, and tried again the next time."""
        return Deferred.fromCoroutine(self._write())

    async def _write(self) -> None:
        used, self._used = self._used, {}
        if not used:
            return
        try:
            await self._query(_WRITE_USES, (list(used), list(used.values())))
        except MigError as reason:
            self._used = {**used, **self._used}
            self.log.warn(
                "the last use of API keys could not be written: {reason}",
                reason=describe_error(reason),
            )
        except Exception:
            self.log.failure("the last use of API keys could not be written")
