"""What comes over the wire: order, sizes, limits, and bytes that are not RESP."""

import contextlib
import hashlib
import random
import time
from collections.abc import Callable

import pytest

from lab.proxy_process import ProxyProcess
from lab.redis_cluster import RedisCluster
from proxy.control import pack
from tests.cluster.memory import forget_peak, peak, resident
from tests.cluster.wire import Wire


def test_replies_of_a_deep_pipeline_keep_their_order(shared_proxy: ProxyProcess) -> None:
    chance = random.Random(1)
    stream, expected = [], []
    values: dict[int, int] = {}
    for i in range(20_000):
        name = chance.randrange(500)
        if chance.random() < 0.4:
            values[name] = i
            stream.append(pack("SET", f"order:{name}", i))
            expected.append(b"+OK\r\n")
        elif chance.random() < 0.1:
            stream.append(pack("PING", str(i)))
            expected.append(b"$%d\r\n%d\r\n" % (len(str(i)), i))
        elif name in values:
            stream.append(pack("GET", f"order:{name}"))
            expected.append(b"$%d\r\n%d\r\n" % (len(str(values[name])), values[name]))
    with Wire(shared_proxy.port) as wire:
        wire.ask("DEL", *(f"order:{name}" for name in range(500)))
        wire.send(b"".join(stream))
        assert wire.replies(len(stream)) == expected


def test_keys_named_twice_are_written_in_order_and_read_in_place(shared_proxy: ProxyProcess) -> None:
    with Wire(shared_proxy.port) as wire:
        assert wire.ask("MSET", "x", "1", "y", "2", "x", "3") == b"+OK\r\n"
        assert wire.ask("MGET", "x", "none", "y", "x") == b"*4\r\n$1\r\n3\r\n$-1\r\n$1\r\n2\r\n$1\r\n3\r\n"
        assert wire.ask("MGET", "y", "y", "x", "none") == b"*4\r\n$1\r\n2\r\n$1\r\n2\r\n$1\r\n3\r\n$-1\r\n"
        assert wire.ask("EXISTS", "x", "x", "y") == b":3\r\n"


def test_keys_of_different_slots_are_refused_where_they_cannot_be_split(shared_proxy: ProxyProcess) -> None:
    with Wire(shared_proxy.port) as wire:
        assert wire.ask("RENAME", "a", "b").startswith(b"-CROSSSLOT ")
        assert wire.ask("SINTERSTORE", "{t}1", "{t}2", "{t}3") == b":0\r\n"


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        (b"PING\r\n", b"+PONG\r\n"),
        (b"set inline 'two words'\n", b"+OK\r\n"),
        (b"GET inline\r\n", b"$9\r\ntwo words\r\n"),
    ],
)
def test_inline_commands(shared_proxy: ProxyProcess, line: bytes, reply: bytes) -> None:
    with Wire(shared_proxy.port) as wire:
        wire.send(b"set inline 'two words'\r\n")
        assert wire.reply() == b"+OK\r\n"
        wire.send(line)
        assert wire.reply() == reply


@pytest.mark.parametrize(
    ("garbage", "text"),
    [
        (b"*1\r\n+OK\r\n", b"expected '$', got '+'"),
        (b"*1\r\n$-5\r\n", b"invalid bulk length"),
        (b"*2\r\n$3\r\nGET\r\n$-1\r\n", b"invalid bulk length"),
        (b"*-x\r\n", b"invalid multibulk length"),
        (b"set a 'b\r\n", b"unbalanced quotes in request"),
        (b"x" * 100_000, b"too big inline request"),
    ],
)
def test_a_malformed_request_ends_its_own_connection_alone(
    shared_proxy: ProxyProcess, garbage: bytes, text: bytes
) -> None:
    with Wire(shared_proxy.port) as good, Wire(shared_proxy.port) as bad:
        assert good.ask("SET", "k", "v") == b"+OK\r\n"
        bad.send(pack("GET", "k") + garbage)
        assert bad.replies(2) == [b"$1\r\nv\r\n", b"-ERR Protocol error: " + text + b"\r\n"]
        assert bad.ended()
        assert good.ask("GET", "k") == b"$1\r\nv\r\n"


def test_unknown_commands_keep_the_connection(shared_proxy: ProxyProcess) -> None:
    with Wire(shared_proxy.port) as wire:
        assert wire.ask("NOSUCH", "x").startswith(
            b"-ERR unknown command 'NOSUCH', with args beginning with: 'x'"
        )
        assert wire.ask("GET") == b"-ERR wrong number of arguments for 'get' command\r\n"
        assert wire.ask("PING") == b"+PONG\r\n"


def test_a_browser_is_not_listened_to(shared_proxy: ProxyProcess) -> None:
    with Wire(shared_proxy.port) as wire:
        assert wire.ask("DEL", "smuggled") in (b":0\r\n", b":1\r\n")
        wire.send(b"POST / HTTP/1.1\r\nHost: x\r\n\r\nSET smuggled 1\r\n")
        assert wire.ended()
    with Wire(shared_proxy.port) as wire:
        assert wire.ask("GET", "smuggled") == b"$-1\r\n"


def test_a_subcommand_is_no_command_of_its_own(shared_proxy: ProxyProcess) -> None:
    with Wire(shared_proxy.port) as wire:
        assert wire.ask("OBJECT|ENCODING", "k").startswith(b"-ERR unknown command 'OBJECT|ENCODING'")


def test_hello_waits_for_what_was_asked_before_it(shared_proxy: ProxyProcess) -> None:
    with Wire(shared_proxy.port) as wire:
        wire.ask("DEL", "h")
        wire.send(
            pack("HSET", "h", "f", "v") + pack("HGETALL", "h") + pack("HELLO", 3) + pack("HGETALL", "h")
        )
        replies = wire.replies(4)
        assert replies[1] == b"*2\r\n$1\r\nf\r\n$1\r\nv\r\n"
        assert replies[2].startswith(b"%7\r\n")
        assert replies[3] == b"%1\r\n$1\r\nf\r\n$1\r\nv\r\n"
        assert wire.ask("GET", "none") == b"_\r\n"
        assert wire.ask("MGET", "none", "other", "h") == b"*3\r\n_\r\n_\r\n_\r\n"
        wire.send(pack("HELLO", 2) + pack("GET", "none"))
        assert wire.replies(2)[1] == b"$-1\r\n"


def test_hello_lets_nothing_overtake(shared_proxy: ProxyProcess) -> None:
    key, count = "overtaken" * 200, 1000  # more than a server reads at once
    with Wire(shared_proxy.port) as wire:
        for version in (3, 2):  # both kinds of connections to the server are there
            wire.ask("HELLO", version)
            wire.ask("DEL", key)
        wire.send(pack("INCR", key) * count + pack("HELLO", 3) + pack("INCR", key))
        assert wire.replies(count + 2)[-1] == b":%d\r\n" % (count + 1)


def test_quit_is_answered_and_ends_the_connection(shared_proxy: ProxyProcess) -> None:
    with Wire(shared_proxy.port) as wire:
        wire.send(pack("SET", "k", "v") + pack("QUIT") + pack("SET", "k", "never"))
        assert wire.replies(2) == [b"+OK\r\n", b"+OK\r\n"]
        assert wire.ended()
    with Wire(shared_proxy.port) as wire:
        assert wire.ask("GET", "k") == b"$1\r\nv\r\n"


def test_a_client_that_has_said_all_still_gets_its_replies(shared_proxy: ProxyProcess) -> None:
    with Wire(shared_proxy.port) as wire:
        wire.send(pack("SET", "k", "v") + pack("GET", "k"))
        wire.socket.shutdown(1)
        assert wire.replies(2) == [b"+OK\r\n", b"$1\r\nv\r\n"]
        assert wire.ended()


def test_a_failing_part_is_the_commands_error(
    new_cluster: Callable[..., RedisCluster], new_proxy: Callable[..., ProxyProcess]
) -> None:
    cluster = new_cluster(masters=3, replicas=0)
    proxy = new_proxy(cluster)
    full = cluster.masters[0]
    # The parts that fail are not the first.
    keys = sorted((f"part:{i}" for i in range(50)), key=lambda key: cluster.master_of(key) is full)
    with Wire(proxy.port) as wire:
        full.call("CONFIG", "SET", "maxmemory", "1")
        pairs = [word for key in keys for word in (key, "v")]
        assert wire.ask("MSET", *pairs).startswith(b"-OOM ")
        full.call("CONFIG", "SET", "maxmemory", "0")
        assert wire.ask("MSET", *pairs) == b"+OK\r\n"
        assert wire.ask("EXISTS", *keys) == b":50\r\n"
        # The wrong type is no error for MGET, neither in Redis nor here.
        assert wire.ask("DEL", keys[0]) == b":1\r\n"
        assert wire.ask("LPUSH", keys[0], "x") == b":1\r\n"
        assert wire.ask("MGET", keys[0], keys[1]) == b"*2\r\n$-1\r\n$1\r\nv\r\n"


def test_the_largest_value_passes_both_ways(shared_proxy: ProxyProcess) -> None:
    size = 512 * 1024 * 1024
    block = random.Random(2).randbytes(1 << 20)
    digest = hashlib.sha256()
    with Wire(shared_proxy.port) as wire:
        before = resident(shared_proxy.pid)
        forget_peak(shared_proxy.pid)
        wire.send(b"*3\r\n$3\r\nSET\r\n$5\r\nlarge\r\n$%d\r\n" % size)
        for _ in range(512):
            wire.send(block)
            digest.update(block)
        wire.send(b"\r\n")
        assert wire.reply() == b"+OK\r\n"
        wire.send(pack("GET", "large"))
        received, found = 0, hashlib.sha256()
        header = b"$%d\r\n" % size
        assert wire.socket.recv(len(header), 0x100) == header  # MSG_WAITALL
        while received < size:
            data = wire.socket.recv(min(1 << 20, size - received))
            found.update(data)
            received += len(data)
        assert wire.socket.recv(2, 0x100) == b"\r\n"
        assert found.digest() == digest.digest()
        assert wire.ask("DEL", "large") == b":1\r\n"
        # Neither way is it held twice; what it took is given back.
        assert peak(shared_proxy.pid) - before < 1.2 * size
        deadline = time.monotonic() + 10
        while resident(shared_proxy.pid) - before > 50 * 1024 * 1024 and time.monotonic() < deadline:
            wire.ask("PING")
        assert resident(shared_proxy.pid) - before < 50 * 1024 * 1024


def test_a_client_that_never_reads_is_not_read_from_either(
    cluster: RedisCluster, new_proxy: Callable[..., ProxyProcess]
) -> None:
    proxy = new_proxy(cluster, proxy={"threads": 1})
    with Wire(proxy.port) as other, Wire(proxy.port) as deaf:
        other.ask("SET", "wide", "x" * 100_000)
        before = resident(proxy.pid)
        deaf.socket.settimeout(1)
        request = pack("GET", "wide")
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 2_000_000:  # its replies would be 200 GB
                deaf.send(request * 1000)
                sent += 1000
        assert sent < 2_000_000
        assert resident(proxy.pid) - before < 200 * 1024 * 1024
        assert other.ask("GET", "wide").startswith(b"$100000\r\n")


def test_a_pipeline_without_end_is_held_within_bounds(
    cluster: RedisCluster, new_proxy: Callable[..., ProxyProcess]
) -> None:
    proxy = new_proxy(cluster, proxy={"threads": 1})
    count = 1_000_000
    with Wire(proxy.port) as wire:
        before = resident(proxy.pid)
        wire.socket.settimeout(1)
        data = pack("GET", "tiny") * count
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < len(data):
                sent += wire.socket.send(data[sent : sent + (1 << 20)])
        assert resident(proxy.pid) - before < 50 * 1024 * 1024
        wire.socket.settimeout(30)
        whole = sent // len(pack("GET", "tiny"))
        assert set(wire.replies(whole)) == {b"$-1\r\n"}


def test_a_session_past_its_output_limit_is_closed_and_counted(
    cluster: RedisCluster, new_proxy: Callable[..., ProxyProcess]
) -> None:
    proxy = new_proxy(cluster, proxy={"output_limit": 1 << 20, "output_pause": 1 << 16})
    with Wire(proxy.port) as other, Wire(proxy.port) as greedy:
        other.ask("SET", "wide", "x" * 4_000_000)
        greedy.send(pack("GET", "wide") * 10)
        proxy.wait_for_metric("redis_proxy_output_overflows_total", 1, cluster="lab")
        assert other.ask("PING") == b"+PONG\r\n"


def test_a_thousand_clients_at_once(shared_proxy: ProxyProcess) -> None:
    wires = [Wire(shared_proxy.port) for _ in range(1000)]
    try:
        for _ in range(3):
            for i, wire in enumerate(wires):
                wire.send(pack("SET", f"many:{i}", i) + pack("GET", f"many:{i}"))
            for i, wire in enumerate(wires):
                assert wire.replies(2) == [b"+OK\r\n", b"$%d\r\n%d\r\n" % (len(str(i)), i)]
    finally:
        for wire in wires:
            wire.close()
