"""Slots that move while clients use them."""

import contextlib
import threading
from collections.abc import Callable, Iterator

from lab.processes import wait_until
from lab.proxy_process import ProxyProcess
from lab.redis_cluster import RedisCluster
from proxy.control import ReplyError
from proxy.slots import slot_of
from tests.cluster.test_failover import Writer
from tests.cluster.wire import Wire

Clusters = Callable[..., RedisCluster]
Proxies = Callable[..., ProxyProcess]
TAG = "{moving}"
SLOT = slot_of(b"moving")


@contextlib.contextmanager
def writing(proxy: ProxyProcess, writers: list[Writer]) -> Iterator[None]:
    """They write while the block runs; afterwards, none was told of an error, and all is there."""
    for writer in writers:
        writer.start()
    try:
        yield
    finally:
        for writer in writers:
            writer.finish()
    with Wire(proxy.port) as wire:
        for writer in writers:
            assert writer.refused == writer.unsure == 0
            assert not writer.wrong
            assert wire.ask("GET", writer.key).split(b"\r\n")[1] == b"%d" % writer.told


def wait_for_more(what: str, writers: list[Writer]) -> None:
    """Waits until each has written some more."""
    marks = [writer.told for writer in writers]
    wait_until(
        what, lambda: all(writer.told > mark + 20 for writer, mark in zip(writers, marks, strict=True))
    )


def test_a_slot_moves_there_and_back_under_load(new_cluster: Clusters, new_proxy: Proxies) -> None:
    cluster = new_cluster(masters=3, replicas=0)
    proxy = new_proxy(cluster)
    writers = [Writer(proxy.port, f"{TAG}:{i}") for i in range(30)]
    with Wire(proxy.port) as wire:
        wire.ask("MSET", *(word for i in range(200) for word in (f"{TAG}filler:{i}", "x")))
    with writing(proxy, writers):
        for _ in range(4):
            source = cluster.master_of(SLOT)
            target = next(node for node in cluster.masters if node is not source)
            for _ in cluster.move_slot(SLOT, target, batch=5):
                pass
    assert proxy.metric("redis_proxy_asked_total") > 0
    assert proxy.metric("redis_proxy_moved_total") > 0


def test_a_shard_is_added_and_removed_under_load(new_cluster: Clusters, new_proxy: Proxies) -> None:
    """Slot after slot goes to a new master, and back to the old ones, before it is taken away again."""
    cluster = new_cluster(masters=3, replicas=0)
    proxy = new_proxy(cluster)
    writers = [Writer(proxy.port, f"spread:{i}") for i in range(12)]
    slots = [slot_of(writer.key.encode()) for writer in writers]
    with Wire(proxy.port) as wire:
        for writer in writers:
            tag = f"{{{writer.key}}}"
            wire.ask("MSET", *(word for i in range(20) for word in (f"{tag}:{i}", "x")))
    with writing(proxy, writers):
        owners = [cluster.master_of(slot) for slot in slots]
        added = cluster.add_master()
        for slot in slots:
            for _ in cluster.move_slot(slot, added, batch=5):
                pass
        wait_for_more("the new one serves all of them", writers)
        assert proxy.metric("redis_proxy_server_connections", server=str(added.address)) > 0
        for slot, owner in zip(slots, owners, strict=True):
            for _ in cluster.move_slot(slot, owner, batch=5):
                pass
        wait_for_more("everyone has left the new one", writers)
        cluster.remove_master(added)
        gone = str(added.address)
        wait_until("it is no server any more", lambda: gone not in proxy.page("/metrics"))


def test_a_pipeline_on_a_moving_slot_is_executed_in_order(new_cluster: Clusters, new_proxy: Proxies) -> None:
    """SET, APPEND and GET of many keys, half of them moved, in one pipeline, again and again."""
    cluster = new_cluster(masters=3, replicas=0)
    proxy = new_proxy(cluster)
    source = cluster.master_of(SLOT)
    target = next(node for node in cluster.masters if node is not source)
    keys = [f"{TAG}:{i}" for i in range(40)]
    failures: list[object] = []
    done = threading.Event()

    def pipeline() -> None:
        with Wire(proxy.port) as wire:
            number = 0
            while not done.is_set() and not failures:
                number += 1
                data, expected = b"", []
                for key in keys:
                    for command in (("SET", key, str(number)), ("APPEND", key, "!"), ("GET", key)):
                        data += b"*%d\r\n" % len(command)
                        data += b"".join(b"$%d\r\n%b\r\n" % (len(word), word.encode()) for word in command)
                    text = f"{number}!"
                    expected += [
                        b"+OK\r\n",
                        b":%d\r\n" % len(text),
                        b"$%d\r\n%b\r\n" % (len(text), text.encode()),
                    ]
                wire.send(data)
                replies = wire.replies(len(expected))
                if replies != expected:
                    failures.append([(a, b) for a, b in zip(replies, expected, strict=True) if a != b][:5])

    thread = threading.Thread(target=pipeline)
    thread.start()
    try:
        for node in (target, source, target, source):
            for _ in cluster.move_slot(SLOT, node, batch=3):
                pass
    finally:
        done.set()
        thread.join(30)
    assert not failures
    assert proxy.metric("redis_proxy_asked_total") > 0


def test_multi_key_commands_wait_until_their_slot_is_whole_again(
    new_cluster: Clusters, new_proxy: Proxies
) -> None:
    """In the middle of a move some keys are there and some here: the servers say TRYAGAIN."""
    cluster = new_cluster(masters=3, replicas=0)
    proxy = new_proxy(cluster)
    keys = [f"{TAG}:{i}" for i in range(20)]
    target = next(node for node in cluster.masters if node is not cluster.master_of(SLOT))
    with Wire(proxy.port) as wire, Wire(proxy.port) as other:
        assert wire.ask("MSET", *(word for key in keys for word in (key, "v"))) == b"+OK\r\n"
        steps = cluster.move_slot(SLOT, target, batch=10)
        assert next(steps) == 10
        wire.send(
            b"*21\r\n$6\r\nEXISTS\r\n" + b"".join(b"$%d\r\n%b\r\n" % (len(key), key.encode()) for key in keys)
        )
        proxy.wait_for_metric("redis_proxy_retried_total", 3)
        left = cluster.master_of(SLOT).call("CLUSTER", "GETKEYSINSLOT", SLOT, 100)
        moved = next(key for key in keys if key.encode() not in left)
        assert other.ask("GET", moved) == other.ask("GET", left[0]) == b"$1\r\nv\r\n"
        for _ in steps:
            pass
        assert wire.reply() == b":20\r\n"


def test_a_master_that_gives_its_slots_away_is_left_and_nobody_notices(
    new_cluster: Clusters, new_proxy: Proxies
) -> None:
    cluster = new_cluster(masters=3, replicas=0)
    proxy = new_proxy(cluster, cluster={"topology_interval": 200})
    source = cluster.master_of(SLOT)
    target = next(node for node in cluster.masters if node is not source)
    with Wire(proxy.port) as wire:
        assert wire.ask("SET", TAG, "v") == b"+OK\r\n"
        for _ in cluster.move_slot(SLOT, target):
            pass
        ranges = [
            (first, last)
            for first, last, master, *_ in source.call("CLUSTER", "SLOTS")
            if master[1] == source.port
        ]
        target_id = target.id
        # The slots that are left hold no keys: they change hands at once.
        for node in (target, source, *cluster.masters):
            for first, last in ranges:
                for slot in range(first, last + 1):
                    with contextlib.suppress(ReplyError):  # the last slot gone, it follows the new master
                        node.call("CLUSTER", "SETSLOT", slot, "NODE", target_id)
        assert wire.ask("GET", TAG) == b"$1\r\nv\r\n"
        assert wire.ask("INCR", "counter") == b":1\r\n"
        gone = f"127.0.0.1:{source.port}"
        source_id = source.id
        source.kill()
        for node in cluster.running:
            node.call("CLUSTER", "FORGET", source_id)
        wait_until("it is no server of the cluster any more", lambda: gone not in proxy.page("/metrics"))
        assert wire.ask("INCR", "counter") == b":2\r\n"
