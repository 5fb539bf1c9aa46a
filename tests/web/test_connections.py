"""Which connection is closed when there are more than the limit."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock

from mig.limits import Limits
from mig.web.connections import MAX_ENDING, REPORT_SECONDS, Activity, ConnectionLimiter
from tests.support.reactor import record_log
from tests.support.site_client import (
    CREATE,
    FORM,
    PendingAuthenticator,
    SiteClient,
    build_post_head,
)

HEARTBEAT = b"GET /api/v1/heartbeat HTTP/1.1\r\nHost: localhost\r\n\r\n"
LIMIT = 6


class FakeConnection:
    """A connection that records how it is evicted; the test reports its loss."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.activity = Activity.IDLE
        self.evicted_as: list[Activity] = []

    def evict(self, activity: Activity) -> None:
        assert activity is self.activity
        self.evicted_as.append(activity)
        self.activity = Activity.ENDING

    def cut(self, outcome: str) -> None:
        raise AssertionError("no connection is cut here")


class Service:
    """A limiter and its connections, in the order in which their activity began."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.clock = Clock()
        self.limiter = ConnectionLimiter(self.clock, limit)
        self.open: list[FakeConnection] = []

    def connect(self, address: str, activity: Activity = Activity.IDLE) -> FakeConnection | None:
        """Return a new connection, or ``None`` when it is turned away."""
        if not self.limiter.make_room(address):
            return None
        connection = FakeConnection(address)
        self.limiter.add(connection, address)
        self.open.append(connection)
        if activity is not Activity.IDLE:
            self.set_activity(connection, activity)
        return connection

    def set_activity(self, connection: FakeConnection, activity: Activity) -> None:
        connection.activity = activity
        self.limiter.set_activity(connection, activity)
        self.open.remove(connection)
        self.open.append(connection)

    def lose(self, connection: FakeConnection) -> None:
        self.limiter.remove(connection)
        self.open.remove(connection)

    def list_evicted(self) -> list[FakeConnection]:
        return [connection for connection in self.open if connection.evicted_as]

    def count_open(self) -> Counter[str]:
        return Counter(c.address for c in self.open if c.activity is not Activity.ENDING)


ACTIVITIES = st.sampled_from([Activity.IDLE, Activity.RECEIVING, Activity.HANDLING])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from("abc"), ACTIVITIES),  # connect
        st.tuples(st.integers(0, 20), ACTIVITIES),  # an activity begins
        st.integers(0, 20),  # a connection is lost
    ),
    max_size=60,
)


@given(STEPS)
def test_an_eviction_takes_least_from_the_address_with_most(
    steps: list[tuple[str | int, Activity] | int],
) -> None:
    service = Service()
    for step in steps:
        living = [c for c in service.open if c.activity is not Activity.ENDING]
        if isinstance(step, tuple) and isinstance(step[0], str):
            connect_and_check(service, step[0])
        elif living and isinstance(step, tuple) and isinstance(step[0], int):
            service.set_activity(living[step[0] % len(living)], step[1])
        elif service.open and isinstance(step, int):
            service.lose(service.open[step % len(service.open)])
        assert sum(service.count_open().values()) <= LIMIT
        assert len(service.limiter) == len(service.open)


def connect_and_check(service: Service, address: str) -> None:
    """Connect when the limit may have been reached, and check who had to go."""
    before = service.count_open()
    living = {c: c.activity for c in service.open if c.activity is not Activity.ENDING}
    connection = service.connect(address)
    evicted = [c for c in living if c.activity is Activity.ENDING]
    assert len(evicted) == (connection is not None and sum(before.values()) == LIMIT)
    idle = [c for c, activity in living.items() if activity is Activity.IDLE]
    if connection is None:
        assert not idle
        # everyone else has no more than this address, or at most one more that is in use
        assert all(count <= before[address] + 1 for count in before.values())
    for victim in evicted:
        activity = living[victim]
        same = [c for c, a in living.items() if (c.address, a) == (victim.address, activity)]
        if activity is Activity.HANDLING:
            assert not idle
            assert victim is same[-1]
        else:
            assert victim is same[0]
        if activity is not Activity.IDLE:
            assert victim.address == address or before[victim.address] > before[address]


def test_the_connection_idle_longest_of_the_address_with_most_is_closed() -> None:
    service = Service()
    first = service.connect("bob")
    flood = [service.connect("flood") for _ in range(LIMIT - 1)]
    assert first and all(flood)
    for _ in range(3):
        assert service.connect("flood")
    assert service.list_evicted() == flood[:3]
    assert service.connect("carol")
    assert service.list_evicted() == flood[:4]


def test_requests_that_never_become_complete_keep_nobody_out() -> None:
    service = Service()
    idle = service.connect("bob")
    flood = [service.connect("flood", Activity.RECEIVING) for _ in range(LIMIT - 1)]
    assert service.connect("carol")
    assert service.list_evicted() == flood[:1]
    assert idle and not idle.evicted_as


def test_a_request_is_cut_only_for_an_address_that_has_less() -> None:
    service = Service()
    flood = [service.connect("flood", Activity.HANDLING) for _ in range(LIMIT)]
    assert service.connect("flood") is None
    assert service.connect("bob", Activity.HANDLING)
    assert service.list_evicted() == flood[-1:]
    assert service.connect("bob", Activity.HANDLING)
    assert service.connect("bob", Activity.HANDLING)
    assert service.connect("bob") is None
    assert service.count_open() == {"flood": 3, "bob": 3}


def test_clients_that_do_not_close_their_side_hold_few_connections() -> None:
    service = Service()
    for _ in range(2 * MAX_ENDING):
        connection = service.connect("flood")
        assert connection
        service.set_activity(connection, Activity.ENDING)
    cut = service.list_evicted()
    assert len(cut) == MAX_ENDING - 1
    assert len(set(cut)) == len(cut)


def test_a_process_without_descriptors_closes_an_idle_connection() -> None:
    service = Service()
    busy, idle = service.connect("a", Activity.HANDLING), service.connect("a")
    assert busy and idle
    service.limiter.handle_exhaustion()
    assert service.list_evicted() == [idle]
    service.limiter.handle_exhaustion()
    assert service.list_evicted() == [idle]


def test_the_log_has_one_line_a_minute() -> None:
    service = Service()
    with record_log() as log:
        for minute in range(3):
            for _ in range(500):
                service.connect("flood")
                service.limiter.report_turned_away()
            assert len(log.lines) == minute + 1
            service.clock.advance(REPORT_SECONDS)
        service.clock.advance(10 * REPORT_SECONDS)
    assert len(log.lines) == 4
    assert "the limit of 6 open connections is reached" in log.lines[0]
    assert "494 were closed to make room and 500 were turned away" in log.lines[1]
    assert not service.clock.getDelayedCalls()


# The connections of the site

HEAD = build_post_head(CREATE, FORM, "Content-Length: 8")


def test_an_idle_connection_is_closed_and_not_one_that_is_used() -> None:
    authenticator = PendingAuthenticator()
    site_client = SiteClient(limits=Limits(connections=3), authenticate=authenticator)
    handled = site_client.transport
    site_client.send(HEARTBEAT)
    site_client.connect()
    receiving = site_client.transport
    site_client.send(HEAD)
    site_client.connect()
    idle = site_client.transport
    site_client.connect()
    assert idle.disconnecting and not idle.disconnected  # closed in order
    assert not handled.disconnecting and not receiving.disconnecting
    authenticator.accept_next()
    assert b" 200 " in handled.value()


def test_an_answer_that_is_not_read_yet_is_not_cut() -> None:
    site_client = SiteClient(limits=Limits(connections=2))
    unread, channel = site_client.transport, site_client.channel
    channel.pauseProducing()  # as the transport does when its buffer is full
    assert b" 200 " in site_client.send(HEARTBEAT)
    site_client.connect()
    idle = site_client.transport
    site_client.connect()
    assert idle.disconnecting and not unread.disconnecting
    channel.resumeProducing()
    site_client.send(HEARTBEAT)
    site_client.connect()
    assert unread.disconnecting


def test_a_connection_is_idle_again_after_its_answer() -> None:
    site_client = SiteClient(limits=Limits(connections=2))
    first = site_client.transport
    assert b" 200 " in site_client.send(HEARTBEAT)
    site_client.connect()
    second = site_client.transport
    assert b" 200 " in site_client.send(HEARTBEAT)
    site_client.connect()
    assert first.disconnecting and not second.disconnecting
    assert b" 200 " in site_client.send(HEARTBEAT)


def test_a_request_that_is_cut_is_reported_with_the_reason() -> None:
    site_client = SiteClient(limits=Limits(connections=2), authenticate=PendingAuthenticator())
    site_client.send(HEARTBEAT)
    site_client.connect()
    newest, channel = site_client.transport, site_client.channel
    site_client.send(HEARTBEAT)
    site_client.connect("192.0.2.1")
    assert newest.disconnected
    channel.connectionLost()
    assert [event.outcome for event in site_client.ended] == ["closed to make room"]


def test_a_connection_that_is_turned_away_gets_no_channel() -> None:
    site_client = SiteClient(limits=Limits(connections=1), authenticate=PendingAuthenticator())
    site_client.send(HEARTBEAT)
    assert site_client.site.buildProtocol(IPv4Address("TCP", "127.0.0.1", 2)) is None


@pytest.mark.parametrize(
    ("first", "second"), [("2001:db8::1", "2001:db8::ffff"), ("192.0.2.1", "192.0.2.1")]
)
def test_an_ipv6_network_is_one_address(first: str, second: str) -> None:
    site_client = SiteClient(limits=Limits(connections=4))
    closed = []
    for host in (first, second, "192.0.2.2", "192.0.2.3"):
        site_client.connect(host)
        closed.append(site_client.transport)
    # the first connection is of 127.0.0.1, so five are asked for and one had to go
    site_client.connect("192.0.2.4")
    assert [transport.disconnecting for transport in closed] == [True, False, False, False]


def test_a_lost_connection_is_not_counted() -> None:
    site_client = SiteClient(limits=Limits(connections=1))
    for _ in range(5):
        site_client.channel.connectionLost()
        site_client.connect()
        assert b" 200 " in site_client.send(HEARTBEAT)
    assert len(site_client.site.connections) == 1
