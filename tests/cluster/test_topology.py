"""How the cluster is found, and kept in sight."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.processes import wait_until
from lab.proxy_process import ProxyProcess
from lab.redis_cluster import RedisCluster
from tests.cluster.wire import Wire

Clusters = Callable[..., RedisCluster]
Proxies = Callable[..., ProxyProcess]


def test_any_one_server_tells_of_all(cluster: RedisCluster) -> None:
    for address in cluster.addresses:
        with ProxyProcess([address]) as proxy, Wire(proxy.port) as wire:
            assert wire.ask("MSET", "a", "1", "b", "2", "c", "3") == b"+OK\r\n"
            assert proxy.metric("redis_proxy_topology_slots_covered") == 16384


def test_every_address_of_a_name_is_tried(cluster: RedisCluster, new_proxy: Proxies) -> None:
    # localhost is ::1 as well on most machines, where the servers do not listen.
    proxy = new_proxy(cluster, cluster={"servers": [f"localhost:{cluster.addresses[0].port}"]})
    with Wire(proxy.port) as wire:
        assert wire.ask("SET", "a", "1") == b"+OK\r\n"


def test_servers_learnt_since_take_the_place_of_those_configured(
    new_cluster: Clusters, new_proxy: Proxies
) -> None:
    cluster = new_cluster(masters=3, replicas=1)
    first = cluster.master_of("a")
    proxy = new_proxy(cluster, cluster={"servers": [str(first.address)]})
    replica = cluster.replica_of(first)
    first.kill()
    wait_until("the replica is promoted", lambda: replica.role() == "master", 30)
    with Wire(proxy.port) as wire:
        wait_until("the proxy knows", lambda: wire.ask("SET", "a", "1") == b"+OK\r\n")
    assert replica.call("GET", "a") == b"1"
    wait_until("it is ready", lambda: proxy.readiness() == 200)


def has_namespaces() -> bool:
    return subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not has_namespaces(), reason="a private /etc/hosts needs a mount namespace, so root")
def test_names_are_resolved_anew_each_time(cluster: RedisCluster, new_proxy: Proxies, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.99 cluster.test\n")
    proxy = new_proxy(
        cluster,
        cluster={"servers": [f"cluster.test:{cluster.addresses[0].port}"], "dial_timeout": 200},
        prefix=["unshare", "--mount", "sh", "-c", f'mount --bind {hosts} /etc/hosts && exec "$@"', "sh"],
        wait=False,
    )
    assert proxy.readiness() == 503
    hosts.write_text("127.0.0.1 cluster.test\n")
    wait_until("the new address is found", lambda: proxy.readiness() == 200)
