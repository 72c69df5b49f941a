"""Reading from replicas: who answers, and who when they can't."""

from collections.abc import Callable

import pytest

from lab.processes import wait_until
from lab.proxy_process import ProxyProcess
from lab.redis_cluster import RedisCluster, RedisServer
from tests.cluster.wire import Wire

Clusters = Callable[..., RedisCluster]
Proxies = Callable[..., ProxyProcess]


def calls(server: RedisServer, command: str) -> int:
    """How often the server has carried the command out."""
    info: bytes = server.call("INFO", "commandstats")
    for line in info.decode().splitlines():
        if line.startswith(f"cmdstat_{command}:"):
            return int(line.split("calls=")[1].split(",")[0])
    return 0


def reads(proxy: ProxyProcess, servers: list[RedisServer], count: int = 30) -> list[int]:
    """How many of so many GETs each of the servers answered."""
    before = [calls(server, "get") for server in servers]
    for _ in range(count):
        with Wire(proxy.port) as wire:
            assert wire.ask("GET", "x") == b"$1\r\n1\r\n"
    return [calls(server, "get") - was for server, was in zip(servers, before, strict=True)]


@pytest.fixture
def shard(new_cluster: Clusters) -> tuple[RedisCluster, list[RedisServer]]:
    """A cluster, and the master and the two replicas of a shard, which have x = 1."""
    cluster = new_cluster(masters=3, replicas=2)
    master = cluster.master_of("x")
    servers = [master, *(node for node in cluster.running if replicates(node, master))]
    master.call("SET", "x", 1)
    assert master.call("WAIT", 2, 10_000) == 2
    wait_until(
        "every server knows of every replica",
        lambda: all(len(shard) == 5 for node in cluster.running for shard in node.call("CLUSTER", "SLOTS")),
    )
    return cluster, servers


def replicates(node: RedisServer, master: RedisServer) -> bool:
    role = node.call("ROLE")
    return bool(role[0] == b"slave" and role[2] == master.port)


@pytest.mark.parametrize(
    ("read_from", "expected"),
    [("master", (30, 0)), ("prefer_replica", (0, 30)), ("replica", (0, 30)), ("nearest", (10, 20))],
)
def test_who_answers(
    shard: tuple[RedisCluster, list[RedisServer]],
    new_proxy: Proxies,
    read_from: str,
    expected: tuple[int, int],
) -> None:
    cluster, (master, *replicas) = shard
    proxy = new_proxy(cluster, cluster={"read_from": read_from, "zone": "zone-a"})
    found = reads(proxy, [master, *replicas])
    assert (found[0], sum(found[1:])) == expected
    if expected[1]:
        assert all(found[1:]), "every replica has its share"
    # Writes, transactions and scripts that may write are for the master.
    with Wire(proxy.port) as wire:
        assert wire.ask("SET", "x", "1") == b"+OK\r\n"
        assert wire.ask("MULTI") == b"+OK\r\n"
        assert wire.ask("GET", "x") == b"+QUEUED\r\n"
        assert wire.ask("EXEC") == b"*1\r\n$1\r\n1\r\n"
        assert wire.ask("EVAL", "return redis.call('SET', KEYS[1], 1)", "1", "x") == b"+OK\r\n"
        assert wire.ask("MGET", "x", "y", "z")[:11] == b"*3\r\n$1\r\n1\r\n"


def test_the_same_zone_first(shard: tuple[RedisCluster, list[RedisServer]], new_proxy: Proxies) -> None:
    """Zones are told apart by address: one replica has another than all others."""
    cluster, (master, near, far) = shard
    near.call("CONFIG", "SET", "bind", "127.0.0.1 127.0.0.2")
    near.call("CONFIG", "SET", "cluster-announce-ip", "127.0.0.2")
    wait_until(
        "the others know its address",
        lambda: all(b"127.0.0.2" in node.call("CLUSTER", "NODES") for node in cluster.running),
    )
    zones = ["127.0.0.2/32 zone-a", "127.0.0.1/32 zone-b"]
    proxy = new_proxy(cluster, cluster={"read_from": "nearest", "zone": "zone-a", "server_zones": zones})
    assert reads(proxy, [master, near, far]) == [0, 30, 0]
    near.kill()
    found = reads(proxy, [master, far])
    assert sum(found) == 30
    assert all(found), "where nobody is near, all have their share"


def test_replicas_that_die(shard: tuple[RedisCluster, list[RedisServer]], new_proxy: Proxies) -> None:
    cluster, (master, *replicas) = shard
    proxies = [
        new_proxy(cluster, cluster={"read_from": read_from, "read_timeout": 1500})
        for read_from in ("prefer_replica", "replica")
    ]
    replicas[0].kill()
    for proxy in proxies:
        assert reads(proxy, [master, replicas[1]], 20) == [0, 20]
    replicas[1].kill()
    preferring, strict = proxies
    assert reads(preferring, [master], 20) == [20]
    with Wire(strict.port) as wire:
        assert wire.ask("GET", "x").startswith(b"-")
        assert wire.ask("SET", "x", "1") == b"+OK\r\n"


def test_a_replica_that_is_promoted_and_one_that_has_lost_its_master(
    shard: tuple[RedisCluster, list[RedisServer]], new_proxy: Proxies
) -> None:
    cluster, (master, *replicas) = shard
    proxy = new_proxy(cluster, cluster={"read_from": "prefer_replica"})
    with Wire(proxy.port) as wire:
        assert wire.ask("GET", "x") == b"$1\r\n1\r\n"
        master.kill()
        wait_until(
            "a replica is promoted", lambda: any(replica.role() == "master" for replica in replicas), 30
        )
        assert wire.ask("GET", "x") == b"$1\r\n1\r\n"
        assert wire.ask("SET", "x", "2") == b"+OK\r\n"
