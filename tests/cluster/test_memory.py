"""The limit on the memory of all connections: who gives way, and who goes on."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from lab.processes import wait_until
from lab.proxy_process import ProxyProcess
from lab.redis_cluster import RedisCluster
from proxy.control import pack
from tests.cluster.wire import Wire

Clusters = Callable[..., RedisCluster]
Proxies = Callable[..., ProxyProcess]
LIMIT = 32 << 20
ONE_TURN = 16 << 20
"""What the proxy may have read in one turn before it looks at the limit, in these tests."""


@contextmanager
def watched(proxy: ProxyProcess) -> Iterator[list[float]]:
    """Notes how much memory the buffers take while the block runs."""
    seen: list[float] = []
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.02):
            seen.append(proxy.metric("redis_proxy_buffer_bytes"))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def send_all_it_takes(wire: Wire, data: bytes) -> None:
    """Sends until the other side takes no more, or has gone."""
    wire.socket.settimeout(0.5)
    try:
        wire.send(data)
    except (TimeoutError, ConnectionError):
        return


def test_the_largest_are_closed_and_the_others_go_on(cluster: RedisCluster, new_proxy: Proxies) -> None:
    """Twenty clients begin values of 20 MB and never end them."""
    proxy = new_proxy(cluster, proxy={"threads": 1, "memory_limit": LIMIT})
    begun = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$20000000\r\n" + b"x" * 19_000_000
    with ExitStack() as stack:
        small = stack.enter_context(Wire(proxy.port))
        small.send(b"*3\r\n$3\r\nSET\r\n$5\r\nsmall\r\n$100000\r\n" + b"y" * 50_000)
        busy = stack.enter_context(Wire(proxy.port))
        with watched(proxy) as memory:
            for _ in range(20):
                send_all_it_takes(stack.enter_context(Wire(proxy.port)), begun)
                assert busy.ask("SET", "busy", "1") == b"+OK\r\n"
        assert max(memory) < LIMIT + ONE_TURN
        assert proxy.metric("redis_proxy_evicted_total") >= 18
        small.send(b"y" * 50_000 + b"\r\n")
        assert small.reply() == b"+OK\r\n"
        assert busy.ask("STRLEN", "small") == b":100000\r\n"


def test_those_who_do_not_read_are_closed(cluster: RedisCluster, new_proxy: Proxies) -> None:
    proxy = new_proxy(cluster, proxy={"threads": 1, "memory_limit": LIMIT})
    with ExitStack() as stack:
        busy = stack.enter_context(Wire(proxy.port))
        assert busy.ask("SET", "large", "v" * 8_000_000) == b"+OK\r\n"
        with watched(proxy) as memory:
            for _ in range(30):
                deaf = stack.enter_context(Wire(proxy.port))
                deaf.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                deaf.send(pack("GET", "large"))
                assert busy.ask("STRLEN", "large") == b":8000000\r\n"
        assert max(memory) < LIMIT + ONE_TURN
        proxy.wait_for_metric("redis_proxy_evicted_total", 3)
        assert busy.ask("GET", "large").startswith(b"$8000000\r\nvvv")


def test_what_waits_for_a_server_that_hangs_is_bounded(new_cluster: Clusters, new_proxy: Proxies) -> None:
    cluster = new_cluster(masters=3, replicas=0, node_timeout=15000)
    proxy = new_proxy(
        cluster,
        proxy={"threads": 1, "memory_limit": LIMIT},
        cluster={"read_timeout": 60000, "write_timeout": 60000, "ping_auto_eject": False},
    )
    hung = cluster.master_of("a")
    other = next(key for key in ("b", "c", "d") if cluster.master_of(key) is not hung)
    with ExitStack() as stack:
        busy = stack.enter_context(Wire(proxy.port))
        many = [stack.enter_context(Wire(proxy.port)) for _ in range(40)]
        assert busy.ask("MSET", "a", "0", other, "0") == b"+OK\r\n"
        hung.pause()
        try:
            with watched(proxy) as memory:
                for wire in many:
                    send_all_it_takes(wire, 20 * pack("SET", "a", "x" * 100_000))
                    assert busy.ask("INCR", other).startswith(b":")
                proxy.wait_for_metric("redis_proxy_turned_away_total", 1)
            assert max(memory) < LIMIT + ONE_TURN
            assert busy.ask("INCR", other) == b":41\r\n"
        finally:
            hung.resume()
        replies = {reply for wire in many[:5] for reply in wire.replies(20)}
        assert b"+OK\r\n" in replies
        refused = b"-OOM too much waits for 127.0.0.1:%d already: memory_limit bounds it\r\n" % hung.port
        assert replies <= {b"+OK\r\n", refused}
        wait_until(
            "all is given back", lambda: busy.ask("GET", "a") == b"$100000\r\n%b\r\n" % (b"x" * 100_000)
        )


def test_what_waits_for_a_slot_that_nobody_serves_is_bounded(
    new_cluster: Clusters, new_proxy: Proxies
) -> None:
    cluster = new_cluster(masters=3, replicas=0, node_timeout=15000)
    proxy = new_proxy(
        cluster,
        proxy={"threads": 1, "memory_limit": LIMIT, "shutdown_timeout": 100},
        cluster={"read_timeout": 60000, "ping_auto_eject": False},
    )
    lost = cluster.master_of("a")
    other = next(key for key in ("b", "c", "d") if cluster.master_of(key) is not lost)
    lost.kill()
    with ExitStack() as stack:
        busy = stack.enter_context(Wire(proxy.port))
        many = [stack.enter_context(Wire(proxy.port)) for _ in range(40)]
        with watched(proxy) as memory:
            for wire in many:
                wire.send(pack("SET", "a", "x" * 1_000_000))
                assert busy.ask("INCR", other).startswith(b":")
            proxy.wait_for_metric("redis_proxy_turned_away_total", 10)
        assert max(memory) < LIMIT + ONE_TURN
        assert busy.ask("INCR", other) == b":41\r\n"
        refused = next(wire for wire in reversed(many))
        assert refused.reply().startswith(b"-OOM too much waits for 127.0.0.1:%d already" % lost.port)


def test_a_million_small_requests_of_many_clients_are_bounded(
    cluster: RedisCluster, new_proxy: Proxies
) -> None:
    """They wait in each client's socket, not in the proxy."""
    proxy = new_proxy(cluster, proxy={"threads": 1, "memory_limit": LIMIT})
    with ExitStack() as stack:
        busy = stack.enter_context(Wire(proxy.port))
        with watched(proxy) as memory:
            for _ in range(50):
                wire = stack.enter_context(Wire(proxy.port))
                send_all_it_takes(wire, 20_000 * pack("GET", "nothing"))
                assert busy.ask("SET", "busy", "1") == b"+OK\r\n"
        assert max(memory) < LIMIT + ONE_TURN
        assert busy.ask("GET", "busy") == b"$1\r\n1\r\n"
