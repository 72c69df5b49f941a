"""Publish and subscribe through the proxy, compared with a plain server, and while servers are lost."""

import contextlib
import re
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis

from lab.processes import wait_until
from lab.proxy_process import ProxyProcess
from lab.redis_cluster import RedisCluster
from proxy.control import pack
from proxy.slots import slot_of
from tests.cluster.wire import Wire

Clusters = Callable[..., RedisCluster]
Proxies = Callable[..., ProxyProcess]

# Who says what (a to d), or nothing, and how many replies it gets then. A message is waited for before its
# channel is left: it comes from a server on another connection than the replies.
DIALOGUES = {
    "a channel": (
        "a SUBSCRIBE x 1; b PUBLISH x hello 1; a 1; b PUBLISH y hello 1; a UNSUBSCRIBE x 1;"
        " b PUBLISH x again 1"
    ),
    "several": "a SUBSCRIBE x y x 3; b PUBLISH y hello 1; a 1; a UNSUBSCRIBE y 1; a UNSUBSCRIBE 1; a PING 1",
    "a pattern": (
        "a PSUBSCRIBE x* y? 2; b PUBLISH xyz hello 1; a 1; a PING 1; b PUBLISH y hello 1; a PUNSUBSCRIBE y? 1"
    ),
    "both": "a SUBSCRIBE x 1; a PSUBSCRIBE x* 1; b PUBLISH x hello 1; b PUBLISH x again 1",
    "a shard channel": (
        "a SSUBSCRIBE {s}x {s}y 2; b SPUBLISH {s}x hello 1; a 1; a SUNSUBSCRIBE {s}x 1; a SUNSUBSCRIBE 1"
    ),
    "none": "a UNSUBSCRIBE 1; a PUNSUBSCRIBE 1; a SUNSUBSCRIBE 1; a UNSUBSCRIBE x y 2; a PING 1",
    "what else it may do": "a SUBSCRIBE x 1; a PING 1; a PING hello 1; a GET x 1; a SUBSCRIBE 1; a QUIT 1",
    "a reset": "a SUBSCRIBE x 1; a RESET 1; b PUBLISH x hello 1; a PING 1",
    "to itself": "a SUBSCRIBE x 1; a PUBLISH x hello 1",
    "many receivers": "a SUBSCRIBE x 1; b PSUBSCRIBE * 1; c SUBSCRIBE x 1; d PUBLISH x hello 1",
    "wrong arity": "a SUBSCRIBE 1; a PSUBSCRIBE 1; a SSUBSCRIBE 1; b PUBLISH x 1",
}


Heard = dict[str, list[bytes]]


def play(port: int, dialogue: str, protocol: int, mark: str, expected: Heard | None = None) -> Heard:
    """Every reply and message that each of the clients gets; at least as many as are expected.

    Names begin with ``mark``: what was published in another dialogue may still be on its way.
    """
    with Wire(port) as a, Wire(port) as b, Wire(port) as c, Wire(port) as d:
        clients = {"a": a, "b": b, "c": c, "d": d}
        heard: Heard = {who: [] for who in clients}
        for wire in clients.values():
            wire.ask("HELLO", protocol)
        for line in dialogue.split("; "):
            who, *words, count = line.split()
            if words:
                clients[who].send(
                    pack(*(re.sub("^([{]s[}])?([xy])", rf"\g<1>{mark}\g<2>", word) for word in words))
                )
            heard[who] += clients[who].replies(int(count))
        for who, wire in clients.items():
            heard[who] += wire.replies(max(0, len((expected or heard)[who]) - len(heard[who])))
            if "QUIT" not in dialogue or who != "a":
                # Whatever else has come before the answer to this.
                wire.send(pack("PING", "the end"))
                while b"the end" not in (reply := wire.reply()):
                    heard[who].append(reply)
    return heard


def is_message(reply: bytes) -> bool:
    return b"message\r\n" in reply


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("dialogue", DIALOGUES.values(), ids=DIALOGUES)
def test_it_is_as_with_a_plain_server(
    shared_proxy: ProxyProcess, plain: Any, dialogue: str, protocol: int
) -> None:
    """Replies come in order. Messages may come later: servers tell each other in their own time."""
    mark = f"{list(DIALOGUES.values()).index(dialogue)}.{protocol}."
    expected = play(plain.address.port, dialogue, protocol, mark)
    heard = play(shared_proxy.port, dialogue, protocol, mark, expected)
    for who, replies in expected.items():
        assert sorted(heard[who]) == sorted(replies)
        assert [reply for reply in heard[who] if not is_message(reply)] == [
            reply for reply in replies if not is_message(reply)
        ]


def test_what_is_published_in_a_transaction_arrives(shared_proxy: ProxyProcess) -> None:
    """Its receivers are counted where the transaction is, which may be another server than the channel's."""
    with Wire(shared_proxy.port) as wire, Wire(shared_proxy.port) as publisher:
        wire.ask("SUBSCRIBE", "x")
        publisher.send(pack("MULTI") + pack("PUBLISH", "x", "hello") + pack("EXEC"))
        assert publisher.replies(2) == [b"+OK\r\n", b"+QUEUED\r\n"]
        assert wire.reply() == b"*3\r\n$7\r\nmessage\r\n$1\r\nx\r\n$5\r\nhello\r\n"


def test_shard_channels_of_several_slots(shared_proxy: ProxyProcess) -> None:
    with Wire(shared_proxy.port) as wire:
        assert wire.ask("SSUBSCRIBE", "a", "b").startswith(b"-CROSSSLOT")
        assert wire.ask("SSUBSCRIBE", "a") == b"*3\r\n$10\r\nssubscribe\r\n$1\r\na\r\n:1\r\n"
        assert wire.ask("SSUBSCRIBE", "b") == b"*3\r\n$10\r\nssubscribe\r\n$1\r\nb\r\n:2\r\n"


def test_many_subscribers_of_many_channels(shared_proxy: ProxyProcess) -> None:
    channels = [f"many:{number}" for number in range(20)]
    with redis.Redis(port=shared_proxy.port) as publisher:
        clients = [redis.Redis(port=shared_proxy.port) for _ in range(30)]
        subscribers = [client.pubsub() for client in clients]  # type: ignore[no-untyped-call]
        for number, subscriber in enumerate(subscribers):
            subscriber.subscribe(*channels[: 1 + number % 20])
            for _ in range(1 + number % 20):
                subscriber.get_message(timeout=5)
        expected = [sum(1 + number % 20 > place for number in range(30)) for place in range(20)]
        assert [publisher.publish(channel, "m") for channel in channels] == expected
        for number, subscriber in enumerate(subscribers):
            got = [subscriber.get_message(timeout=5) for _ in range(1 + number % 20)]
            assert {message["channel"].decode() for message in got} == set(channels[: 1 + number % 20])
            subscriber.close()


def test_messages_do_not_break_into_replies(shared_proxy: ProxyProcess) -> None:
    """A RESP3 client that reads large values while messages come for it."""
    value = b"x" * 300_000
    with Wire(shared_proxy.port) as wire, Wire(shared_proxy.port) as publisher:
        wire.ask("HELLO", 3)
        wire.ask("SET", "large", value)
        wire.ask("SUBSCRIBE", "noise")
        done = threading.Event()

        def publish() -> None:
            while not done.is_set():
                publisher.ask("PUBLISH", "noise", "n")

        thread = threading.Thread(target=publish)
        thread.start()
        try:
            values = pushes = 0
            for _ in range(40):
                wire.send(pack("GET", "large"))
                while (reply := wire.reply()).startswith(b">"):
                    pushes += 1
                    assert reply == b">3\r\n$7\r\nmessage\r\n$5\r\nnoise\r\n$1\r\nn\r\n"
                assert reply == b"$300000\r\n%b\r\n" % value
                values += 1
        finally:
            done.set()
            thread.join(10)
        assert values == 40
        assert pushes


def test_keyspace_notifications_come_from_every_master(new_cluster: Clusters, new_proxy: Proxies) -> None:
    cluster = new_cluster(masters=3, replicas=0)
    for master in cluster.masters:
        master.call("CONFIG", "SET", "notify-keyspace-events", "KEA")
    proxy = new_proxy(cluster)
    keys = [f"key:{number}" for number in range(30)]
    with Wire(proxy.port) as wire, Wire(proxy.port) as all_, Wire(proxy.port) as writer:
        wire.ask("PSUBSCRIBE", "__keyspace@0__:key:*")
        all_.ask("PSUBSCRIBE", "*")
        assert writer.ask("PUBSUB", "NUMPAT") == b":2\r\n"
        for key in keys:
            writer.ask("SET", key, "x")
        told = {wire.reply().split(b"\r\n")[6] for _ in keys}
        assert told == {b"__keyspace@0__:%b" % key.encode() for key in keys}
        # A pattern that matches them and others gets each once.
        for number in range(10):
            assert writer.ask("PUBLISH", "other", str(number)) == b":1\r\n"
        heard = [all_.reply().split(b"\r\n")[6::2] for _ in range(2 * len(keys) + 10)]
        assert [channel for channel, _ in map(tuple, heard) if channel == b"other"] == [b"other"] * 10
        all_.send(pack("PING", "the end"))
        assert b"the end" in all_.reply()


def test_messages_come_in_the_order_they_were_published_in(shared_proxy: ProxyProcess) -> None:
    """Whatever the channel, and whichever pattern it matches."""
    with Wire(shared_proxy.port) as wire, Wire(shared_proxy.port) as publisher:
        wire.send(pack("PSUBSCRIBE", "o.a*", "o.b*") + pack("SUBSCRIBE", "o.c"))
        wire.replies(3)
        expected = []
        for number in range(100):
            channel = f"o.{'abc'[number % 3]}"
            assert publisher.ask("PUBLISH", channel, f"<{number}>") == b":1\r\n"
            expected.append(b"<%d>" % number)
        assert [reply.split(b"\r\n")[-2] for reply in wire.replies(100)] == expected


def test_a_lost_server_is_made_up_for(new_cluster: Clusters, new_proxy: Proxies) -> None:
    """Whoever was subscribed there is subscribed anew; it need not do anything for that."""
    cluster = new_cluster(masters=3, replicas=1)
    proxy = new_proxy(cluster)
    victim = cluster.master_of(0)  # where all channels and patterns are
    shard_channel = next(name for name in map(str, range(99)) if cluster.master_of(name) is victim)
    replica = cluster.replica_of(victim)
    with Wire(proxy.port) as wire, Wire(proxy.port) as shard, Wire(proxy.port) as publisher:
        wire.ask("SUBSCRIBE", "news")
        wire.ask("PSUBSCRIBE", "new?")
        shard.ask("SSUBSCRIBE", shard_channel)
        assert publisher.ask("PUBLISH", "news", "before") == b":2\r\n"
        assert wire.replies(2)[0].endswith(b"before\r\n")
        victim.kill()
        wait_until("the replica is promoted", lambda: replica.role() == "master", 30)
        # What is published before they are subscribed anew is lost.
        wire.socket.settimeout(0.2)
        shard.socket.settimeout(0.2)

        def arrives(subscriber: Wire, *publish: str) -> bool:
            publisher.ask(*publish)
            with contextlib.suppress(TimeoutError):
                return subscriber.reply().endswith(b"after\r\n")
            return False

        wait_until("a message arrives again", lambda: arrives(wire, "PUBLISH", "news", "after"), 20)
        wait_until(
            "and one to the shard channel", lambda: arrives(shard, "SPUBLISH", shard_channel, "after"), 20
        )


def test_a_shard_channel_goes_where_its_slot_goes(new_cluster: Clusters, new_proxy: Proxies) -> None:
    cluster = new_cluster(masters=3, replicas=0)
    proxy = new_proxy(cluster)
    slot = slot_of(b"news")
    target = next(node for node in cluster.masters if node is not cluster.master_of(slot))
    with Wire(proxy.port) as wire, Wire(proxy.port) as publisher:
        wire.ask("SSUBSCRIBE", "news")
        for _ in cluster.move_slot(slot, target):
            pass
        # What is published while it moves may be lost.
        wait_until("it is subscribed there", lambda: target.call("PUBSUB", "SHARDNUMSUB", "news")[1] == 1, 20)
        wire.socket.settimeout(1)
        for _ in range(20):
            assert publisher.ask("SPUBLISH", "news", "m") == b":1\r\n"
            with contextlib.suppress(TimeoutError):
                assert wire.reply() == b"*3\r\n$8\r\nsmessage\r\n$4\r\nnews\r\n$1\r\nm\r\n"
                return
        raise AssertionError("no message arrives")


def test_a_server_holds_one_subscription_for_all(cluster: RedisCluster, shared_proxy: ProxyProcess) -> None:
    def at_servers() -> int:
        return sum(master.call("PUBSUB", "NUMSUB", "shared")[1] for master in cluster.masters)

    wires = [Wire(shared_proxy.port) for _ in range(20)]
    for wire in wires:
        wire.ask("SUBSCRIBE", "shared")
    assert at_servers() <= 2, "one for each worker"
    with Wire(shared_proxy.port) as publisher:
        assert publisher.ask("PUBLISH", "shared", "m") == b":20\r\n"
    for wire in wires:
        assert wire.reply() == b"*3\r\n$7\r\nmessage\r\n$6\r\nshared\r\n$1\r\nm\r\n"
        wire.close()
    wait_until("nobody is subscribed any more", lambda: at_servers() == 0)


def test_a_subscriber_that_reads_nothing_is_closed(cluster: RedisCluster, new_proxy: Proxies) -> None:
    proxy = new_proxy(cluster, proxy={"output_limit": 2_000_000, "output_pause": 1_000_000})
    with Wire(proxy.port) as wire, Wire(proxy.port) as other, Wire(proxy.port) as publisher:
        wire.ask("SUBSCRIBE", "flood")
        other.ask("SUBSCRIBE", "trickle")
        deadline = time.monotonic() + 30
        while publisher.ask("PUBLISH", "flood", b"x" * 100_000) != b":0\r\n":
            assert time.monotonic() < deadline
        assert publisher.ask("PUBLISH", "trickle", "m") == b":1\r\n"
        assert other.reply().endswith(b"m\r\n")
    assert proxy.metric("redis_proxy_output_overflows_total") == 1
