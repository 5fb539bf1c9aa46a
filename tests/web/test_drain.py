"""A site that stops answers what was asked, and ends every connection."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.protocol import connectionDone

from mig.limits import Limits
from tests.support.site_client import (
    CREATE,
    FORM,
    PendingAuthenticator,
    SiteClient,
    build_post_head,
    parse_answer,
)

HEARTBEAT = b"GET /api/v1/heartbeat HTTP/1.1\r\nHost: localhost\r\n\r\n"
LIMITS = Limits()
GRACE = 30.0


class StoppingSite(SiteClient):
    """A site with one connection, which stops when the test says so."""

    is_drained = False

    def stop(self, seconds: float = GRACE) -> None:
        def note(_: object) -> None:
            self.is_drained = True

        Deferred.fromCoroutine(self.site.drain(seconds)).addCallback(note)

    def lose(self) -> None:
        """Lose the connection, as the transport does after it was closed."""
        self.channel.connectionLost(connectionDone)


def test_a_site_without_connections_is_drained_at_once() -> None:
    site = StoppingSite()
    site.lose()
    site.stop()
    assert site.is_drained
    assert not site.clock.getDelayedCalls()


def test_a_request_on_an_open_connection_is_answered_as_the_last_one() -> None:
    site = StoppingSite()
    assert b"connection: close" not in site.send(HEARTBEAT).lower()
    site.stop()
    answer = site.send(HEARTBEAT)
    assert parse_answer(answer)[0] == 200
    assert b"connection: close" in answer.lower()
    assert site.transport.disconnecting
    assert not site.is_drained
    assert site.send(HEARTBEAT) == b""  # the client may have sent it before it read the answer
    site.lose()
    assert site.is_drained
    assert not site.clock.getDelayedCalls()


def test_a_request_that_was_being_received_is_answered() -> None:
    site = StoppingSite()
    body = b"action=1"
    head = build_post_head(CREATE, FORM, f"Content-Length: {len(body)}")
    site.send(head + body[:3])
    site.stop()
    site.advance(LIMITS.first_request_seconds)
    answer = site.send(body[3:])
    assert parse_answer(answer)[0] == 200
    assert b"connection: close" in answer.lower()


def test_a_request_that_waits_for_its_caller_is_answered() -> None:
    authenticator = PendingAuthenticator()
    site = StoppingSite(authenticate=authenticator)
    assert site.send(HEARTBEAT) == b""
    site.stop()
    authenticator.accept_next()
    answer = site.take_output()
    assert parse_answer(answer)[0] == 200
    assert b"connection: close" in answer.lower()
    assert [event.outcome for event in site.ended] == ["complete"]


def test_a_connection_without_a_request_is_closed_soon() -> None:
    """A new one has more time: its client has connected in order to send."""
    for used, seconds in (
        (True, LIMITS.last_request_seconds),
        (False, LIMITS.first_request_seconds),
    ):
        site = StoppingSite()
        if used:
            site.send(HEARTBEAT)
        site.stop()
        site.advance(0.9 * seconds)
        assert not site.transport.disconnecting
        site.advance(0.2 * seconds)
        assert site.transport.disconnecting


def test_what_has_not_ended_in_time_is_cut_and_logged_as_stopped() -> None:
    for cut_by_signal in (False, True):
        authenticator = PendingAuthenticator()
        site = StoppingSite(authenticate=authenticator)
        site.send(HEARTBEAT)
        site.stop(LIMITS.gate_seconds / 2)
        if cut_by_signal:
            site.site.cut()
        else:
            site.advance(0.4 * LIMITS.gate_seconds)
            assert not site.transport.disconnected
            site.advance(0.2 * LIMITS.gate_seconds)
        assert site.transport.disconnected
        site.lose()
        assert site.is_drained
        assert [event.outcome for event in site.ended] == ["stopped"]
        assert not site.clock.getDelayedCalls()


def test_a_stop_ends_even_if_a_connection_does_not() -> None:
    site = StoppingSite()
    site.stop()
    site.advance(GRACE)
    assert not site.is_drained
    site.advance(LIMITS.cut_seconds)
    assert site.is_drained
