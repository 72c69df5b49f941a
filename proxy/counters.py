"""The shapes in which a data plane tells its counters."""

from typing import TypedDict

Histogram = tuple[int, int, list[int]]
"""Count, sum in ns, and counts per bucket: bounds are proxy.sessions.LATENCY_BOUNDS, the last has none."""

SlowEntry = tuple[int, int, int, int, int, str, int, bytes]
"""Number, session, age ns, total ns, waiting for the server ns, server, request size, its first bytes."""


class Snapshot(TypedDict):
    """Counters of one cluster on one worker, since the start; sessions, blocked and epoch are of now."""

    sessions: int
    blocked: int
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
    # command id, error replies, latency of all
    commands: list[tuple[int, int, Histogram]]
    # name, open connections, lost, refused, ejected, latency
    servers: list[tuple[str, int, int, int, bool, Histogram]]


class Totals(TypedDict):
    """Counters of one worker, since the start; buffer_bytes is of now."""

    turns: int
    bytes_in: int
    bytes_out: int
    buffer_bytes: int
