"""Running out of file descriptors."""

from collections.abc import Callable
from contextlib import ExitStack

from lab.processes import wait_until
from lab.proxy_process import ProxyProcess
from lab.redis_cluster import RedisCluster
from tests.cluster.wire import Wire

Proxies = Callable[..., ProxyProcess]
LIMIT = 200


def test_clients_leave_enough_for_the_proxy_itself(cluster: RedisCluster, new_proxy: Proxies) -> None:
    proxy = new_proxy(cluster, prefix=["prlimit", f"--nofile={LIMIT}:{LIMIT}"])
    with ExitStack() as stack:
        first = stack.enter_context(Wire(proxy.port))
        assert first.ask("SET", "a", "1") == b"+OK\r\n"
        # More than there may be: the kernel completes the others' connections, and nobody serves them.
        clients = [stack.enter_context(Wire(proxy.port)) for _ in range(LIMIT)]
        proxy.wait_for_metric("redis_proxy_accept_pauses_total", 1)
        assert "accepting pauses" in proxy.page("/readyz")
        served = int(proxy.metric("overlord_proxy_conns"))
        assert LIMIT // 2 < served < LIMIT
        # Those who are in go on, and what the proxy needs can still be opened: its pages, its servers.
        for node in cluster.nodes:
            node.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        for client in (first, *clients[: served - 1]):
            assert client.ask("MSET", "a", "1", "b", "2", "c", "3") == b"+OK\r\n"
        waiting = clients[-1]
        waiting.send(b"GET a\r\n")
        for client in clients[: LIMIT // 2]:
            client.close()
        assert waiting.reply() == b"$1\r\n1\r\n"
        wait_until("it is ready again", lambda: proxy.readiness() == 200)
    assert "accept: the limit of 200 descriptors is near; accepting pauses" in proxy.log()


def test_blocking_commands_do_not_take_the_last_ones(cluster: RedisCluster, new_proxy: Proxies) -> None:
    """Each wants a connection to a server, of its own."""
    proxy = new_proxy(cluster, prefix=["prlimit", f"--nofile={LIMIT}:{LIMIT}"], cluster={"read_timeout": 500})
    with ExitStack() as stack:
        clients = [stack.enter_context(Wire(proxy.port)) for _ in range(100)]
        for client in clients:
            client.send(b"BLPOP none 0\r\n")
        last = clients[-1]
        assert b"no descriptor is left for a connection of a client's own" in last.reply()
        assert last.ask("SET", "a", "1") == b"+OK\r\n"
        assert proxy.readiness() in (200, 503)
