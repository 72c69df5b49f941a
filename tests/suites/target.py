"""What a suite is run against, and what came of it."""

import argparse
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from lab.proxy_process import ProxyProcess
from lab.redis_cluster import RedisCluster, RedisServer
from proxy.address import Address


@dataclass
class Outcome:
    """What became of the tests: their names, of failed ones what the suite said too where it is known."""

    ok: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    """By name, because the list says so."""
    ignored: list[str] = field(default_factory=list)
    """Because of what they need: a tag, a marker, a version."""
    ended: bool = False
    """Whether the suite came to its end."""
    unused: list[str] = field(default_factory=list)
    """Entries of the list that name nothing there is."""

    def __iadd__(self, other: "Outcome") -> "Outcome":
        """Adds what became of further tests."""
        self.ok += other.ok
        self.failed += other.failed
        self.skipped += other.skipped
        self.ignored += other.ignored
        self.ended &= other.ended
        self.unused += other.unused
        return self

    @property
    def good(self) -> bool:
        return self.ended and not self.failed and not self.unused

    def told(self) -> int:
        """Prints it; returns an exit status."""
        print(
            f"{len(self.ok)} ok, {len(self.failed)} failed, {len(self.skipped)} skipped,"
            f" {len(self.ignored)} ignored{'' if self.ended else '; the suite did not come to its end'}"
        )
        for name in self.failed:
            print(f"failed: {name}")
        for name in self.unused:
            print(f"denied, and there is no such thing: {name}")
        return 0 if self.good else 1


OPEN = {"enable-debug-command": "yes"}
"""Tests ask servers to DEBUG."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--masters", type=int, default=3, help="of the cluster behind the proxy (%(default)s)"
    )
    parser.add_argument("--direct", action="store_true", help="no proxy: one server")
    parser.add_argument("--address", type=Address.parse, help="of something that runs already")
    parser.add_argument(
        "--servers",
        type=lambda text: [Address.parse(one) for one in text.split(",")],
        default=[],
        help="behind that address, if it is not itself a server",
    )


@contextmanager
def target(asked: argparse.Namespace, *, plain: bool = False) -> Iterator[tuple[Address, list[Address]]]:
    """The address of what is tested, and of the servers behind it; started unless it runs already.

    Without the proxy the server is a cluster of its own, or a ``plain`` one.
    """
    with ExitStack() as stack:
        if asked.address is not None:
            yield asked.address, asked.servers or [asked.address]
            return
        if asked.direct and plain:
            server = stack.enter_context(RedisServer(options=OPEN))
            yield server.address, [server.address]
            return
        masters = 1 if asked.direct else asked.masters
        cluster = stack.enter_context(RedisCluster(masters, 0, options=OPEN))
        if asked.direct:
            yield cluster.addresses[0], cluster.addresses
            return
        proxy = stack.enter_context(ProxyProcess(cluster.addresses))
        try:
            yield Address("127.0.0.1", proxy.port), cluster.addresses
        finally:
            print(proxy.log())
