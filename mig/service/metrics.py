"""The metrics of one daemon, in the text format of Prometheus.

Every label has its values from a fixed set, so a client cannot make the metrics grow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from mig import __version__
from mig.errors import CredentialFault
from mig.web.request import RequestEnded

MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

REQUEST_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 30, 300)
WAIT_BUCKETS: Final = (0.001, 0.01, 0.1, 1, 10)
GPG_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2, 10)
DELAY_BUCKETS: Final = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2)
DELAY_INTERVAL_SECONDS: Final = 1.0

METHODS: Final = frozenset({"GET", "HEAD", "POST", "OPTIONS"})
OTHER: Final = "other"
NO_ROUTE: Final = "none"
"""The route of a request that was refused before its route was known."""

CUT_REASONS: Final = {
    "client left": "client_left",
    "client stalled": "client_stalled",
    "closed to make room": "closed_to_make_room",
    "failed while streaming": "failed",
    "stopped": "stopped",
    "took too long": "took_too_long",
}
"""How an answer may end before its last byte, by the outcome of the request."""

GaugeReader = Callable[[], Mapping[tuple[str, ...], float]]
"""Returns the values of a gauge, by the values of its labels."""


@dataclass(frozen=True, kw_only=True)
class GaugeSource:
    """A gauge that is read when somebody asks for the metrics."""

    name: str
    meaning: str
    labels: tuple[str, ...]
    read: GaugeReader


class _SourceCollector(Collector):
    def __init__(self, source: GaugeSource) -> None:
        self._source = source

    def collect(self) -> Iterable[GaugeMetricFamily]:
        source = self._source
        family = GaugeMetricFamily(source.name, source.meaning, labels=source.labels)
        for values, number in source.read().items():
            family.add_metric(values, number)
        return [family]


class Metrics:
    """Counts what happens in the daemon, and reads its gauges when somebody asks.

    :param clock: measures how late the reactor is.
    :param sources: the gauges.
    """

    log = Logger()

    def __init__(self, clock: IReactorTime, sources: Sequence[GaugeSource] = ()) -> None:
        self._registry = CollectorRegistry()
        self._clock = clock
        self._requests = Counter(
            "migapi_requests",
            "Requests that have ended",
            ("route", "method", "status"),
            registry=self._registry,
        )
        self._seconds = self._make_histogram(
            "migapi_request_seconds",
            "Time from the end of a request's headers to the end of its answer",
            REQUEST_BUCKETS,
            ("route",),
        )
        self._cut = Counter(
            "migapi_streams_cut",
            "Answers that ended before their last byte",
            ("reason",),
            registry=self._registry,
        )
        self._rows = self._make_counter("migapi_rows", "Rows in answers")
        self._items = self._make_counter("migapi_items", "Compliance items in reports")
        self._sent = self._make_counter("migapi_sent_bytes", "Bytes of answers that were sent")
        self._pool_wait = self._make_histogram(
            "migapi_pool_wait_seconds",
            "Time that a request waited for a connection to the database",
            WAIT_BUCKETS,
            ("pool",),
        )
        self._gpg = self._make_histogram(
            "migapi_gpg_seconds", "Duration of a run of gpg", GPG_BUCKETS
        )
        self._failures = Counter(
            "migapi_authentication_failures",
            "Credentials that were refused",
            ("kind",),
            registry=self._registry,
        )
        self._delay = self._make_histogram(
            "migapi_reactor_delay_seconds",
            "How late the reactor was, measured once a second",
            DELAY_BUCKETS,
        )
        build = Gauge(
            "migapi_build_info", "The version of the program", ("version",), registry=self._registry
        )
        build.labels(__version__).set(1)
        for source in sources:
            self._registry.register(_SourceCollector(source))
        # so that each is 0 before the first one
        for reason in (*CUT_REASONS.values(), OTHER):
            self._cut.labels(reason)
        for fault in CredentialFault:
            self._failures.labels(fault)
        # Children by the values of their labels: `labels()` takes longer than the rest.
        self._request_children: dict[tuple[str, str, int], Counter] = {}
        self._seconds_children: dict[str, Histogram] = {}
        self._measuring = LoopingCall(self._measure_delay)
        self._measuring.clock = clock
        self._due = 0.0

    def _make_counter(self, name: str, meaning: str) -> Counter:
        return Counter(name, meaning, registry=self._registry)

    def _make_histogram(
        self, name: str, meaning: str, buckets: Sequence[float], labels: tuple[str, ...] = ()
    ) -> Histogram:
        return Histogram(name, meaning, labels, registry=self._registry, buckets=buckets)

    def start(self) -> None:
        """Start to measure how late the reactor is."""
        self._due = self._clock.seconds() + DELAY_INTERVAL_SECONDS
        measuring = self._measuring.start(DELAY_INTERVAL_SECONDS, now=False)
        measuring.addErrback(lambda failure: self.log.failure("the delay is not measured", failure))

    def stop(self) -> None:
        """Stop measuring."""
        if self._measuring.running:
            self._measuring.stop()

    def _measure_delay(self) -> None:
        now = self._clock.seconds()
        self._delay.observe(max(0.0, now - self._due))
        self._due = now + DELAY_INTERVAL_SECONDS

    def observe_request(self, event: RequestEnded) -> None:
        """Count a request that has ended."""
        route = event.route or NO_ROUTE
        key = (route, event.method.decode("latin-1"), event.status)
        child = self._request_children.get(key)
        if child is None:
            child = self._find_request_child(*key)
        child.inc()
        seconds = self._seconds_children.get(route)
        if seconds is None:
            seconds = self._seconds_children[route] = self._seconds.labels(route)
        seconds.observe(event.seconds)
        self._rows.inc(event.rows)
        self._items.inc(event.items)
        self._sent.inc(event.sent_bytes)
        if event.credential_fault is not None:
            self._failures.labels(event.credential_fault).inc()
        if event.outcome != "complete" and not event.outcome.startswith("refused"):
            self._cut.labels(CUT_REASONS.get(event.outcome, OTHER)).inc()

    def _find_request_child(self, route: str, method: str, status: int) -> Counter:
        """Return the counter of a request; only that of a known method is kept."""
        if method not in METHODS:
            return self._requests.labels(route, OTHER, status)
        child = self._requests.labels(route, method, status)
        self._request_children[route, method, status] = child
        return child

    def make_pool_observer(self, pool: str) -> Callable[[float], None]:
        """Return what notes how many seconds a request has waited for a connection of ``pool``."""
        return self._pool_wait.labels(pool).observe

    def observe_gpg_run(self, seconds: float) -> None:
        """Note the duration of a run of gpg."""
        self._gpg.observe(seconds)

    def format_text(self) -> bytes:
        """Return all metrics."""
        return generate_latest(self._registry)
