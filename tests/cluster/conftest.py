"""Real servers: some for the whole run, and fresh ones for tests that break them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from lab.proxy_process import ProxyProcess
from lab.redis_cluster import RedisCluster, RedisServer
from tests.cluster.hostile_server import MEBIBYTE, Hostile, HostileServer, proxy_before
from tests.cluster.memory import resident

BLIND = "blind"


@pytest.fixture(scope="session")
def cluster() -> Iterator[RedisCluster]:
    """Three masters, three replicas. Nothing in it may be killed or moved."""
    with RedisCluster() as running:
        yield running


@pytest.fixture(scope="session")
def plain() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@pytest.fixture(scope="session")
def shared_proxy(cluster: RedisCluster) -> Iterator[ProxyProcess]:
    """A proxy before ``cluster``, with two workers whatever the machine has."""
    proxy = ProxyProcess(cluster.addresses, proxy={"threads": 2})
    proxy.start()
    yield proxy
    log = proxy.log()
    assert proxy.stop() == 0, log
    assert "Traceback" not in log, log


@pytest.fixture
def new_cluster() -> Iterator[Callable[..., RedisCluster]]:
    """Makes clusters that end with the test; arguments are RedisCluster's."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(RedisCluster(**{"node_timeout": 1000, **options}))


@pytest.fixture
def new_proxy() -> Iterator[Callable[..., ProxyProcess]]:
    """Makes proxies that must end well with the test; further arguments are ProxyProcess's."""
    started: list[ProxyProcess] = []

    def make(before: RedisCluster, /, **options: Any) -> ProxyProcess:
        proxy = ProxyProcess(before.addresses, **options)
        proxy.start()
        started.append(proxy)
        return proxy

    yield make
    for proxy in started:
        log = proxy.log()
        assert proxy.stop() == 0, log
        assert "Traceback" not in log, log


@pytest.fixture(scope="module")
def hostile_pair(cluster: RedisCluster) -> Iterator[Hostile]:
    # The real servers tell this user nothing of slots: else they are believed while the hostile one is late.
    for node in cluster.nodes:
        node.call("ACL", "SETUSER", BLIND, "on", f">{BLIND}", "~*", "&*", "+@all", "-cluster|slots")
    with HostileServer(cluster) as server:
        proxy = proxy_before(server, user=BLIND)
        proxy.start()
        yield Hostile(server, proxy)
        log = proxy.log()
        assert proxy.stop() == 0, log


@pytest.fixture
def hostile(hostile_pair: Hostile) -> Iterator[Hostile]:
    """After each test the server behaves again, all is as it was, and no bug has been logged."""
    server, proxy = hostile_pair
    server.relent()
    hostile_pair.wait_until_served()
    before = resident(proxy.pid)
    yield hostile_pair
    server.relent()
    hostile_pair.wait_until_served()
    assert "Traceback" not in proxy.log()
    assert resident(proxy.pid) - before < 64 * MEBIBYTE
