"""SIGHUP: what changes in a running proxy, and what does not."""

import json
from collections.abc import Callable

from lab.processes import wait_until
from lab.proxy_process import ProxyProcess
from lab.redis_cluster import RedisCluster
from tests.cluster.wire import Wire

Clusters = Callable[..., RedisCluster]
Proxies = Callable[..., ProxyProcess]


def test_limits_change_without_dropping_a_connection(cluster: RedisCluster, new_proxy: Proxies) -> None:
    proxy = new_proxy(cluster, proxy={"threads": 1})
    with Wire(proxy.port) as wire:
        assert wire.ask("SET", "reload", "1") == b"+OK\r\n"
        proxy.configure(proxy={"max_connections": 1, "max_arguments": 3}, cluster={"slowlog_slower_than": 1})
        status = proxy.reload()
        assert (status["config_epoch"], status["needs_restart"]) == (2, [])
        assert wire.ask("GET", "reload") == b"$1\r\n1\r\n"
        (part,) = json.loads(proxy.page("/slowlog"))
        assert [entry["Cmd"] for entry in part["entries"]] == [["GET", "reload"]]
        with Wire(proxy.port) as second:
            assert second.reply() == b"-ERR max number of clients reached\r\n"
        assert wire.ask("MGET", "a", "b", "c").startswith(b"-ERR Protocol error")
    assert proxy.metric("redis_proxy_config_epoch") == 2
    assert "reload applies [proxy] max_connections, [proxy] max_arguments, cluster lab" in proxy.log()


def test_files_that_change_are_read_without_being_told(cluster: RedisCluster, new_proxy: Proxies) -> None:
    proxy = new_proxy(cluster, flags=["-reload"])
    proxy.configure(proxy={"max_connections": 7})
    wait_until("it is applied", lambda: proxy.metric("redis_proxy_max_connections") == 7)
    proxy.cluster_file.write_text("[[clusters]]\nname = 3\n")
    wait_until("it is refused", lambda: proxy.status()["reload_failed"])
    proxy.configure(proxy={"max_connections": 8})
    wait_until("the next is applied", lambda: proxy.metric("redis_proxy_max_connections") == 8)
    assert proxy.status()["reload_failed"] is False


def test_files_that_change_are_left_alone_otherwise(cluster: RedisCluster, new_proxy: Proxies) -> None:
    watching, other = new_proxy(cluster, flags=["-reload"]), new_proxy(cluster)
    for proxy in (other, watching):
        proxy.configure(proxy={"max_connections": 7})
    wait_until("the one has seen it", lambda: watching.metric("redis_proxy_max_connections") == 7)
    assert other.metric("redis_proxy_max_connections") == 0


def test_time_limits_change(cluster: RedisCluster, new_proxy: Proxies) -> None:
    proxy = new_proxy(cluster)
    with Wire(proxy.port) as wire:
        assert wire.ask("PING") == b"+PONG\r\n"
        proxy.configure(proxy={"read_timeout": 100})
        proxy.reload()
        assert wire.ended()


def test_servers_and_password_change(new_cluster: Clusters, new_proxy: Proxies) -> None:
    old, new = new_cluster(replicas=0), new_cluster(replicas=0, password="other secret")
    proxy = new_proxy(old)
    with Wire(proxy.port) as wire:
        assert wire.ask("SET", "where", "old") == b"+OK\r\n"
        for node in old.nodes:
            node.stop()
        proxy.configure(
            cluster={
                "servers": [str(address) for address in new.addresses],
                "redis_auth": "other secret",
                "read_timeout": 20000,
            }
        )
        proxy.reload()
        assert wire.ask("SET", "where", "new") == b"+OK\r\n"
    assert new.master_of("where").call("GET", "where") == b"new"
    assert "other secret" not in proxy.log()


def test_a_broken_file_changes_nothing(cluster: RedisCluster, new_proxy: Proxies) -> None:
    proxy = new_proxy(cluster)
    with Wire(proxy.port) as wire:
        assert wire.ask("PING") == b"+PONG\r\n"
        proxy.configure(proxy={"max_connections": 1}, cluster={"read_timeout": -1})
        status = proxy.reload()
        assert (status["config_epoch"], status["reload_failed"]) == (1, True)
        assert proxy.metric("redis_proxy_config_last_reload_successful") == 0
        assert "read_timeout = -1: is out of range" in proxy.log()
        with Wire(proxy.port) as second:
            assert second.ask("PING") == b"+PONG\r\n"
        proxy.configure(cluster={"read_timeout": 10000})
        assert proxy.reload()["reload_failed"] is False
        assert proxy.metric("redis_proxy_config_last_reload_successful") == 1


def test_what_needs_a_restart_is_named(cluster: RedisCluster, new_proxy: Proxies) -> None:
    proxy = new_proxy(cluster, proxy={"threads": 1})
    proxy.configure(proxy={"threads": 2, "max_connections": 7})
    assert proxy.reload()["needs_restart"] == ["[proxy] threads"]
    assert proxy.metric("redis_proxy_workers") == 1
    wait_until("it is logged", lambda: "restart needed for [proxy] threads; a reload" in proxy.log())
    assert proxy.reload()["needs_restart"] == ["[proxy] threads"], "for as long as it is so"
