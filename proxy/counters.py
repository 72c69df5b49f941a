"""The shapes in which a data plane tells its counters."""

from typing import NamedTuple, TypedDict

Histogram = tuple[int, int, list[int]]
"""Count, sum in ns, and counts per bucket: bounds are proxy.stats.LATENCY_BOUNDS, the last has none."""

SlowEntry = tuple[int, int, int, int, int, str, str, int, bytes]
"""Number, session, age, total, waiting for the server (ns), server, client, request size, its first bytes."""


class UpstreamRow(NamedTuple):
    """A connection to a server, or one that is being made or can't be made for now."""

    server: str
    number: int  # its place among its server's
    kind: str  # shared, pinned (for one session at a time) or subscriber
    resp: int
    state: str  # dialing, open or resting: it can't be made for now
    session: int  # that has a pinned one; 0: none has
    waiting: int  # requests whose replies are awaited
    waited: float  # seconds for the oldest of them
    output: int  # bytes of them
    failures: int  # dials and connections lost in a row


class Snapshot(TypedDict):
    """Counters of one cluster on one worker, since the start; the first four are of now."""

    sessions: int
    blocked: int
    parked: int
    epoch: int
    moved: int
    asked: int
    retried: int
    timeouts: int
    unknown_outcomes: int
    output_overflows: int
    evicted: int
    turned_away: int
    protocol_errors: int
    slow_requests: int
    errors: list[int]  # by the codes of proxy.stats.CODES
    widths: list[int]  # commands of several parts by proxy.stats.WIDTH_BOUNDS, the last has none
    parts: int
    # command id, error replies, latency of all
    commands: list[tuple[int, int, Histogram]]
    # name, open connections, requests not answered yet, connections lost, refused, ejected, latency
    servers: list[tuple[str, int, int, int, int, bool, Histogram]]


class Totals(TypedDict):
    """Counters of one worker, since the start; buffer_bytes and memory_limit are of now. Times are in ns."""

    turns: int
    client_in: int
    client_out: int
    server_in: int
    server_out: int
    waiting: int
    transferring: int
    deciding: int
    buffer_bytes: int
    memory_limit: int
