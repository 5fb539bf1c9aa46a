"""All limits of the service in one value: how much it holds, and how long it waits."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any


def _define_limit(default: float, meaning: str, *, key: str = "") -> Any:
    """Return a field of :class:`Limits`; ``key`` is the configuration key that sets it."""
    return field(default=default, metadata={"meaning": meaning, "key": key})


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of a service.

    Sizes are in bytes and times in seconds; every other field is a number of things.
    """

    # connections and requests
    connections: int = _define_limit(
        4_096, "open connections of clients; fewer when the limit of open files is lower"
    )
    admin_connections: int = _define_limit(16, "open connections to the admin listener")
    idle_seconds: float = _define_limit(60, "how long a connection may be without a request")
    header_seconds: float = _define_limit(
        15, "from a request's first byte to the end of its headers"
    )
    gate_seconds: float = _define_limit(
        10, "from the end of a request's headers to the decision whether to accept it"
    )
    body_seconds: float = _define_limit(
        60, "from the decision to accept a request to the end of its body"
    )
    body_bytes_per_second: int = _define_limit(
        16_384, "how much of a body gives its client another second"
    )
    linger_seconds: float = _define_limit(5, "how long a refused client may go on sending")
    linger_bytes: int = _define_limit(67_108_864, "how much a refused client may go on sending")
    discarded_body_bytes: int = _define_limit(8_192, "the body of a request that needs no body")
    action_body_bytes: int = _define_limit(
        10_485_760, "the body that submits an action", key="[server] actionsize"
    )
    key_body_bytes: int = _define_limit(
        65_536,
        "the body that submits or changes an investigator or an API key",
        key="[server] keysize",
    )
    total_body_bytes: int = _define_limit(
        67_108_864,
        "all bodies together, of which a client may have half; more if the longest needs it",
    )
    reserved_body_bytes: int = _define_limit(
        8_388_608, "the part of total_body_bytes that is kept for small bodies"
    )
    small_body_bytes: int = _define_limit(
        65_536, "a small body; also the first bytes of a larger one"
    )

    # parsing of actions
    action_values: int = _define_limit(
        200_000, "JSON values in an action, arrays and objects included"
    )
    inline_action_bytes: int = _define_limit(
        16_384, "the body with an action that is parsed without another process"
    )
    large_actions: int = _define_limit(
        2, "actions above inline_action_bytes that are handled at once"
    )
    waiting_actions: int = _define_limit(
        256, "small actions, and large ones, that wait to be parsed"
    )
    action_wait_seconds: float = _define_limit(30, "how long an action waits to be parsed")
    parser_seconds: float = _define_limit(
        10, "how long the other process may take for each of its two answers about an action"
    )
    parser_idle_seconds: float = _define_limit(
        60, "how long the other process waits for another action before it ends"
    )

    # answers
    stream_seconds: float = _define_limit(
        3_600, "a streamed answer, from its first byte to its last"
    )
    stall_seconds: float = _define_limit(
        30, "how long a client may read nothing of a streamed answer"
    )
    stall_bytes_per_second: int = _define_limit(
        16_384, "how much of a large piece of an answer gives its client another second"
    )
    pause_seconds: float = _define_limit(
        5, "how long a client may pause before its stream gives its connection back"
    )
    wanted_pause_seconds: float = _define_limit(
        0.05, "the same, while another request waits for the connection"
    )
    streams: int = _define_limit(256, "streamed answers, also those whose clients pause")
    suspended_bytes: int = _define_limit(
        16_777_216, "what all streams without a connection hold in pieces above short_answer_bytes"
    )
    short_answer_bytes: int = _define_limit(
        131_072,
        "the answer of a small search; a piece of an answer that any stream may hold",
    )
    whole_answer_bytes: int = _define_limit(
        1_048_576, "an answer that is sent in one piece; the longest one over HTTP/1.0"
    )
    large_documents: int = _define_limit(
        8, "single documents above whole_answer_bytes that are sent at once"
    )

    # the database
    query_connections: int = _define_limit(8, "connections that small queries share")
    stream_connections: int = _define_limit(
        8, "searches and reports that are read at the same time"
    )
    short_connections: int = _define_limit(
        4, "small searches that run while the connections for streams are in use"
    )
    short_search_rows: int = _define_limit(100, "the largest limit of a small search")
    short_query_seconds: float = _define_limit(
        1, "a statement of a small search; after a longer one it waits for a stream's connection"
    )
    client_share: float = _define_limit(
        0.75, "the share of connections for searches that a client keeps while another one waits"
    )
    waiting_queries: int = _define_limit(256, "requests that wait for a connection of either kind")
    connection_wait_seconds: float = _define_limit(10, "how long a request waits for a connection")
    stream_wait_seconds: float = _define_limit(
        20, "how long a search or report waits for a connection before its first byte"
    )

    query_seconds: float = _define_limit(
        10, "how long a small query or a commit may take, until its answer is here"
    )
    restricted_seconds: float = _define_limit(
        5, "how long PostgreSQL evaluates the condition of a search with target="
    )
    restricted_wait_seconds: float = _define_limit(
        5, "how long such a search waits for the condition of another one"
    )
    restricted_end_seconds: float = _define_limit(
        60, "how long a condition that PostgreSQL does not stop keeps others waiting"
    )
    targeted_agents: int = _define_limit(1_000_000, "the agents that fulfil such a condition")

    # the audit
    refusals: int = _define_limit(
        1_000,
        "refusals of known callers that are counted, each for a minute; also those that wait to be"
        " written to the audit",
    )
    refusal_reasons: int = _define_limit(
        20, "reasons of refusals that are counted apart for a caller; others are counted together"
    )
    refusal_addresses: int = _define_limit(
        1_000, "addresses whose refusals without a known caller are counted"
    )
    refusal_seconds: float = _define_limit(
        60, "how long refusals are counted before they are recorded"
    )

    # results and reports
    result_bytes: int = _define_limit(
        33_554_432, "the results of a command; larger ones are not read"
    )
    cached_checks: int = _define_limit(
        4_096, "searches and checks of each kind that a report keeps"
    )
    cached_check_bytes: int = _define_limit(
        4_096, "the key under which a report keeps an encoded check"
    )
    latest_answers: int = _define_limit(
        2_000_000,
        "agents' answers to checks that a report with latest=true keeps, and a client's all such"
        " reports; twice as many of all clients",
    )
    counted_rows: int = _define_limit(
        60_000, "agents and commands that the dashboard counts for every request"
    )
    count_age_seconds: float = _define_limit(300, "how old a count on the dashboard may be")

    # credentials
    failures_per_minute: int = _define_limit(
        20, "wrong credentials of an address, or of one key from it, before it has to wait"
    )
    counted_failures: int = _define_limit(
        10_000, "addresses, and pairs of address and key, whose wrong credentials are counted"
    )
    cached_credentials: int = _define_limit(
        4_096, "tokens and API keys that are known to be good, and tokens known to be bad"
    )
    adopted_keys: int = _define_limit(
        20, "investigators with a key of an earlier API; with more, no such key is accepted"
    )
    waiting_adopted_keys: int = _define_limit(
        64, "credentials that wait to be compared with the keys of an earlier API"
    )
    key_use_seconds: float = _define_limit(60, "how often the last use of API keys is written")

    # signatures
    gpg_processes: int = _define_limit(
        0, "gpg processes at the same time; 0 means one for each core of this process"
    )
    waiting_checks: int = _define_limit(256, "signatures and keys that wait for gpg")
    gpg_seconds: float = _define_limit(10, "from a signature's arrival to gpg's answer")

    # API keys
    active_api_keys: int = _define_limit(
        100, "API keys of an investigator that are neither revoked nor expired"
    )
    api_key_seconds: int = _define_limit(
        315_360_000, "how far ahead the end of an API key may be, if it has one"
    )
    listed_api_keys: int = _define_limit(500, "API keys in one document; a link leads to the next")

    # the hand-off through the spool
    handoff_batch: int = _define_limit(100, "actions that are handed over in one transaction")
    handoff_threads: int = _define_limit(3, "threads that may wait for the spool's file system")
    handoff_seconds: float = _define_limit(5, "how long a submission waits for its hand-off")
    spool_seconds: float = _define_limit(
        30, "how long the spool's file system may take for a batch"
    )
    spool_lock_seconds: float = _define_limit(
        5, "how long a batch waits for the spool's lock, and for the database while it holds it"
    )


def describe_limits() -> list[tuple[str, float, str, str]]:
    """Return name, default, meaning and configuration key of each limit, in order."""
    limits = Limits()
    return [
        (limit.name, getattr(limits, limit.name), limit.metadata["meaning"], limit.metadata["key"])
        for limit in fields(Limits)
    ]


def find_limit_key(name: str) -> str:
    """Return the configuration key that sets the limit ``name``; empty if none does."""
    return next(key for limit, _, _, key in describe_limits() if limit == name)
