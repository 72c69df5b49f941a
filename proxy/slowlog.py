"""The slow log: requests that took longer than a cluster's ``slowlog_slower_than``.

The workers remember the last of them; here they are made readable for /slowlog and for the file,
both in the shape of Overlord's: durations in ns, times in RFC 3339.
"""

import json
import logging
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Protocol

from proxy.answers import Client, SlowRecord
from proxy.answers.slow import slow_arguments
from proxy.counters import SlowEntry

log = logging.getLogger("proxy.slowlog")

INTERVAL = 1.0
"""Seconds between two looks at what the workers remember, for the file."""


class Worker(Protocol):
    number: int

    def client_of(self, session: int) -> Client | None: ...

    def slow_entries(self, cluster: int, after: int) -> list[SlowEntry]: ...


def readable(cluster: str, entry: SlowEntry, now: datetime) -> dict[str, object]:
    _, session, age, total, waiting, server, client, size, shown = entry
    return {
        "cluster": cluster,
        "CacheType": "redis_cluster",
        "Cmd": [argument.decode("utf-8", "backslashreplace") for argument in slow_arguments(shown)],
        "StartTime": (now - timedelta(microseconds=(age + total) / 1e3)).isoformat(timespec="microseconds"),
        "TotalDur": total,
        "RemoteDur": waiting,
        "WaitWriteDur": total - waiting,
        "Addr": server,
        "Client": client,
        "Session": session,
        "Size": size,
    }


def slow_record(worker: Worker, entry: SlowEntry, workers: int) -> SlowRecord:
    """An entry as SLOWLOG GET tells it; ``workers`` is how many there are, whose entries share the ids."""
    number, session, age, total, _, _, address, _, shown = entry
    client = worker.client_of(session)
    return SlowRecord(
        id=number * workers + worker.number,
        when=time.time() - (age + total) / 1e9,
        duration=total // 1000,
        args=slow_arguments(shown),
        address=client.address if client else address,
        name=client.name if client else "",
    )


def report(clusters: Sequence[str], workers: Sequence[Worker]) -> list[dict[str, object]]:
    """What /slowlog shows: every request remembered, oldest first."""
    now = datetime.now(UTC)
    found: list[dict[str, object]] = []
    for index, cluster in enumerate(clusters):
        entries = [entry for worker in workers for entry in worker.slow_entries(index, 0)]
        entries.sort(key=lambda entry: -entry[2])
        found.append({"cluster": cluster, "entries": [readable(cluster, entry, now) for entry in entries]})
    return found


class SlowLogFile:
    """Writes slow requests to a file, one JSON object a line, rotated by size."""

    def __init__(
        self, path: Path, max_bytes: int, backups: int, clusters: Sequence[str], workers: Sequence[Worker]
    ) -> None:
        """Opens the file at once; raises OSError when it can't."""
        self._handler = RotatingFileHandler(path, maxBytes=max_bytes, backupCount=backups, encoding="utf-8")
        self._clusters = clusters
        self._workers = workers
        self._seen: dict[tuple[int, int], int] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="slowlog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        self._handler.close()

    def _run(self) -> None:
        while not self._stopping.wait(INTERVAL):
            self._write()
        self._write()

    def _write(self) -> None:
        now = datetime.now(UTC)
        for index, cluster in enumerate(self._clusters):
            for number, worker in enumerate(self._workers):
                for entry in worker.slow_entries(index, self._seen.get((index, number), 0)):
                    self._seen[index, number] = entry[0]
                    line = json.dumps(readable(cluster, entry, now))
                    self._handler.emit(logging.makeLogRecord({"msg": "%s", "args": (line,)}))
