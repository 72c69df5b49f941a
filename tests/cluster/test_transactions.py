"""MULTI, EXEC, DISCARD, WATCH and UNWATCH, compared with a plain server, and while the cluster changes."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from lab.processes import wait_until
from lab.proxy_process import ProxyProcess
from lab.redis_cluster import RedisCluster
from proxy.control import pack
from proxy.slots import slot_of
from tests.cluster.wire import Wire

Clusters = Callable[..., RedisCluster]
Proxies = Callable[..., ProxyProcess]

TAG = "{moving}"
SLOT = slot_of(b"moving")
NIL = {2: b"*-1\r\n", 3: b"_\r\n"}

SCRIPTS = {
    "a transaction": "MULTI; SET {t}a 1; INCR {t}a; GET {t}a; EXEC; GET {t}a",
    "commands of every kind": (
        "MULTI; PING; ECHO x; MSET {t}a 1 {t}b 2; MGET {t}a {t}b; DEL {t}a {t}b; BLPOP {t}l 0; "
        "XADD {t}s 1-1 f v; XREAD BLOCK 0 STREAMS {t}s 0; EVAL return{1} 0; OBJECT HELP; SELECT 0; "
        "EVAL return{KEYS[1]} 1 {t}a; ZUNIONSTORE {t}z 1 {t}y; SORT {t}l; EXEC"
    ),
    "an error while it is executed": "SET {t}a x; MULTI; INCR {t}a; SET {t}a y; EXEC; GET {t}a",
    "an error while it is queued": "MULTI; SET {t}a; SET {t}a 1; EXEC; GET {t}a; EXEC",
    "an unknown command": "MULTI; NOSUCH; EXEC",
    "nothing": "MULTI; EXEC; WATCH {t}a; MULTI; EXEC",
    "discarded": "MULTI; SET {t}a 1; DISCARD; GET {t}a; EXEC; DISCARD",
    "nested": "MULTI; MULTI; SET {t}a 1; EXEC",
    "watched": "WATCH {t}a {t}b; GET {t}a; MULTI; SET {t}a 1; EXEC; MULTI; SET {t}a 2; EXEC",
    "changed by itself": "WATCH {t}a; SET {t}a 1; MULTI; SET {t}a 2; EXEC; MULTI; SET {t}a 3; EXEC; GET {t}a",
    "unwatched": "WATCH {t}a; SET {t}a 1; UNWATCH; MULTI; SET {t}a 2; EXEC",
    "unwatched within": "WATCH {t}a; SET {t}a 1; MULTI; UNWATCH; SET {t}a 2; EXEC",
    "discarding unwatches": "WATCH {t}a; MULTI; DISCARD; SET {t}a 1; MULTI; SET {t}a 2; EXEC",
    "an aborted one unwatches": "WATCH {t}a; MULTI; NOSUCH; EXEC; SET {t}a 1; MULTI; GET {t}a; EXEC",
    "watched within": "MULTI; WATCH {t}a; SET {t}a 1; EXEC",
    "watched twice": "WATCH {t}a; WATCH {t}b; SET {t}b 1; MULTI; GET {t}a; EXEC",
    "reset": "MULTI; SET {t}a 1; RESET; GET {t}a; WATCH {t}a; RESET; SET {t}a 1; MULTI; GET {t}a; EXEC",
    "wrong arity": "MULTI x; WATCH; EXEC x; DISCARD x; UNWATCH x",
}


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_replies_are_those_of_a_plain_server(
    shared_proxy: ProxyProcess, plain: Any, script: str, protocol: int
) -> None:
    commands = [line.split() for line in script.split("; ")]
    names = [f"{{t}}{name}" for name in "ablsyz"]
    for pipelined in (False, True):
        found = []
        for port in (shared_proxy.port, plain.address.port):
            with Wire(port) as wire:
                wire.ask("HELLO", protocol)
                wire.ask("DEL", *names)
                if pipelined:
                    wire.send(b"".join(pack(*command) for command in commands))
                    found.append(wire.replies(len(commands)))
                else:
                    found.append([wire.ask(*command) for command in commands])
        assert found[0] == found[1]


@pytest.mark.parametrize("protocol", [2, 3])
def test_somebody_else_changes_what_is_watched(shared_proxy: ProxyProcess, protocol: int) -> None:
    with Wire(shared_proxy.port) as one, Wire(shared_proxy.port) as other:
        one.ask("HELLO", protocol)
        assert one.ask("SET", "watched", "1") == b"+OK\r\n"
        assert one.ask("WATCH", "watched") == b"+OK\r\n"
        assert other.ask("SET", "watched", "2") == b"+OK\r\n"
        one.ask("MULTI")
        one.ask("SET", "watched", "3")
        assert one.ask("EXEC") == NIL[protocol]
        assert one.ask("GET", "watched") == b"$1\r\n2\r\n"


def test_what_cannot_be_in_a_transaction_aborts_it(shared_proxy: ProxyProcess) -> None:
    refused = {
        ("SET", "elsewhere", "x"): b"-CROSSSLOT",
        ("MGET", "a", "b"): b"-CROSSSLOT",
        ("DBSIZE",): b"-ERR Command not allowed inside a transaction",
        ("SUBSCRIBE", "x"): b"-ERR Command not allowed inside a transaction",
        ("CLIENT", "ID"): b"-ERR Command not allowed inside a transaction",
    }
    with Wire(shared_proxy.port) as wire:
        for command, error in refused.items():
            wire.ask("MULTI")
            assert wire.ask("SET", "here", "x") == b"+QUEUED\r\n"
            assert wire.ask(*command).startswith(error)
            assert wire.ask("EXEC").startswith(b"-EXECABORT")
        assert wire.ask("EXISTS", "here") == b":0\r\n"
        assert wire.ask("WATCH", "a") == b"+OK\r\n"
        assert wire.ask("WATCH", "b").startswith(b"-CROSSSLOT")
        assert wire.ask("UNWATCH") == b"+OK\r\n"


def test_transactions_of_many_sessions_do_not_mix(shared_proxy: ProxyProcess) -> None:
    """Each reads and writes in one transaction: whatever comes between would be seen."""

    def work(number: int) -> None:
        with Wire(shared_proxy.port) as wire:
            for turn in range(50):
                value = b"%d:%d" % (number, turn)
                wire.send(pack("MULTI") + pack("SET", "{mix}x", value) + pack("GET", "{mix}x") + pack("EXEC"))
                replies = wire.replies(4)
                if replies[3] != b"*2\r\n+OK\r\n$%d\r\n%b\r\n" % (len(value), value):
                    wrong.append(replies)

    wrong: list[object] = []
    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not wrong


def test_watching_counters_loses_no_increment(shared_proxy: ProxyProcess) -> None:
    """The textbook loop: WATCH, GET, MULTI, SET, EXEC, again until EXEC succeeds."""

    def work() -> None:
        with Wire(shared_proxy.port) as wire:
            done = 0
            while done < 25:
                wire.ask("WATCH", "cas")
                value = int(wire.ask("GET", "cas").split(b"\r\n")[1])
                wire.ask("MULTI")
                wire.ask("SET", "cas", str(value + 1))
                done += wire.ask("EXEC") == b"*1\r\n+OK\r\n"

    with Wire(shared_proxy.port) as wire:
        wire.ask("SET", "cas", "0")
        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert wire.ask("GET", "cas") == b"$3\r\n150\r\n"


def test_a_transaction_follows_its_slot(new_cluster: Clusters, new_proxy: Proxies) -> None:
    """ASK and MOVED discard it on the server; it is sent whole to where its keys are now."""
    cluster = new_cluster(masters=3, replicas=0)
    proxy = new_proxy(cluster)
    target = next(node for node in cluster.masters if node is not cluster.master_of(SLOT))
    with Wire(proxy.port) as wire:
        keys = [f"{TAG}:{number}" for number in range(20)]
        wire.ask("MSET", *(word for key in keys for word in (key, "1")))
        for _ in cluster.move_slot(SLOT, target, batch=4):
            for key in keys:
                wire.send(pack("MULTI") + pack("INCR", key) + pack("INCR", key) + pack("EXEC"))
                first = wire.replies(4)[3]
                value = int(first.split(b"\r\n")[1][1:])
                assert first == b"*2\r\n:%d\r\n:%d\r\n" % (value, value + 1)
        values = wire.ask("MGET", *keys).split(b"\r\n")[2::2]
        assert len(set(values)) == 1
    assert proxy.metric("redis_proxy_asked_total") > 0


def test_a_transaction_over_keys_half_moved_waits_until_they_are_together(
    new_cluster: Clusters, new_proxy: Proxies
) -> None:
    cluster = new_cluster(masters=3, replicas=0)
    proxy = new_proxy(cluster)
    target = next(node for node in cluster.masters if node is not cluster.master_of(SLOT))
    with Wire(proxy.port) as wire:
        keys = [f"{TAG}:{number}" for number in range(20)]
        wire.ask("MSET", *(word for key in keys for word in (key, "1")))
        steps = cluster.move_slot(SLOT, target, batch=10)
        assert next(steps) == 10
        wire.send(pack("MULTI") + b"".join(pack("INCR", key) for key in keys) + pack("EXEC"))
        proxy.wait_for_metric("redis_proxy_retried_total", 3)
        for _ in steps:
            pass
        replies = wire.replies(22)
        assert replies[-1] == b"*20\r\n" + 20 * b":2\r\n"


@pytest.mark.parametrize("protocol", [2, 3])
def test_what_is_watched_moves_away(new_cluster: Clusters, new_proxy: Proxies, protocol: int) -> None:
    cluster = new_cluster(masters=3, replicas=0)
    proxy = new_proxy(cluster)
    target = next(node for node in cluster.masters if node is not cluster.master_of(SLOT))
    with Wire(proxy.port) as wire:
        wire.ask("HELLO", protocol)
        wire.ask("SET", TAG, "1")
        assert wire.ask("WATCH", TAG) == b"+OK\r\n"
        for _ in cluster.move_slot(SLOT, target):
            pass
        wire.ask("MULTI")
        wire.ask("SET", TAG, "2")
        assert wire.ask("EXEC") == NIL[protocol]
        assert wire.ask("GET", TAG) == b"$1\r\n1\r\n"
        wire.ask("WATCH", TAG)
        wire.ask("MULTI")
        wire.ask("SET", TAG, "2")
        reply = wire.ask("EXEC")
        if reply == NIL[protocol]:  # it was watched where a stale topology said; it is known better now
            wire.ask("WATCH", TAG)
            wire.ask("MULTI")
            wire.ask("SET", TAG, "2")
            reply = wire.ask("EXEC")
        assert reply == b"*1\r\n+OK\r\n"


def test_a_failover_while_watching_is_an_abort(new_cluster: Clusters, new_proxy: Proxies) -> None:
    cluster = new_cluster(masters=3, replicas=1)
    proxy = new_proxy(cluster)
    victim = cluster.master_of("watched")
    replica = cluster.replica_of(victim)
    with Wire(proxy.port) as wire:
        wire.ask("SET", "watched", "1")
        assert wire.ask("WAIT", "1", "5000") == b":1\r\n"
        assert wire.ask("WATCH", "watched") == b"+OK\r\n"
        wire.ask("MULTI")
        assert wire.ask("SET", "watched", "2") == b"+QUEUED\r\n"
        victim.kill()
        wait_until("the replica is promoted", lambda: replica.role() == "master", 30)
        assert wire.ask("EXEC") == NIL[2]
        assert wire.ask("GET", "watched") == b"$1\r\n1\r\n"
        wire.send(pack("MULTI") + pack("SET", "watched", "3") + pack("EXEC"))
        assert wire.replies(3)[2] == b"*1\r\n+OK\r\n"


def test_a_master_that_dies_in_a_transaction(new_cluster: Clusters, new_proxy: Proxies) -> None:
    """It is not known whether it was executed: that is said, and it is not executed again."""
    cluster = new_cluster(masters=3, replicas=1)
    proxy = new_proxy(cluster)
    victim = cluster.master_of("x")
    with Wire(proxy.port) as wire, Wire(proxy.port) as reader:
        wire.ask("SET", "x", "1")
        victim.pause()
        wire.send(pack("MULTI") + pack("INCR", "x") + pack("EXEC"))
        assert wire.replies(2) == [b"+OK\r\n", b"+QUEUED\r\n"]
        reader.send(pack("MULTI") + pack("EXISTS", "x") + pack("EXEC"))
        assert reader.replies(2) == [b"+OK\r\n", b"+QUEUED\r\n"]
        victim.kill()
        assert b"outcome of this command is unknown" in wire.reply()
        # What only reads is asked again.
        assert reader.reply() == b"*1\r\n:1\r\n"
        assert wire.ask("INCR", "x") == b":2\r\n"


def test_so_many_may_watch_and_no_more(cluster: RedisCluster, new_proxy: Proxies) -> None:
    proxy = new_proxy(cluster, proxy={"threads": 1}, cluster={"pinned_connections": 2})
    with Wire(proxy.port) as one, Wire(proxy.port) as two, Wire(proxy.port) as three:
        assert one.ask("WATCH", "a") == two.ask("WATCH", "a") == b"+OK\r\n"
        assert b"pinned_connections" in three.ask("WATCH", "a")
        assert b"pinned_connections" in three.ask("BLPOP", "a", "0")
        assert b"pinned_connections" in three.ask("WAIT", "0", "0")
        one.ask("UNWATCH")
        assert three.ask("WATCH", "a") == b"+OK\r\n"
        two.close()
        wait_until("a client that ends frees its place", lambda: one.ask("WATCH", "a") == b"+OK\r\n")


def test_a_transaction_larger_than_a_request_may_be(cluster: RedisCluster, new_proxy: Proxies) -> None:
    proxy = new_proxy(cluster, proxy={"query_limit": 10_000})
    with Wire(proxy.port) as wire:
        wire.ask("MULTI")
        assert wire.ask("SET", "a", "x" * 6000) == b"+QUEUED\r\n"
        assert b"query_limit" in wire.ask("SET", "a", "x" * 6000)
        assert wire.ask("EXEC").startswith(b"-EXECABORT")
