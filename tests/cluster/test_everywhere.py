"""Commands that every master has a part in, and SCAN over the whole cluster while it changes."""

import threading
from collections.abc import Callable, Iterator

import pytest
import redis

from lab.processes import wait_until
from lab.proxy_process import ProxyProcess
from lab.redis_cluster import RedisCluster, RedisServer
from proxy.slots import slot_of
from tests.cluster.wire import Wire

Clusters = Callable[..., RedisCluster]
Proxies = Callable[..., ProxyProcess]

LIBRARY = "#!lua name=lib\nredis.register_function('f', function(keys, args) return args[1] end)"


@pytest.fixture
def own(new_cluster: Clusters, new_proxy: Proxies) -> tuple[RedisCluster, ProxyProcess]:
    cluster = new_cluster(masters=3, replicas=0)
    return cluster, new_proxy(cluster)


@pytest.mark.parametrize("protocol", [2, 3])
def test_the_keyspace_as_one(own: tuple[RedisCluster, ProxyProcess], protocol: int) -> None:
    cluster, proxy = own
    with redis.Redis(port=proxy.port, protocol=protocol, decode_responses=True) as client:
        assert client.dbsize() == 0
        assert client.randomkey() is None
        assert client.keys("*") == []
        client.mset({f"key:{number}": number for number in range(200)})
        assert client.dbsize() == 200
        assert sorted(client.keys("key:1*")) == sorted(f"key:{n}" for n in range(200) if str(n)[0] == "1")
        assert client.randomkey().startswith("key:")
        homes = {cluster.master_of(client.randomkey()).port for _ in range(60)}
        assert len(homes) == 3, "it may be any master's"
        assert sorted(client.scan_iter("key:*", count=7)) == sorted(f"key:{n}" for n in range(200))
        assert sorted(client.scan_iter(_type="hash")) == []
        assert client.memory_usage("key:1") > 0
        assert client.info("keyspace")["db0"]["keys"] == 200
        assert client.lastsave()
        assert client.flushdb() is True
        assert client.dbsize() == 0
        assert all(master.call("DBSIZE") == 0 for master in cluster.masters)


def test_scripts_and_functions_are_everywhere(own: tuple[RedisCluster, ProxyProcess]) -> None:
    cluster, proxy = own
    with redis.Redis(port=proxy.port, decode_responses=True) as client:
        sha = client.script_load("return ARGV[1]")
        assert client.script_exists(sha, "0" * 40) == [True, False]
        for number in range(20):
            assert client.evalsha(sha, 1, f"key:{number}", "x") == "x"
        cluster.masters[0].call("SCRIPT", "FLUSH")
        assert client.script_exists(sha) == [False], "not everywhere any more"
        assert client.script_flush()
        with pytest.raises(redis.exceptions.NoScriptError):
            client.evalsha(sha, 1, "key", "x")
        assert client.function_load(LIBRARY) == "lib"
        for number in range(20):
            assert client.fcall("f", 1, f"key:{number}", "x") == "x"
        with pytest.raises(redis.ResponseError, match="already exists"):
            client.function_load(LIBRARY)
        assert client.function_load(LIBRARY, replace=True) == "lib"
        assert len(client.function_list()) == 1
        payload = redis.Redis(port=proxy.port).function_dump()
        assert client.function_flush()
        assert client.function_list() == []
        assert client.function_restore(payload)
        assert client.function_delete("lib")
        with pytest.raises(redis.ResponseError, match="Library not found"):
            client.function_delete("lib")
        with pytest.raises(redis.ResponseError, match="No scripts in execution"):
            client.script_kill()


def test_a_part_that_fails_is_the_command_s_error(own: tuple[RedisCluster, ProxyProcess]) -> None:
    cluster, proxy = own
    with Wire(proxy.port) as wire:
        cluster.masters[1].call("CONFIG", "SET", "min-replicas-to-write", 1)
        reply = wire.ask("FLUSHALL")
        assert reply.startswith(b"-NOREPLICAS")
        assert wire.ask("DBSIZE") == b":0\r\n"


def test_one_that_is_down_is_waited_for_and_told(
    own: tuple[RedisCluster, ProxyProcess], new_proxy: Proxies
) -> None:
    cluster, _ = own
    proxy = new_proxy(cluster, cluster={"read_timeout": 500})
    cluster.masters[2].kill()
    with Wire(proxy.port) as wire:
        assert wire.ask("DBSIZE").startswith(b"-")


def fill(port: int, count: int) -> set[str]:
    with redis.Redis(port=port) as client:
        for start in range(0, count, 500):
            client.mset({f"key:{number}": "x" for number in range(start, min(count, start + 500))})
    return {f"key:{number}" for number in range(count)}


def scan(ports: list[int], between: Iterator[object], count: int = 20) -> list[str]:
    """Every key a scan finds; each step is asked of another proxy, after something has happened."""
    found: list[str] = []
    cursor, steps = b"0", 0
    while True:
        with Wire(ports[steps % len(ports)]) as wire:
            reply = wire.ask("SCAN", cursor, "COUNT", count)
        assert reply.startswith(b"*2\r\n"), reply
        parts = reply.split(b"\r\n")
        cursor = parts[2]
        found += [part.decode() for part in parts[5:-1:2]]
        steps += 1
        assert steps < 5000
        if cursor == b"0":
            return found
        next(between, None)


def test_scan_at_any_proxy_of_a_fleet(own: tuple[RedisCluster, ProxyProcess], new_proxy: Proxies) -> None:
    cluster, proxy = own
    other = new_proxy(cluster)
    keys = fill(proxy.port, 3000)
    found = scan([proxy.port, other.port], iter(()))
    assert len(found) == 3000, "nothing twice while nothing changes"
    assert set(found) == keys


def test_scan_while_slots_move(own: tuple[RedisCluster, ProxyProcess], new_proxy: Proxies) -> None:
    cluster, proxy = own
    other = new_proxy(cluster)
    keys = fill(proxy.port, 3000)

    def moves() -> Iterator[None]:
        for number in range(0, 40):
            slot = slot_of(f"key:{number * 7}".encode())
            source = cluster.master_of(slot)
            target = cluster.masters[(cluster.masters.index(source) + 1) % 3]
            for _ in cluster.move_slot(slot, target, batch=100):
                pass
            for port in (proxy.port, other.port):
                with Wire(port) as wire:  # it learns of the move by a redirection
                    wire.ask("GET", f"key:{number * 7}")
            for _ in range(4):
                yield None

    assert set(scan([proxy.port, other.port], moves())) >= keys


@pytest.mark.parametrize("protocol", [2, 3])
def test_scan_while_a_slot_is_half_moved(own: tuple[RedisCluster, ProxyProcess], protocol: int) -> None:
    """Its keys go to a master that has had its turn, before their own has: both have to be asked."""
    cluster, proxy = own
    keys = fill(proxy.port, 300)
    target, *_, source = cluster.masters
    tag = next(f"{{{number}}}" for number in range(1000) if cluster.master_of(f"{{{number}}}") is source)
    slot = slot_of(tag.encode())
    of_slot = {f"{tag}:{number}" for number in range(30)}
    with redis.Redis(port=proxy.port, protocol=protocol, decode_responses=True) as client:
        client.mset(dict.fromkeys(of_slot, "x"))
        steps = cluster.move_slot(slot, target)
        cursor, first = client.scan(0, count=target.call("DBSIZE"))
        assert len(first) == target.call("DBSIZE"), "the target has had its turn"
        next(steps)
        assert target.call("CLUSTER", "COUNTKEYSINSLOT", slot) == 10
        assert source.call("CLUSTER", "COUNTKEYSINSLOT", slot) == 20
        found, matching = set(first), set[str]()
        at = cursor
        while at:
            at, page = client.scan(at, count=1000)
            found.update(page)
        while cursor:
            cursor, page = client.scan(cursor, match=f"{tag}:?", count=1000)
            matching.update(page)
        assert found == keys | of_slot
        assert matching == {f"{tag}:{number}" for number in range(10)}


def test_scan_before_the_proxy_knows_of_a_move(new_cluster: Clusters, new_proxy: Proxies) -> None:
    """Nobody is redirected: the servers alone know that a slot has gone to a master that had its turn."""
    cluster = new_cluster(masters=3, replicas=0)
    proxy = new_proxy(cluster, cluster={"topology_interval": 1000})
    keys = fill(proxy.port, 300)
    target, *_, source = cluster.masters
    moved = next(key for key in sorted(keys) if cluster.master_of(key) is source)

    def move() -> Iterator[None]:
        for _ in cluster.move_slot(slot_of(moved.encode()), target):
            pass
        yield None

    assert set(scan([proxy.port], move(), count=target.call("DBSIZE"))) == keys


def test_a_small_database_is_scanned_in_one_call(own: tuple[RedisCluster, ProxyProcess]) -> None:
    _, proxy = own
    with Wire(proxy.port) as wire:
        assert wire.ask("SCAN", "0") == b"*2\r\n$1\r\n0\r\n*0\r\n"
        keys = fill(proxy.port, 8)
        found = wire.ask("SCAN", "0").split(b"\r\n")
        assert found[2] == b"0"
        assert {key.decode() for key in found[5:-1:2]} == keys


def test_scan_through_a_failover(new_cluster: Clusters, new_proxy: Proxies) -> None:
    cluster = new_cluster(masters=3, replicas=1)
    proxy = new_proxy(cluster)
    keys = fill(proxy.port, 3000)
    for master in cluster.masters:
        assert master.call("WAIT", 1, 10_000) == 1

    def failover() -> Iterator[None]:
        for _ in range(70):  # in the midst of the second shard
            yield None
        victim = shard_being_scanned(cluster)
        replica = cluster.replica_of(victim)
        victim.kill()
        wait_until("the replica is promoted", lambda: replica.role() == "master", 30)
        with Wire(proxy.port) as wire:
            assert wire.ask("MGET", *keys).startswith(b"*3000\r\n"), "the proxy has found the new master"

    assert set(scan([proxy.port], failover())) >= keys


def shard_being_scanned(cluster: RedisCluster) -> RedisServer:
    """Masters are scanned in the order of their slots."""
    return sorted(
        cluster.masters,
        key=lambda node: min(
            first for first, _, master, *_ in node.call("CLUSTER", "SLOTS") if master[1] == node.port
        ),
    )[1]


def test_cursors_that_nobody_gave(own: tuple[RedisCluster, ProxyProcess]) -> None:
    _, proxy = own
    with Wire(proxy.port) as wire:
        assert wire.ask("SCAN", "x") == b"-ERR invalid cursor\r\n"
        assert wire.ask("SCAN", "-1") == b"-ERR invalid cursor\r\n"
        assert wire.ask("SCAN", "0", "COUNT", "0") == b"-ERR syntax error\r\n"
        assert wire.ask("SCAN", str(2**64)) == b"-ERR invalid cursor\r\n"
        assert wire.ask("SCAN", "123456789").startswith(b"*2\r\n"), "as Redis, it takes any number"


def test_flushing_while_others_write(own: tuple[RedisCluster, ProxyProcess]) -> None:
    _, proxy = own
    done = threading.Event()

    def write() -> None:
        with Wire(proxy.port) as wire:
            while not done.is_set():
                assert wire.ask("MSET", "a", "1", "b", "2", "c", "3") == b"+OK\r\n"

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    with Wire(proxy.port) as wire:
        for _ in range(30):
            assert wire.ask("FLUSHALL") == b"+OK\r\n"
            assert int(wire.ask("DBSIZE")[1:-2]) <= 3
    done.set()
    for thread in threads:
        thread.join(10)
