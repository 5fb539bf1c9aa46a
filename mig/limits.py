"""All limits of the service in one value: how much it holds, and how long it waits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Final, Literal

HOUR: Final = 3_600
GIB: Final = 1_073_741_824

Kind = Literal["count", "bytes", "seconds", "number", "switch"]


@dataclass(frozen=True, kw_only=True)
class Bound:
    """What a field of :class:`Limits` bounds, and to what it may be set.

    ``kind`` is how it is written: a whole number, also of bytes; a duration; any number; on or off.
    ``is_fixed`` tells that the parts of a running service do not notice a change.
    """

    meaning: str
    kind: Kind
    low: float
    high: float
    is_fixed: bool


def _describe(bound: Bound) -> Mapping[str, object]:
    """Return the metadata of a field, as those of other sections of the configuration have it."""
    return {"bound": bound, "is_reloaded": not bound.is_fixed}


def _count(
    default: int, meaning: str, *, low: int = 1, high: int = 1_000_000, is_fixed: bool = False
) -> int:
    bound = Bound(meaning=meaning, kind="count", low=low, high=high, is_fixed=is_fixed)
    return field(default=default, metadata=_describe(bound))


def _bytes(
    default: int, meaning: str, *, low: int = 1_024, high: int = GIB, is_fixed: bool = False
) -> int:
    bound = Bound(meaning=meaning, kind="bytes", low=low, high=high, is_fixed=is_fixed)
    return field(default=default, metadata=_describe(bound))


def _seconds(
    default: float, meaning: str, *, low: float = 1, high: int = HOUR, is_fixed: bool = False
) -> float:
    bound = Bound(meaning=meaning, kind="seconds", low=low, high=high, is_fixed=is_fixed)
    return field(default=default, metadata=_describe(bound))


def _number(
    default: float, meaning: str, *, low: float, high: float, is_fixed: bool = False
) -> float:
    bound = Bound(meaning=meaning, kind="number", low=low, high=high, is_fixed=is_fixed)
    return field(default=default, metadata=_describe(bound))


def _switch(default: bool, meaning: str) -> bool:
    bound = Bound(meaning=meaning, kind="switch", low=0, high=1, is_fixed=False)
    return field(default=default, metadata=_describe(bound))


@dataclass(kw_only=True)
class Limits:
    """The limits of a service, each of which is a key of ``[limits]`` in the configuration.

    Sizes are in bytes and times in seconds; every other field is a number of things. Only
    :meth:`change` changes a value.
    """

    # what each client address, and each caller, may do
    rate: float = _number(
        50, "requests a second of a client address, and of a caller", low=0.01, high=1_000_000
    )
    burst: int = _count(200, "requests that they may send at once before that")
    streams: int = _count(
        4,
        "long answers that they may have at the same time: searches and reports for more rows than"
        " short_search_rows, summaries, and later pages of a report with latest=true",
        high=100_000,
    )
    loopback: bool = _switch(
        False, "whether rate, burst and streams are also for clients on this host"
    )
    limited_clients: int = _count(
        10_000,
        "client addresses, and callers, whose requests are counted; the oldest are forgotten",
    )

    # connections and requests
    connections: int = _count(
        4_096,
        "open connections of clients; fewer when the limit of open files is lower",
        low=16,
        high=1_000_000,
        is_fixed=True,
    )
    admin_connections: int = _count(
        16, "open connections to the admin listener", high=1_000, is_fixed=True
    )
    idle_seconds: float = _seconds(
        60, "how long a connection may be without a request", is_fixed=True
    )
    header_seconds: float = _seconds(15, "from a request's first byte to the end of its headers")
    gate_seconds: float = _seconds(
        10, "from the end of a request's headers to the decision whether to accept it"
    )
    body_seconds: float = _seconds(
        60, "from the decision to accept a request to the end of its body"
    )
    body_bytes_per_second: int = _bytes(
        16_384, "how much of a body gives its client another second"
    )
    linger_seconds: float = _seconds(5, "how long a refused client may go on sending")
    linger_bytes: int = _bytes(67_108_864, "how much a refused client may go on sending", low=0)
    discarded_body_bytes: int = _bytes(
        8_192, "the body of a request that needs no body", low=0, high=1_048_576, is_fixed=True
    )
    action_body_bytes: int = _bytes(
        10_485_760, "the body that submits an action", high=67_108_864, is_fixed=True
    )
    key_body_bytes: int = _bytes(
        65_536,
        "the body that submits or changes an investigator or an API key",
        high=1_048_576,
        is_fixed=True,
    )
    total_body_bytes: int = _bytes(
        67_108_864,
        "all bodies together, of which a client may have half; more if the longest needs it",
        high=68_719_476_736,
        is_fixed=True,
    )
    reserved_body_bytes: int = _bytes(
        8_388_608, "the part of total_body_bytes that is kept for small bodies", is_fixed=True
    )
    small_body_bytes: int = _bytes(
        65_536, "a small body; also the first bytes of a larger one", is_fixed=True
    )

    parameters: int = _count(64, "parameters of a request", high=10_000)

    # the end of the daemon
    grace_seconds: float = _seconds(30, "how long answers go on when the daemon stops")
    first_request_seconds: float = _seconds(
        5, "how long a connection that has had no request waits for one then"
    )
    last_request_seconds: float = _seconds(
        1, "how long a connection that has had one waits for another one then", low=0.001
    )
    cut_seconds: float = _seconds(
        5, "how long what is cut then may take to end, here and at the database"
    )

    # parsing of actions
    action_values: int = _count(200_000, "JSON values in an action, arrays and objects included")
    action_signatures: int = _count(20, "signatures of an action", high=1_000)
    inline_action_bytes: int = _bytes(
        16_384, "the body with an action that is parsed without another process", low=0
    )
    large_actions: int = _count(
        2, "actions above inline_action_bytes that are handled at once", high=64, is_fixed=True
    )
    waiting_actions: int = _count(
        256, "small actions, and large ones, that wait to be parsed", high=100_000, is_fixed=True
    )
    action_wait_seconds: float = _seconds(30, "how long an action waits to be parsed")
    parser_seconds: float = _seconds(
        10, "how long the other process may take for each of its two answers about an action"
    )
    parser_idle_seconds: float = _seconds(
        60, "how long the other process waits for another action before it ends"
    )

    # answers
    stream_seconds: float = _seconds(
        3_600, "a streamed answer, from its first byte to its last", high=604_800
    )
    stall_seconds: float = _seconds(30, "how long a client may read nothing of a streamed answer")
    stall_bytes_per_second: int = _bytes(
        16_384, "how much of a large piece of an answer gives its client another second"
    )
    pause_seconds: float = _seconds(
        5, "how long a client may pause before its stream gives its connection back", low=0.001
    )
    wanted_pause_seconds: float = _seconds(
        0.05, "the same, while another request waits for the connection", low=0.001
    )
    total_streams: int = _count(
        256,
        "streamed answers of all clients, also those whose clients pause",
        high=100_000,
        is_fixed=True,
    )
    suspended_bytes: int = _bytes(
        16_777_216,
        "what all streams without a connection hold in pieces above short_answer_bytes",
        high=68_719_476_736,
    )
    short_answer_bytes: int = _bytes(
        131_072, "the answer of a small search; a piece of an answer that any stream may hold"
    )
    whole_answer_bytes: int = _bytes(
        1_048_576, "an answer that is sent in one piece; the longest one over HTTP/1.0"
    )
    large_documents: int = _count(
        8, "single documents above whole_answer_bytes that are sent at once"
    )

    # the database
    query_connections: int = _count(
        8, "connections that small queries share", high=1_000, is_fixed=True
    )
    stream_connections: int = _count(
        8, "searches and reports that are read at the same time", high=1_000, is_fixed=True
    )
    short_connections: int = _count(
        4,
        "small searches that run while the connections for streams are in use",
        high=1_000,
        is_fixed=True,
    )
    short_search_rows: int = _count(100, "the largest limit of a small search", low=0, high=10_000)
    short_query_seconds: float = _seconds(
        1,
        "a statement of a small search; after a longer one it waits for a stream's connection",
        low=0.01,
        is_fixed=True,
    )
    client_share: float = _number(
        0.75,
        "the share of connections for searches that a client keeps while another one waits",
        low=0.01,
        high=1,
        is_fixed=True,
    )
    waiting_queries: int = _count(
        256, "requests that wait for a connection of either kind", high=100_000, is_fixed=True
    )
    connection_wait_seconds: float = _seconds(
        10, "how long a request waits for a connection", is_fixed=True
    )
    stream_wait_seconds: float = _seconds(
        20,
        "how long a search or report waits for a connection before its first byte",
        is_fixed=True,
    )

    connect_seconds: float = _seconds(
        10, "how long a connection to the database may take, to all servers that its URL names"
    )
    lock_wait_seconds: float = _seconds(
        2,
        "how long a small query waits for a row that another transaction has locked",
        low=0.01,
        is_fixed=True,
    )
    fetch_seconds: float = _seconds(60, "how long PostgreSQL takes for a page of a stream")
    query_seconds: float = _seconds(
        10, "how long a small query or a commit may take, until its answer is here", is_fixed=True
    )
    restricted_seconds: float = _seconds(
        5, "how long PostgreSQL evaluates the condition of a search with target=", low=0.01
    )
    restricted_wait_seconds: float = _seconds(
        5, "how long such a search waits for the condition of another one"
    )
    restricted_end_seconds: float = _seconds(
        60, "how long a condition that PostgreSQL does not stop keeps others waiting"
    )
    targeted_agents: int = _count(
        1_000_000, "the agents that fulfil such a condition", high=10_000_000
    )

    # the audit
    refusals: int = _count(
        1_000,
        "refusals of known callers that are counted, each for a minute; also those that wait to be"
        " written to the audit",
        is_fixed=True,
    )
    refusal_reasons: int = _count(
        20, "reasons of refusals that are counted apart for a caller; others are counted together"
    )
    refusal_addresses: int = _count(
        1_000, "addresses whose refusals without a known caller are counted", is_fixed=True
    )
    refusal_seconds: float = _seconds(
        60, "how long refusals are counted before they are recorded", is_fixed=True
    )

    # results and reports
    result_bytes: int = _bytes(33_554_432, "the results of a command; larger ones are not read")
    cached_checks: int = _count(4_096, "searches and checks of each kind that a report keeps")
    cached_check_bytes: int = _bytes(4_096, "the key under which a report keeps an encoded check")
    latest_answers: int = _count(
        2_000_000,
        "agents' answers to checks that a report with latest=true keeps, and a client's all such"
        " reports; twice as many of all clients",
        high=100_000_000,
        is_fixed=True,
    )
    cached_record_bytes: int = _bytes(
        33_554_432, "the actions that a search or report keeps, and as much again its agents"
    )
    summary_groups: int = _count(100_000, "groups of a summary")
    summary_bytes: int = _bytes(
        268_435_456,
        "what a summary keeps of its agents and groups, and a client's all summaries; twice as many"
        " of all clients",
        high=68_719_476_736,
        is_fixed=True,
    )
    preparation_seconds: float = _seconds(
        600,
        "how long a summary, or a report with latest=true, is read before its first byte",
        high=86_400,
    )
    counted_rows: int = _count(
        60_000,
        "agents and commands that the dashboard counts for every request",
        low=0,
        high=10_000_000,
    )
    count_share: float = _number(
        0.05,
        "the share of a core of PostgreSQL that is used to renew the dashboard's counts",
        low=0.001,
        high=1,
    )
    count_age_seconds: float = _seconds(300, "how old a count on the dashboard may be", high=86_400)

    # credentials
    failures_per_minute: int = _count(
        20, "wrong credentials of an address, or of one key from it, before it has to wait"
    )
    counted_failures: int = _count(
        10_000,
        "addresses, and pairs of address and key, whose wrong credentials are counted",
        is_fixed=True,
    )
    cached_credentials: int = _count(
        4_096,
        "tokens and API keys that are known to be good, and tokens known to be bad",
        is_fixed=True,
    )
    adopted_keys: int = _count(
        20,
        "investigators with a key of an earlier API; with more, no such key is accepted",
        is_fixed=True,
    )
    waiting_adopted_keys: int = _count(
        64, "credentials that wait to be compared with the keys of an earlier API", is_fixed=True
    )
    key_use_seconds: float = _seconds(
        60, "how often the last use of API keys is written", is_fixed=True
    )

    # signatures
    gpg_processes: int = _count(
        0,
        "gpg processes at the same time; 0 means one for each core of this process",
        low=0,
        high=256,
        is_fixed=True,
    )
    shared_signatures: int = _count(
        16, "signatures by one certificate that a run of gpg checks", high=64, is_fixed=True
    )
    waiting_checks: int = _count(256, "signatures and keys that wait for gpg", is_fixed=True)
    gpg_seconds: float = _seconds(10, "from a signature's arrival to gpg's answer", is_fixed=True)

    # API keys
    active_api_keys: int = _count(
        100, "API keys of an investigator that are neither revoked nor expired"
    )
    api_key_seconds: float = _seconds(
        315_360_000,
        "how far ahead the end of an API key may be, if it has one",
        low=86_400,
        high=3_153_600_000,
    )
    listed_api_keys: int = _count(500, "API keys in one document; a link leads to the next")

    # the hand-off through the spool
    handoff_batch: int = _count(100, "actions that are handed over in one transaction", high=10_000)
    handoff_threads: int = _count(
        3, "threads that may wait for the spool's file system", high=8, is_fixed=True
    )
    handoff_seconds: float = _seconds(5, "how long a submission waits for its hand-off")
    spool_seconds: float = _seconds(30, "how long the spool's file system may take for a batch")
    spool_lock_seconds: float = _seconds(
        5,
        "how long a batch waits for the spool's lock, and for the database while it holds it",
        is_fixed=True,
    )

    def change(self, new: Limits) -> None:
        """Take over the values of ``new``, apart from those that are fixed.

        A limit that a part reads when it needs it has its new value from then on.
        """
        for name, bound in BOUNDS.items():
            if not bound.is_fixed:
                setattr(self, name, getattr(new, name))


BOUNDS: Final[dict[str, Bound]] = {each.name: each.metadata["bound"] for each in fields(Limits)}
"""What each limit is, by its name."""
