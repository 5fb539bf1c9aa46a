"""The metrics of a daemon, as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.task import Clock

from mig import __version__
from mig.access.failures import FailureCounter
from mig.access.tokens import check_token_time
from mig.errors import (
    ForbiddenError,
    RequestError,
    TooManyRequestsError,
    UnauthorizedError,
)
from mig.limits import Limits
from mig.service.metrics import GaugeSource, Metrics
from mig.web.rates import RateLimiter
from tests.support.request_events import make_request_ended

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def read(metrics: Metrics) -> Samples:
    """Return each sample by its name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.format_text().decode())
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def count_requests(samples: Samples, **labels: str) -> float:
    return samples.get(("migapi_requests_total", tuple(sorted(labels.items()))), 0)


def test_requests_are_counted_by_route_method_and_status() -> None:
    metrics = Metrics(Clock())
    for _ in range(3):
        metrics.observe_request(make_request_ended(route="/search", rows=7, items=9, sent_bytes=99))
    metrics.observe_request(make_request_ended(route=None, status=400))
    samples = read(metrics)
    assert count_requests(samples, route="/search", method="GET", status="200") == 3
    assert count_requests(samples, route="none", method="GET", status="400") == 1
    assert samples["migapi_rows_total", ()] >= 21
    assert samples["migapi_items_total", ()] == 27
    assert samples["migapi_sent_bytes_total", ()] >= 297
    assert samples["migapi_request_seconds_count", (("route", "/search"),)] == 3
    assert samples["migapi_build_info", (("version", __version__),)] == 1


def test_a_client_cannot_add_metrics() -> None:
    metrics = Metrics(Clock())
    for n in range(100):
        metrics.observe_request(make_request_ended(method=f"X{n}".encode(), outcome=f"odd {n}"))
    samples = read(metrics)
    [(key, count)] = [
        (key, value) for key, value in samples.items() if key[0] == "migapi_requests_total"
    ]
    assert dict(key[1])["method"] == "other"
    assert count == 100
    assert samples["migapi_streams_cut_total", (("reason", "other"),)] == 100


def test_answers_that_were_cut_are_counted_by_reason() -> None:
    metrics = Metrics(Clock())
    for outcome in ("complete", "refused: no", "client stalled", "client left", "client left"):
        metrics.observe_request(make_request_ended(outcome=outcome))
    samples = read(metrics)
    cut = {
        dict(labels)["reason"]: value
        for (name, labels), value in samples.items()
        if name == "migapi_streams_cut_total"
    }
    assert {reason: count for reason, count in cut.items() if count} == {
        "client_stalled": 1,
        "client_left": 2,
    }


def test_gauges_are_read_when_somebody_asks() -> None:
    connections: dict[tuple[str, ...], float] = {("queries", "used"): 1.0}
    source = GaugeSource(
        name="migapi_pool_connections",
        meaning="Connections to the database",
        labels=("pool", "state"),
        read=lambda: connections,
    )
    metrics = Metrics(Clock(), [source])
    key = ("migapi_pool_connections", (("pool", "queries"), ("state", "used")))
    assert read(metrics)[key] == 1
    connections["queries", "used"] = 2
    assert read(metrics)[key] == 2


def test_the_delay_of_the_reactor_is_measured_every_second() -> None:
    clock = Clock()
    metrics = Metrics(clock)
    metrics.start()
    clock.advance(1)
    clock.advance(1.75)  # the reactor was busy for three quarters of a second
    metrics.stop()
    clock.advance(10)
    samples = read(metrics)
    assert samples["migapi_reactor_delay_seconds_count", ()] == 2
    assert samples["migapi_reactor_delay_seconds_sum", ()] == 0.75


def test_waits_and_runs_are_counted() -> None:
    metrics = Metrics(Clock())
    metrics.make_pool_observer("streams")(0.5)
    metrics.observe_gpg_run(0.003)
    samples = read(metrics)
    assert samples["migapi_pool_wait_seconds_sum", (("pool", "streams"),)] == 0.5
    assert samples["migapi_gpg_seconds_count", ()] == 1


def make_refusals() -> Iterator[RequestError]:
    """Return the errors after too many wrong credentials, and after too many requests."""
    limits = Limits(failures_per_minute=1, burst=1)
    failures = FailureCounter(Clock(), limits)
    failures.record_failure("a", None)
    requests = RateLimiter(Clock(), "address", limits)
    requests.check("a")
    for check in (partial(failures.check, "a", None), partial(requests.check, "a")):
        with pytest.raises(TooManyRequestsError) as told:
            check()
        yield told.value


def make_token_error(age: float) -> RequestError:
    with pytest.raises(UnauthorizedError) as told:
        check_token_time(1000, 1000 + age, 300)
    return told.value


def test_refused_credentials_are_counted_by_reason() -> None:
    metrics = Metrics(Clock())
    for error in (
        make_token_error(400),
        make_token_error(-400),
        UnauthorizedError("no credentials"),
        ForbiddenError("this request needs the permission search"),
        *make_refusals(),
    ):
        ended = make_request_ended(
            status=error.status, refusal=str(error), credential_fault=error.credential_fault
        )
        metrics.observe_request(ended)
    counted = {
        dict(labels)["kind"]: value
        for (name, labels), value in read(metrics).items()
        if name == "migapi_authentication_failures_total" and value
    }
    assert counted == {"expired": 1, "clock": 1, "other": 1, "too_many": 1}
