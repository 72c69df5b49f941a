"""A load by a real client, that sees every request that fails and every write that is applied twice."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

from lab.processes import wait_until
from proxy.address import Address

PAUSE = 0.03
"""Seconds between a client's commands: the machine is needed for what is tested, too."""


@dataclass
class Count:
    """What the clients have seen."""

    requests: int = 0
    connects: int = 0
    slowest: float = 0.0
    """Seconds."""
    failures: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.requests:,} requests, {len(self.failures)} failed, {self.connects} connections made, "
            f"the slowest request took {self.slowest * 1000:.0f} ms"
        )


class Load:
    """Clients of redis-py, each on a connection that it keeps.

    Without ``retries`` a request whose connection is closed instead of a reply has failed; with them
    redis-py sends it again, as it does by default. Every client counts in a key of its own: a request that
    was executed, and whose connection was closed all the same, is counted twice then, and seen.
    """

    def __init__(self, address: Address, clients: int = 8, retries: int = 3) -> None:
        self._address = address
        self._retries = retries
        self._ended = threading.Event()
        self._counts = [Count() for _ in range(clients)]
        self._threads = [
            threading.Thread(target=self._run, args=(number, count), daemon=True)
            for number, count in enumerate(self._counts)
        ]

    @property
    def count(self) -> Count:
        return Count(
            sum(count.requests for count in self._counts),
            sum(count.connects for count in self._counts),
            max(count.slowest for count in self._counts),
            [failure for count in self._counts for failure in count.failures],
        )

    def wait_for(self, requests: int) -> None:
        """Waits until so many more have been sent. Raises TimeoutError."""
        enough = self.count.requests + requests
        wait_until(f"{requests} more requests", lambda: self.count.requests >= enough)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(60)

    def _run(self, number: int, count: Count) -> None:
        class Connection(redis.Connection):  # counts itself
            def connect(self) -> None:
                if self._sock is None:
                    count.connects += 1
                super().connect()  # type: ignore[no-untyped-call]

        pool = redis.ConnectionPool(
            host=self._address.host,
            port=self._address.port,
            connection_class=Connection,
            retry=Retry(ExponentialWithJitterBackoff(base=0.01, cap=1), self._retries),
            socket_timeout=10,
            socket_connect_timeout=10,
        )
        with redis.Redis(connection_pool=pool) as client:
            self._count_up(client, number, count)

    def _count_up(self, client: Any, number: int, count: Count) -> None:
        key, others = f"load:{number}", {f"load:{number}:{i}": str(i) for i in range(5)}
        client.delete(key)
        expected = 0
        while not self._ended.is_set():
            began = time.monotonic()
            try:
                value = client.incr(key)
                if value != expected + 1:
                    count.failures.append(f"INCR {key}: {value} instead of {expected + 1}")
                expected = value
                client.mset(others)
                if (values := client.mget(list(others))) != [value.encode() for value in others.values()]:
                    count.failures.append(f"MGET: {values}")
            except redis.RedisError as error:
                count.failures.append(f"{type(error).__name__}: {error}")
            count.requests += 3
            count.slowest = max(count.slowest, time.monotonic() - began)
            self._ended.wait(PAUSE)


@contextmanager
def load(address: Address, clients: int = 8, retries: int = 3) -> Iterator[Load]:
    """A load while the block runs."""
    running = Load(address, clients, retries)
    running.start()
    try:
        yield running
    finally:
        running.stop()
