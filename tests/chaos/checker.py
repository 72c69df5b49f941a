"""Whether what clients were told fits what servers have executed.

A failover loses what the old master had not passed on yet; so do all Redis Clusters. What was acknowledged,
and was executed by a server whose file proves it, has been lost by the cluster if it was told around a
failover. Everything else that is missing has been lost by the proxy.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

from tests.chaos.evidence import Evidence
from tests.chaos.final import Final
from tests.chaos.history import History, Kind, Outcome, Write

REPLICATION = 2.0
"""Seconds within which a master that is well has passed on what it executed."""

VIOLATIONS = (
    "acknowledged, never executed",
    "refused, executed all the same",
    "executed twice",
    "executed out of order",
    "lost without a failover",
    "read of what was never written",
    "read of an older value without a failover",
    "reply to another request",
    "no reply in time",
    "connection closed without a reason",
    "bug in a proxy",
)


class Window(NamedTuple):
    """Between two moments."""

    begin: float
    end: float

    def meets(self, begin: float, end: float) -> bool:
        return self.begin <= end and begin <= self.end


@dataclass
class Circumstances:
    """What may explain what clients were told."""

    failovers: list[Window] = field(default_factory=list)
    """From a fault of a server until the cluster was well again."""
    interruptions: dict[int, list[Window]] = field(default_factory=lambda: defaultdict(list))
    """When a proxy, by its number, was ended or told to close connections."""

    def failed_over(self, begin: float, end: float) -> bool:
        return any(window.meets(begin, end) for window in self.failovers)


@dataclass
class Verdict:
    counts: Counter[str] = field(default_factory=Counter)
    lost_by_cluster: Counter[str] = field(default_factory=Counter)
    violations: dict[str, list[str]] = field(default_factory=lambda: {name: [] for name in VIOLATIONS})

    @property
    def clean(self) -> bool:
        return not any(self.violations.values())

    def __add__(self, other: "Verdict") -> "Verdict":
        return Verdict(
            self.counts + other.counts,
            self.lost_by_cluster + other.lost_by_cluster,
            {name: self.violations[name] + other.violations[name] for name in VIOLATIONS},
        )


def check(history: History, evidence: Evidence, final: Final, circumstances: Circumstances) -> Verdict:
    """Tells all that does not fit."""
    return _Checker(history, evidence, final, circumstances).verdict


class _Checker:
    def __init__(
        self, history: History, evidence: Evidence, final: Final, circumstances: Circumstances
    ) -> None:
        self._history = history
        self._evidence = evidence
        self._final = final
        self._circumstances = circumstances
        self._by_key: dict[str, list[Write]] = defaultdict(list)
        self.verdict = Verdict()
        self._found = self.verdict.violations
        for write in sorted(history.writes, key=lambda write: write.number):
            self._by_key[write.key].append(write)
        self._count()
        self._take_over()
        for writes in self._by_key.values():
            if writes[0].kind is Kind.COUNTER:
                self._check_counter(writes)
            else:
                for write in writes:
                    self._check_write(write)
                self._check_order(writes)
                self._check_survival(writes)
        self._check_reads()

    def _count(self) -> None:
        counts = self.verdict.counts
        counts["requests"] = self._history.requests
        counts["reads"] = len(self._history.reads)
        counts.update(f"writes {write.outcome.value}" for write in self._history.writes)

    def _take_over(self) -> None:
        """What others have found already."""
        self._found["reply to another request"] += self._history.wrong + self._final.wrong
        self._found["no reply in time"] += self._history.unanswered
        self._found["executed out of order"] += self._evidence.disorder
        for proxy, at, why in self._history.closed:
            if not any(window.meets(at, at) for window in self._circumstances.interruptions[proxy]):
                self._found["connection closed without a reason"].append(f"proxy {proxy}, {at:.2f}: {why}")

    # --- writes --------------------------------------------------------------------------------

    def _check_write(self, write: Write) -> None:
        """One write beside its executions."""
        marks = self._evidence.of(write.key, write.number)
        if len(marks) > 1:
            self._found["executed twice"].append(f"{write}: {sorted(marks)}")
        if write.outcome is Outcome.REFUSED and marks:
            self._found["refused, executed all the same"].append(str(write))
        if write.outcome is Outcome.OK and not marks:
            self._found["acknowledged, never executed"].append(str(write))
        elif write.outcome is Outcome.OK and write.kind is Kind.STREAM and write.reply not in marks:
            self._found["reply to another request"].append(f"{write}: {write.reply}, executed as {marks}")

    def _check_order(self, writes: Sequence[Write]) -> None:
        """One whose outcome is unknown may be executed later, by a server that wakes up."""
        before, earlier = 0, writes[0]
        for write in writes:
            marks = self._evidence.of(write.key, write.number)
            if write.outcome is not Outcome.OK or not marks or "" in marks:
                continue
            at = min(int(mark.partition("-")[0]) for mark in marks)
            if at < before:
                self._found["executed out of order"].append(f"{write} before {earlier}")
            before, earlier = at, write

    def _check_survival(self, writes: Sequence[Write]) -> None:
        """Of a stream all that was acknowledged has to be there at the end; else the last write."""
        acknowledged = [write for write in writes if write.outcome is Outcome.OK]
        if writes[0].kind is Kind.STREAM:
            entries = self._final.entries.get(writes[0].key, {})
            missing = [write for write in acknowledged if entries.get(write.number) != write.reply]
        else:
            last = self._final.last.get(writes[0].key, 0)
            missing = [write for write in acknowledged[-1:] if write.number > last]
        for write in missing:
            self._lost(write.answered, write.answered, str(write))

    def _lost(self, begin: float, end: float, what: str, count: int = 1) -> None:
        """Between these moments something acknowledged went missing."""
        if self._circumstances.failed_over(begin - REPLICATION, end + REPLICATION):
            self.verdict.lost_by_cluster["acknowledged writes"] += count
        else:
            self._found["lost without a failover"].append(what)

    def _check_counter(self, writes: Sequence[Write]) -> None:
        """It can't be ahead of what was asked, nor fall back without a failover."""
        key, refused, told, at = writes[0].key, 0, 0, 0.0
        for write in writes:
            refused += write.outcome is Outcome.REFUSED
            if write.outcome is not Outcome.OK:
                continue
            value = int(write.reply)
            if value > write.number - refused:
                self._found["executed twice"].append(f"{write}: counted {value}")
            if value <= told:
                self._lost(at, write.answered, f"{write}: counted {value} after {told}", told + 1 - value)
            told, at = value, write.answered
        executed, last = self._evidence.counts[key], self._final.last.get(key, 0)
        if told and not executed:
            self._found["acknowledged, never executed"].append(key)
        if max(executed, last) > len(writes) - refused:
            self._found["executed twice"].append(f"{key}: {max(executed, last)} of {len(writes) - refused}")
        if last < told:
            self._lost(at, at, f"{key} counts {last}, not {told}", told - last)

    # --- reads ---------------------------------------------------------------------------------

    def _check_reads(self) -> None:
        """Every read sees a write that was executed, and none older than was known when it was sent."""
        newest = {key: self._newest(key) for key in self._by_key}
        for read in self._history.reads:
            executed = not read.number or self._evidence.of(read.key, read.number)
            if not executed or read.number > read.most:
                self._found["read of what was never written"].append(str(read))
                continue
            moments, numbers = newest.get(read.key, ([], []))
            before = bisect_left(moments, read.sent)
            least = max(read.least, numbers[before - 1] if before else 0)
            if read.number >= least:
                continue
            told = moments[bisect_left(numbers, least)]
            if self._circumstances.failed_over(told - REPLICATION, read.answered):
                self.verdict.lost_by_cluster["older values read"] += 1
            else:
                found = self._found["read of an older value without a failover"]
                found.append(f"{read} instead of {least}")

    def _newest(self, key: str) -> tuple[list[float], list[int]]:
        """Moments, and the newest write of a key that somebody knew of then, both ascending."""
        known = [(write.answered, write.number) for write in self._by_key[key] if write.outcome is Outcome.OK]
        known += self._seen[key]
        known.sort()
        return [at for at, _ in known], list(accumulate((number for _, number in known), max))

    @cached_property
    def _seen(self) -> dict[str, list[tuple[float, int]]]:
        """When reads of a key came back, and what with."""
        found: dict[str, list[tuple[float, int]]] = defaultdict(list)
        for read in self._history.reads:
            found[read.key].append((read.answered, read.number))
        return found
