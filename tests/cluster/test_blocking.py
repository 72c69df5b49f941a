"""Commands that wait for data: they hold up nobody, end with their client, and follow their keys."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lab.processes import wait_until
from lab.proxy_process import ProxyProcess
from lab.redis_cluster import RedisCluster, RedisServer
from proxy.control import pack
from proxy.slots import slot_of
from tests.cluster.wire import Wire

Clusters = Callable[..., RedisCluster]
Proxies = Callable[..., ProxyProcess]

# What makes it answer, and its answer's beginning; all keys share a slot.
BLOCKING = {
    ("BLPOP", "{b}l", "0"): ("RPUSH", "{b}l", "v"),
    ("BRPOP", "{b}k", "{b}l", "0"): ("RPUSH", "{b}l", "v"),
    ("BLMOVE", "{b}l", "{b}m", "LEFT", "RIGHT", "0"): ("RPUSH", "{b}l", "v"),
    ("BRPOPLPUSH", "{b}l", "{b}m", "0"): ("RPUSH", "{b}l", "v"),
    ("BLMPOP", "0", "2", "{b}k", "{b}l", "LEFT"): ("RPUSH", "{b}l", "v"),
    ("BZPOPMIN", "{b}z", "0"): ("ZADD", "{b}z", "1", "v"),
    ("BZPOPMAX", "{b}z", "0"): ("ZADD", "{b}z", "1", "v"),
    ("BZMPOP", "0", "1", "{b}z", "MIN"): ("ZADD", "{b}z", "1", "v"),
    ("XREAD", "BLOCK", "0", "STREAMS", "{b}s", "$"): ("XADD", "{b}s", "9-9", "f", "v"),
    ("XREADGROUP", "GROUP", "g", "c", "BLOCK", "0", "STREAMS", "{b}g", ">"): (
        "XADD",
        "{b}g",
        "9-9",
        "f",
        "v",
    ),
}
NAMES = [f"{{b}}{name}" for name in "klmzsg"]


def blocked_clients(server: RedisServer) -> int:
    info: bytes = server.call("INFO", "clients")
    return int(
        next(line for line in info.splitlines() if line.startswith(b"blocked_clients:")).split(b":")[1]
    )


@contextmanager
def waiting(port: int, server: RedisServer, *command: str, protocol: int = 2) -> Iterator[Wire]:
    """A client that the server is seen to hold back."""
    before = blocked_clients(server)
    with Wire(port) as wire:
        wire.ask("HELLO", protocol)
        wire.send(pack(*command))
        wait_until("it blocks", lambda: blocked_clients(server) == before + 1)
        yield wire


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("command", BLOCKING, ids=lambda command: command[0])
def test_it_waits_and_answers_as_a_plain_server_does(
    cluster: RedisCluster, shared_proxy: ProxyProcess, plain: Any, command: tuple[str, ...], protocol: int
) -> None:
    found = []
    for port, server in ((shared_proxy.port, cluster.master_of("b")), (plain.address.port, plain)):
        with Wire(port) as other:
            other.ask("DEL", *NAMES)
            other.ask("XGROUP", "CREATE", "{b}g", "g", "$", "MKSTREAM")
            with waiting(port, server, *command, protocol=protocol) as wire:
                answer = other.ask(*BLOCKING[command])
                found.append((answer, wire.reply(), wire.ask("PING")))
            assert blocked_clients(server) == 0
    assert found[0] == found[1]


def test_time_runs_out(shared_proxy: ProxyProcess, plain: Any) -> None:
    commands = [
        ("BLPOP", "{b}none", "0.05"),
        ("BLPOP", "{b}none", "-1"),
        ("BLPOP", "{b}none", "x"),
        ("BZMPOP", "0.05", "1", "{b}none", "MIN"),
        ("BLMOVE", "{b}none", "{b}m", "LEFT", "RIGHT", "0.05"),
        ("XREAD", "BLOCK", "50", "STREAMS", "{b}none", "$"),
    ]
    for protocol in (2, 3):
        found = []
        for port in (shared_proxy.port, plain.address.port):
            with Wire(port) as wire:
                wire.ask("HELLO", protocol)
                found.append([wire.ask(*command) for command in commands])
        assert found[0] == found[1]


def test_what_is_there_is_given_at_once_and_the_pipeline_goes_on_in_order(shared_proxy: ProxyProcess) -> None:
    with Wire(shared_proxy.port) as wire:
        wire.send(
            pack("DEL", "{b}l")
            + pack("RPUSH", "{b}l", "1", "2")
            + pack("BLPOP", "{b}l", "0")
            + pack("LLEN", "{b}l")
            + pack("XADD", "{b}x", "*", "f", "v")
            + pack("XREAD", "COUNT", "1", "STREAMS", "{b}x", "$")
            + pack("PING")
        )
        replies = wire.replies(7)
    assert replies[2:4] == [b"*2\r\n$4\r\n{b}l\r\n$1\r\n1\r\n", b":1\r\n"]
    assert replies[5:] == [b"*-1\r\n", b"+PONG\r\n"]


def test_others_are_not_held_up(cluster: RedisCluster, shared_proxy: ProxyProcess) -> None:
    server = cluster.master_of("b")
    with Wire(shared_proxy.port) as other:
        other.ask("DEL", "{b}l")
        with waiting(shared_proxy.port, server, "BLPOP", "{b}l", "0") as wire:
            wire.send(pack("SET", "{b}after", "x"))
            for number in range(100):
                assert other.ask("SET", "{b}k", str(number)) == b"+OK\r\n"
            assert other.ask("EXISTS", "{b}after") == b":0\r\n"
            other.ask("RPUSH", "{b}l", "v")
            assert wire.replies(2) == [b"*2\r\n$4\r\n{b}l\r\n$1\r\nv\r\n", b"+OK\r\n"]


@pytest.mark.parametrize("how", ["close", "half-close", "reset"])
def test_a_client_that_goes_is_taken_off_the_server(
    cluster: RedisCluster, shared_proxy: ProxyProcess, how: str
) -> None:
    server = cluster.master_of("b")
    with Wire(shared_proxy.port) as other:
        other.ask("DEL", "{b}l")
        with waiting(shared_proxy.port, server, "BLPOP", "{b}l", "0") as wire:
            if how == "half-close":
                wire.socket.shutdown(1)
            elif how == "reset":
                wire.socket.setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")  # SO_LINGER 0: RST
                wire.close()
            else:
                wire.close()
            wait_until("the server holds nobody back", lambda: blocked_clients(server) == 0)
        # Nothing is popped for a client that has gone.
        assert other.ask("RPUSH", "{b}l", "v") == b":1\r\n"
        assert other.ask("LLEN", "{b}l") == b":1\r\n"


def test_the_limit_on_replies_is_not_for_those_that_wait(cluster: RedisCluster, new_proxy: Proxies) -> None:
    proxy = new_proxy(cluster, cluster={"read_timeout": 200})
    with Wire(proxy.port) as wire:
        wire.ask("DEL", "{b}l")
        began = time.monotonic()
        assert wire.ask("BLPOP", "{b}l", "0.8") == b"*-1\r\n"
        assert time.monotonic() - began >= 0.8


def test_those_who_wait_are_counted_and_not_called_slow(cluster: RedisCluster, new_proxy: Proxies) -> None:
    proxy = new_proxy(cluster, cluster={"slowlog_slower_than": 1000})
    with waiting(proxy.port, cluster.master_of("b"), "BLPOP", "{b}none", "1") as wire:
        proxy.wait_for_metric("redis_proxy_blocked_clients", 1)
        with Wire(proxy.port) as other:
            assert b"blocked_clients:1\r\n" in other.ask("INFO", "clients")
        assert wire.reply() == b"*-1\r\n"
        wait_until("it is so no more", lambda: proxy.metric("redis_proxy_blocked_clients") == 0)
        assert proxy.metric("redis_proxy_request_duration_seconds_sum", command="blpop") < 0.1
        assert b"BLPOP" not in wire.ask("SLOWLOG", "GET")


def test_unblocked_by_another_client(cluster: RedisCluster, shared_proxy: ProxyProcess) -> None:
    server = cluster.master_of("b")
    for how, reply in (((), b"*-1\r\n"), (("TIMEOUT",), b"*-1\r\n"), (("ERROR",), b"-UNBLOCKED")):
        before = blocked_clients(server)
        with Wire(shared_proxy.port) as wire, Wire(shared_proxy.port) as other:
            id_ = wire.ask("CLIENT", "ID")[1:-2]
            assert other.ask("CLIENT", "UNBLOCK", id_, *how) == b":0\r\n"
            wire.send(pack("BLPOP", "{b}none", "0"))
            wait_until("it blocks", lambda: blocked_clients(server) == before + 1)  # noqa: B023
            assert other.ask("CLIENT", "UNBLOCK", id_, *how) == b":1\r\n"
            assert wire.reply().startswith(reply)
            assert wire.ask("PING") == b"+PONG\r\n"


def test_it_goes_where_its_slot_goes(new_cluster: Clusters, new_proxy: Proxies) -> None:
    cluster = new_cluster(masters=3, replicas=0)
    proxy = new_proxy(cluster)
    slot = slot_of(b"b")
    source = cluster.master_of(slot)
    target = next(node for node in cluster.masters if node is not source)
    with waiting(proxy.port, source, "BLPOP", "{b}l", "0") as wire, Wire(proxy.port) as other:
        for _ in cluster.move_slot(slot, target):
            pass
        wait_until("it blocks there", lambda: blocked_clients(target) == 1)
        other.ask("RPUSH", "{b}l", "v")
        assert wire.reply() == b"*2\r\n$4\r\n{b}l\r\n$1\r\nv\r\n"


def test_it_goes_where_its_master_goes(new_cluster: Clusters, new_proxy: Proxies) -> None:
    """A failover that is asked for: the old master lets go of those it held back."""
    cluster = new_cluster(masters=3, replicas=1)
    proxy = new_proxy(cluster)
    master = cluster.master_of("b")
    replica = cluster.replica_of(master)
    with waiting(proxy.port, master, "BLPOP", "{b}l", "0") as wire, Wire(proxy.port) as other:
        replica.call("CLUSTER", "FAILOVER")
        wait_until("it blocks there", lambda: blocked_clients(replica) == 1, 30)
        other.ask("RPUSH", "{b}l", "v")
        assert wire.reply() == b"*2\r\n$4\r\n{b}l\r\n$1\r\nv\r\n"


def test_a_master_that_dies_may_have_popped(new_cluster: Clusters, new_proxy: Proxies) -> None:
    cluster = new_cluster(masters=3, replicas=1)
    proxy = new_proxy(cluster)
    master = cluster.master_of("b")
    with (
        waiting(proxy.port, master, "XREAD", "BLOCK", "0", "STREAMS", "{b}s", "$") as reader,
        waiting(proxy.port, master, "BLPOP", "{b}l", "0") as wire,
    ):
        replica = cluster.replica_of(master)
        master.kill()
        assert b"outcome of this command is unknown" in wire.reply()
        wait_until("what only reads waits there", lambda: blocked_clients(replica) == 1, 30)
        wire.ask("XADD", "{b}s", "1-1", "f", "v")
        assert reader.reply().startswith(b"*1\r\n*2\r\n$4\r\n{b}s\r\n")
        assert wire.ask("RPUSH", "{b}l", "v") == b":1\r\n"
        assert wire.ask("BLPOP", "{b}l", "0") == b"*2\r\n$4\r\n{b}l\r\n$1\r\nv\r\n"


def test_the_end_of_the_proxy_lets_them_go(cluster: RedisCluster, new_proxy: Proxies) -> None:
    proxy = new_proxy(cluster)
    with waiting(proxy.port, cluster.master_of("b"), "BLPOP", "{b}none", "0") as wire:
        proxy.process.send_signal(signal.SIGTERM)
        assert wire.reply() == b"*-1\r\n"
        assert wire.ended()


def test_wait_counts_the_replicas_that_have_it(cluster: RedisCluster, shared_proxy: ProxyProcess) -> None:
    with Wire(shared_proxy.port) as wire:
        for number in range(20):
            wire.ask("SET", f"waited:{number}", "x")
        assert wire.ask("WAIT", "1", "5000") == b":1\r\n"
        assert wire.ask("WAIT", "5", "50") == b":1\r\n"
        assert wire.ask("WAIT", "x", "50").startswith(b"-ERR")


def test_wait_does_not_count_a_replica_that_has_it_not(new_cluster: Clusters, new_proxy: Proxies) -> None:
    cluster = new_cluster(masters=3, replicas=1)
    proxy = new_proxy(cluster)
    cluster.replica_of(cluster.master_of("x")).pause()
    with Wire(proxy.port) as wire:
        assert wire.ask("SET", "x", "1") == b"+OK\r\n"
        assert wire.ask("WAIT", "1", "200") == b":0\r\n"


def test_many_wait_at_once(cluster: RedisCluster, shared_proxy: ProxyProcess) -> None:
    """Each gets one of the elements that come, none gets two, none is lost."""
    count = 60
    got: list[bytes] = []

    def consume() -> None:
        with Wire(shared_proxy.port) as wire:
            got.append(wire.ask("BLPOP", "{b}queue", "20"))

    with Wire(shared_proxy.port) as producer:
        producer.ask("DEL", "{b}queue")
        threads = [threading.Thread(target=consume) for _ in range(count)]
        for thread in threads:
            thread.start()
        for number in range(count):
            producer.ask("RPUSH", "{b}queue", f"{number:03}")
        for thread in threads:
            thread.join(30)
    assert sorted(reply[-5:-2] for reply in got) == [b"%03d" % number for number in range(count)]
