"""What an operator can ask the daemon: whether it works, and how much it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from twisted.internet.threads import deferToThreadPool

from mig.actions.handoff import NO_HANDOFF, Handoff, NoHandoff
from mig.actions.spool import Spool
from mig.api.health import HealthMonitor, HealthResource, Part
from mig.database.database import Database
from mig.database.schema.declaration import SCHEMA_VERSION
from mig.errors import SchemaError, UnavailableError
from mig.model.row import make_row_reader
from mig.model.statement import Statement
from mig.reactor import Reactor
from mig.service.metrics import GaugeSource, Metrics
from mig.signing.gpg.verify import Gpg
from mig.web.streams import Streams

NO_GPG: Final = (
    "gpg is not in PATH: until it is installed, actions and new investigators are answered by 503"
)


class _StateRow(NamedTuple):
    version: int | None
    waiting: int
    oldest: float


# One statement for the version of the schema and for the outbox: both are needed together.
_STATE: Final = Statement(
    """
    select (select max(version) from mig_schema), count(*),
        coalesce(extract(epoch from clock_timestamp() - min(submitted)), 0)::double precision
    from submissions
    where handedover is null
    """,
    make_row_reader(_StateRow),
)


class Monitoring:
    """The health of the daemon's parts, and its metrics.

    :param gpgs: what verifies signatures, by what it is for.
    :param spool: the scheduler's spool, if actions go through one.
    """

    def __init__(
        self,
        reactor: Reactor,
        database: Database,
        handoff: Handoff,
        spool: Spool | None,
        gpgs: Mapping[str, Gpg],
        streams: Streams,
    ) -> None:
        self._reactor = reactor
        self._database = database
        self._handoff = handoff
        self._spool = spool
        self._gpgs = gpgs
        self._streams = streams
        self._outbox = (0, 0.0)
        self._is_checking_spool = False
        self.metrics = Metrics(reactor, self._list_gauges())
        for name, pool in database.pools.items():
            pool.on_wait = self.metrics.make_pool_observer(name)
        for gpg in gpgs.values():
            gpg.runner.on_run = self.metrics.observe_gpg_run
        self._monitor = HealthMonitor(reactor, self._list_parts())
        self.health = HealthResource(self._monitor, self._read_metrics)

    def start(self) -> None:
        """Start to measure."""
        self.metrics.start()

    def begin_stop(self) -> None:
        """Answer from now on that the daemon is not ready."""
        self._monitor.is_stopping = True

    def stop(self) -> None:
        """Stop measuring."""
        self.metrics.stop()

    def _list_parts(self) -> list[Part]:
        return [
            Part(name="database", check=self._check_database, is_essential=True),
            Part(name="handoff", check=self._check_handoff, is_essential=False),
            Part(name="gpg", check=self._check_gpg, is_essential=False),
        ]

    async def _check_database(self) -> None:
        version = (await self._read_state()).version
        if version is None or version < SCHEMA_VERSION:
            raise SchemaError(
                f"the database has schema version {version}; version {SCHEMA_VERSION} is needed"
            )

    async def _read_state(self) -> _StateRow:
        [state] = await self._database.control.query(_STATE)
        self._outbox = (state.waiting, state.oldest)
        return state

    async def _check_handoff(self) -> None:
        """Check that an action could be handed over, without handing over anything."""
        if isinstance(self._handoff, NoHandoff):
            raise UnavailableError(NO_HANDOFF)
        self._handoff.check_available()
        if self._spool is None:
            return
        if self._is_checking_spool:  # a file system of another host: do not fill all threads
            raise UnavailableError("the spool's file system does not answer")
        self._is_checking_spool = True
        pool = self._reactor.getThreadPool()
        await deferToThreadPool(self._reactor, pool, self._check_spool, self._spool)

    def _check_spool(self, spool: Spool) -> None:
        try:
            spool.check_folders()
        finally:
            self._is_checking_spool = False  # only now, even if nobody waits any more

    async def _check_gpg(self) -> None:
        if not all(gpg.is_installed() for gpg in self._gpgs.values()):
            raise UnavailableError(NO_GPG)

    async def _read_metrics(self) -> bytes:
        """Return the metrics; those of the outbox are as old as the last answer of the database."""
        with suppress(UnavailableError):  # the other metrics are needed all the more then
            await self._read_state()
        return self.metrics.format_text()

    def _list_gauges(self) -> Sequence[GaugeSource]:
        return [
            GaugeSource(
                name="migapi_streams",
                meaning="Answers that are being streamed",
                labels=("state",),
                read=self._count_streams,
            ),
            GaugeSource(
                name="migapi_pool_connections",
                meaning="Connections to the database, and requests that wait for one",
                labels=("pool", "state"),
                read=self._count_connections,
            ),
            GaugeSource(
                name="migapi_gpg_queue",
                meaning="Checks that wait for gpg",
                labels=("purpose",),
                read=lambda: {
                    (name,): gpg.runner.waiting_count for name, gpg in self._gpgs.items()
                },
            ),
            GaugeSource(
                name="migapi_outbox_waiting",
                meaning="Accepted actions that have not reached the scheduler",
                labels=(),
                read=lambda: {(): self._outbox[0]},
            ),
            GaugeSource(
                name="migapi_outbox_oldest_seconds",
                meaning="How long the oldest of them has waited",
                labels=(),
                read=lambda: {(): self._outbox[1]},
            ),
        ]

    def _count_streams(self) -> Mapping[tuple[str, ...], float]:
        suspended = self._streams.suspended_count
        return {("active",): self._streams.count - suspended, ("suspended",): suspended}

    def _count_connections(self) -> Mapping[tuple[str, ...], float]:
        counts: dict[tuple[str, ...], float] = {}
        for name, pool in self._database.pools.items():
            counts[name, "used"] = pool.used_count
            counts[name, "free"] = pool.free_count
            counts[name, "waiting"] = pool.waiting_count
        return counts
