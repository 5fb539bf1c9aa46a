"""Connections of clients leave the descriptors that the service itself needs."""

from __future__ import annotations

import resource
from dataclasses import fields, replace

import pytest

from mig.errors import StartupError
from mig.limits import Limits
from mig.service.descriptors import (
    MIN_CONNECTIONS,
    count_needed_descriptors,
    fit_limits,
)

LIMITS = Limits(gpg_processes=2)
NEEDED = count_needed_descriptors(LIMITS, 1)
COUNTED = [
    *(field.name for field in fields(Limits) if field.name.endswith("_connections")),
    "admin_connections",
    "gpg_processes",
    "handoff_threads",
]


def set_soft_limit(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (number, resource.RLIM_INFINITY))


@pytest.mark.parametrize("name", COUNTED)
def test_whatever_a_limit_allows_has_a_descriptor(name: str) -> None:
    more = replace(LIMITS, **{name: getattr(LIMITS, name) + 10})
    assert count_needed_descriptors(more, 1) >= NEEDED + 10


def test_connections_get_what_the_service_does_not_need(monkeypatch: pytest.MonkeyPatch) -> None:
    set_soft_limit(monkeypatch, 1024)
    few = fit_limits(LIMITS, 1).connections
    assert MIN_CONNECTIONS <= few < 1024 - NEEDED
    set_soft_limit(monkeypatch, 1124)
    assert fit_limits(LIMITS, 1).connections == few + 100
    assert fit_limits(LIMITS, 2).connections < few + 100
    for enough in (100_000, resource.RLIM_INFINITY):
        set_soft_limit(monkeypatch, enough)
        assert fit_limits(LIMITS, 1) == LIMITS


def test_a_limit_that_leaves_no_connections_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    set_soft_limit(monkeypatch, NEEDED + MIN_CONNECTIONS)
    with pytest.raises(StartupError, match="raise it by LimitNOFILE= in the unit"):
        fit_limits(LIMITS, 1)
