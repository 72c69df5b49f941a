"""Servers that die, hang, are promoted, or are not there yet."""

import os
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis

from lab.processes import wait_until
from lab.proxy_process import ProxyProcess
from lab.redis_cluster import Place, RedisCluster, RedisServer
from proxy.control import pack
from tests.cluster.wire import Wire

Clusters = Callable[..., RedisCluster]
Proxies = Callable[..., ProxyProcess]


class Writer(threading.Thread):
    """Increments a counter of its own, on one connection, and knows what it was told.

    ``told`` counts acknowledged increments, ``unsure`` those whose outcome the proxy said is unknown,
    ``refused`` those that got another error: these must not have been applied.
    """

    def __init__(self, port: int, key: str) -> None:
        super().__init__(daemon=True)
        self.key = key
        self.told = self.unsure = self.refused = 0
        self.wrong: list[str] = []
        self.latest = 0
        self._port = port
        self._stopping = threading.Event()

    def run(self) -> None:
        with Wire(self._port) as wire:
            while not self._stopping.is_set():
                reply = wire.ask("INCR", self.key)
                if reply.startswith(b":"):
                    self.told += 1
                    value = int(reply[1:])
                    if value <= self.latest:
                        self.wrong.append(f"{value} after {self.latest}")
                    self.latest = value
                elif b"outcome" in reply:
                    self.unsure += 1
                else:
                    self.refused += 1

    def finish(self) -> None:
        self._stopping.set()
        self.join(30)
        assert not self.is_alive()


def test_a_killed_master_is_followed_to_its_replica(new_cluster: Clusters, new_proxy: Proxies) -> None:
    cluster = new_cluster(masters=3, replicas=1)
    proxy = new_proxy(cluster)
    writers = [Writer(proxy.port, f"counter:{i}") for i in range(12)]
    for writer in writers:
        writer.start()
    try:
        victim = cluster.master_of("counter:0")
        replica = cluster.replica_of(victim)
        wait_until("every writer writes", lambda: all(writer.told > 50 for writer in writers))
        victim.kill()
        wait_until("the replica is promoted", lambda: replica.role() == "master", 30)
        marks = [writer.told for writer in writers]
        wait_until(
            "every writer writes again",
            lambda: all(writer.told > mark + 50 for writer, mark in zip(writers, marks, strict=True)),
        )
    finally:
        for writer in writers:
            writer.finish()
    with redis.Redis(port=proxy.port) as client:
        for writer in writers:
            assert not writer.wrong
            # What was acknowledged is there, but for what the cluster itself lost in the failover
            # (replication is asynchronous); nothing was applied that was not sent.
            stored = int(client.get(writer.key) or 0)
            assert stored <= writer.told + writer.unsure
            if cluster.master_of(writer.key) is not replica:
                assert stored == writer.told
                assert writer.unsure == writer.refused == 0
    assert proxy.metric("redis_proxy_topology_changes_total") >= 2


def test_reads_survive_a_broken_connection_unnoticed(new_cluster: Clusters, new_proxy: Proxies) -> None:
    cluster = new_cluster(masters=3, replicas=0)
    proxy = new_proxy(cluster)
    with Wire(proxy.port) as wire:
        assert wire.ask("SET", "k", "v") == b"+OK\r\n"
        for _ in range(5):
            for node in cluster.nodes:
                node.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            assert wire.ask("GET", "k") == b"$1\r\nv\r\n"


def test_a_hung_master_holds_up_only_its_own_requests(new_cluster: Clusters, new_proxy: Proxies) -> None:
    cluster = new_cluster(masters=3, replicas=0, node_timeout=15000)
    proxy = new_proxy(cluster, cluster={"read_timeout": 700, "ping_auto_eject": False})
    hung = cluster.master_of("a")
    other = next(key for key in ("b", "c", "d") if cluster.master_of(key) is not hung)
    with Wire(proxy.port) as stuck, Wire(proxy.port) as free:
        assert stuck.ask("SET", "a", "1") == free.ask("SET", other, "2") == b"+OK\r\n"
        hung.pause()
        try:
            began = time.monotonic()
            assert stuck.ask("SET", "a", "2") == (
                b"-ERR server 127.0.0.1:%d: no answer within 700 ms; "
                b"the outcome of this command is unknown\r\n" % hung.port
            )
            assert time.monotonic() - began < 5
            assert stuck.ask("GET", "a").startswith(b"-ERR server ")
            assert free.ask("GET", other) == b"$1\r\n2\r\n"
        finally:
            hung.resume()
        wait_until("it answers again", lambda: stuck.ask("GET", "a") == b"$1\r\n2\r\n")


def test_a_replica_takes_over_from_a_hung_master(new_cluster: Clusters, new_proxy: Proxies) -> None:
    """Requests that wait for a connection to it, which the kernel still accepts, are sent elsewhere."""
    cluster = new_cluster(masters=3, replicas=1, node_timeout=15000)
    proxy = new_proxy(
        cluster,
        cluster={
            "read_timeout": 30000,
            "dial_timeout": 30000,
            "ping_auto_eject": False,
            "topology_interval": 100,
        },
    )
    hung = cluster.master_of("a")
    replica = cluster.replica_of(hung)
    hung.pause()
    try:
        with Wire(proxy.port) as wire:
            wire.socket.settimeout(10)
            wire.send(pack("SET", "a", "1"))
            wait_until("it is on its way", lambda: proxy.metric("overlord_proxy_conns") == 1)
            replica.call("CLUSTER", "FAILOVER", "TAKEOVER")
            assert wire.reply() == b"+OK\r\n"
    finally:
        hung.resume()
    assert replica.call("GET", "a") == b"1"


def test_a_hung_master_is_given_up_once_it_has_been_replaced(
    new_cluster: Clusters, new_proxy: Proxies
) -> None:
    """What it has not answered: reads are asked of its successor, writes may have been executed."""
    cluster = new_cluster(masters=3, replicas=1)
    proxy = new_proxy(cluster, cluster={"read_timeout": 60000, "ping_auto_eject": False})
    hung = cluster.master_of("a")
    replica = cluster.replica_of(hung)
    with Wire(proxy.port) as writer, Wire(proxy.port) as reader, Wire(proxy.port) as watcher:
        assert writer.ask("SET", "a", "1") == b"+OK\r\n"
        assert watcher.ask("WATCH", "a") == b"+OK\r\n"
        assert reader.ask("GET", "a") == b"$1\r\n1\r\n"
        wait_until("the replica has it", lambda: replica.call("DBSIZE") == 1)
        hung.pause()
        try:
            writer.send(pack("INCR", "a"))
            reader.send(pack("GET", "a"))
            assert reader.reply() == b"$1\r\n1\r\n"
            assert writer.reply() == (
                b"-ERR server 127.0.0.1:%d: does not answer, and has been replaced; "
                b"the outcome of this command is unknown\r\n" % hung.port
            )
            assert writer.ask("INCR", "a") == b":2\r\n"
            assert watcher.ask("MULTI") == b"+OK\r\n"
            assert watcher.ask("INCR", "a") == b"+QUEUED\r\n"
            assert watcher.ask("EXEC") == b"*-1\r\n"
            assert watcher.ask("GET", "a") == b"$1\r\n2\r\n"
        finally:
            hung.resume()


def test_a_hung_server_does_not_keep_us_from_asking_the_others(
    new_cluster: Clusters, new_proxy: Proxies
) -> None:
    cluster = new_cluster(masters=3, replicas=0, node_timeout=15000)
    hung, other, _ = cluster.masters
    key = next(key for key in "abcdefgh" if cluster.master_of(key) is other)
    hung.pause()
    try:
        proxy = new_proxy(
            cluster, cluster={"dial_timeout": 60000, "servers": [str(hung.address), str(other.address)]}
        )
        with Wire(proxy.port) as wire:
            assert wire.ask("SET", key, "1") == b"+OK\r\n"
    finally:
        hung.resume()


def test_connections_that_a_hung_server_keeps_waiting_hold_up_no_others(
    new_cluster: Clusters, new_proxy: Proxies
) -> None:
    """Blocking commands want a connection each: many of them, of a server that does not greet."""
    cluster = new_cluster(masters=3, replicas=0, node_timeout=15000)
    proxy = new_proxy(
        cluster, cluster={"dial_timeout": 60000, "read_timeout": 60000, "ping_auto_eject": False}
    )
    hung = cluster.master_of("a")
    other = next(key for key in ("b", "c", "d") if cluster.master_of(key) is not hung)
    with ExitStack() as stack:
        waiting = [stack.enter_context(Wire(proxy.port)) for _ in range(100)]
        free = stack.enter_context(Wire(proxy.port))
        free.socket.settimeout(20)
        hung.pause()
        try:
            for wire in waiting:
                wire.send(pack("BLPOP", "a", 0))
            proxy.wait_for_metric("redis_proxy_received_bytes_total", 100 * len(pack("BLPOP", "a", 0)))
            assert free.ask("BLPOP", other, "0.01") == b"*-1\r\n"
        finally:
            hung.resume()


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a process a hosts file of its own needs root")
def test_the_configured_name_is_followed_to_another_cluster(
    new_cluster: Clusters, new_proxy: Proxies, tmp_path: Path
) -> None:
    """As when an endpoint's DNS record changes: here it is a hosts file of the proxy's own."""
    blue = new_cluster(masters=1, replicas=0)
    green = new_cluster(masters=1, replicas=0, places=[Place("127.0.0.2", blue.nodes[0].port)])
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 endpoint.test\n")
    proxy = new_proxy(
        blue,
        cluster={"servers": [f"endpoint.test:{blue.nodes[0].port}"], "topology_interval": 200},
        prefix=["unshare", "--mount", "sh", "-c", f'mount --bind {hosts} /etc/hosts && exec "$@"', "sh"],
    )
    with Wire(proxy.port) as wire:
        assert wire.ask("SET", "a", "blue") == b"+OK\r\n"
        hosts.write_text("127.0.0.2 endpoint.test\n")
        wait_until("it is followed", lambda: wire.ask("GET", "a") == b"$-1\r\n")
        assert wire.ask("SET", "a", "green") == b"+OK\r\n"
        assert green.nodes[0].call("GET", "a") == b"green"
        wait_until(
            "the first one is left alone",
            lambda: str(blue.nodes[0].address) not in proxy.page("/metrics"),
        )


def test_a_server_that_fails_its_pings_is_ejected_and_comes_back(
    new_cluster: Clusters, new_proxy: Proxies
) -> None:
    cluster = new_cluster(masters=3, replicas=0, node_timeout=15000)
    proxy = new_proxy(cluster, cluster={"read_timeout": 0, "ping_fail_limit": 1, "ping_auto_eject": True})
    hung = cluster.master_of("a")
    server = f"127.0.0.1:{hung.port}"
    with Wire(proxy.port) as wire:
        assert wire.ask("SET", "a", "1") == b"+OK\r\n"
        hung.pause()
        try:
            wire.send(pack("GET", "a"))
            proxy.wait_for_metric("redis_proxy_server_ejected", 1, server=server)
            # Nobody goes on waiting for it: what only reads may be sent elsewhere.
            proxy.wait_for_metric("redis_proxy_server_connections_lost_total", 1, server=server)
        finally:
            hung.resume()
        assert wire.reply() == b"$1\r\n1\r\n"
        wait_until("it is used again", lambda: proxy.metric("redis_proxy_server_ejected", server=server) == 0)


def test_it_starts_before_its_servers_do(new_proxy: Proxies) -> None:
    cluster = RedisCluster(masters=3, replicas=0)
    try:
        proxy = new_proxy(cluster, wait=False, cluster={"read_timeout": 500})
        assert proxy.readiness() == 503
        assert "Connection refused" in proxy.page("/readyz")
        with Wire(proxy.port) as wire:
            assert wire.ask("PING") == b"+PONG\r\n"
            assert wire.ask("GET", "a").startswith(
                b"-CLUSTERDOWN no server of this cluster could be reached yet"
            )
            assert wire.ask("MSET", "a", "1", "b", "2", "c", "3").startswith(b"-CLUSTERDOWN ")
            cluster.start()
            wait_until("it is ready", lambda: proxy.readiness() == 200)
            assert wire.ask("MSET", "a", "1", "b", "2", "c", "3") == b"+OK\r\n"
    finally:
        cluster.stop()


def test_all_configured_servers_but_one_may_be_gone(new_cluster: Clusters, new_proxy: Proxies) -> None:
    cluster = new_cluster(masters=3, replicas=0)
    nobody = [f"127.0.0.1:{port}" for port in (1, 2, 3)]
    proxy = new_proxy(cluster, cluster={"servers": [*nobody, str(cluster.addresses[2])]})
    with Wire(proxy.port) as wire:
        assert wire.ask("MSET", "a", "1", "b", "2", "c", "3") == b"+OK\r\n"


def test_a_slot_without_a_server_is_refused_clearly_and_others_are_served(
    new_cluster: Clusters, new_proxy: Proxies
) -> None:
    cluster = new_cluster(masters=3, replicas=0)
    proxy = new_proxy(cluster, cluster={"read_timeout": 500})
    lost = cluster.master_of("a")
    other = next(key for key in ("b", "c", "d") if cluster.master_of(key) is not lost)
    lost.kill()
    with Wire(proxy.port) as wire:
        assert wire.ask("SET", other, "2") == b"+OK\r\n"
        assert wire.ask("GET", "a").startswith(b"-ERR server 127.0.0.1:%d: " % lost.port)
        assert wire.ask("MGET", "a", other).startswith(b"-ERR server ")
        assert wire.ask("GET", other) == b"$1\r\n2\r\n"


def test_servers_that_want_a_password(new_cluster: Clusters, new_proxy: Proxies) -> None:
    cluster = new_cluster(masters=3, replicas=0, password="s3cret-word")
    proxy = new_proxy(cluster, cluster={"redis_auth": "s3cret-word"})
    with Wire(proxy.port) as wire:
        assert wire.ask("MSET", "a", "1", "b", "2", "c", "3") == b"+OK\r\n"
        wire.ask("HELLO", 3)
        assert wire.ask("MGET", "a", "none") == b"*2\r\n$1\r\n1\r\n_\r\n"
    assert "s3cret-word" not in proxy.log()


def test_a_wrong_password_is_said(new_cluster: Clusters, new_proxy: Proxies) -> None:
    cluster = new_cluster(masters=3, replicas=0, password="s3cret-word")
    proxy = new_proxy(cluster, cluster={"redis_auth": "wrong-word", "read_timeout": 300}, wait=False)
    wait_until("it says why", lambda: "WRONGPASS" in proxy.page("/readyz"))
    with Wire(proxy.port) as wire:
        assert wire.ask("GET", "a").startswith(b"-CLUSTERDOWN ")
    assert "wrong-word" not in proxy.log()


def test_a_plain_server_is_said_to_be_none(plain: RedisServer, new_cluster: Clusters) -> None:
    with ProxyProcess([plain.address], wait=False) as proxy:
        wait_until("it says why", lambda: "cluster support disabled" in proxy.page("/readyz"))
        assert proxy.readiness() == 503
