"""Repeats in the log: of messages that are alike, so many in a period are written; the others are counted."""

import logging
from dataclasses import dataclass

LIMIT = 10
"""Messages of one kind that are written in a period."""
PERIOD = 10.0
"""Seconds."""
MOST_KINDS = 1000
"""Kinds that are told apart; with the last of them the period ends early."""

Kind = tuple[str, int, str, str]
"""What alike messages share: logger, level, format, and its first argument, which mostly is the cluster."""


def kind_of(record: logging.LogRecord) -> Kind:
    return record.name, record.levelno, str(record.msg), str(next(iter(record.args or ()), ""))[:100]


@dataclass(slots=True)
class _Seen:
    count: int
    last: logging.LogRecord


class Repeats:
    """Which records are written. For one thread; ``now`` is in seconds, of any clock that only goes on."""

    def __init__(self) -> None:
        self._seen: dict[Kind, _Seen] = {}
        self._ends = 0.0
        self._left_out = False

    def take(self, kind: Kind, record: logging.LogRecord, now: float) -> list[logging.LogRecord]:
        """What is to be written now that this record has come; it is part of it, or counted."""
        written = self.end(now) if now >= self._ends or len(self._seen) >= MOST_KINDS else []
        if not self._seen:
            self._ends = now + PERIOD
        seen = self._seen.setdefault(kind, _Seen(0, record))
        seen.count += 1
        seen.last = record
        if seen.count > LIMIT:
            self._left_out = True
            return written
        return [*written, record]

    def remaining(self, now: float) -> float | None:
        """Seconds until there is something to be told of this period; None when there is nothing."""
        return max(0.0, self._ends - now) if self._left_out else None

    def end(self, now: float) -> list[logging.LogRecord]:
        """Ends the period: tells of each kind how many were left out."""
        seconds = max(1, round(PERIOD - self._ends + now))
        left_out = [seen for seen in self._seen.values() if seen.count > LIMIT]
        self._seen.clear()
        self._left_out = False
        return [_told(seen.last, seen.count - LIMIT, seconds) for seen in left_out]


def _told(last: logging.LogRecord, count: int, seconds: int) -> logging.LogRecord:
    message = f"... {count} more like this in the last {seconds} s; the last: {last.getMessage()}"
    return logging.LogRecord(last.name, last.levelno, last.pathname, last.lineno, message, None, None)
