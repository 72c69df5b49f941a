"""CLUSTER: the proxy as one node, under the address that is announced or that the client knows."""

import re
from itertools import pairwise

import pytest

from proxy.address import Address
from proxy.answers import Client, Fanout, answer
from proxy.topology import Shard, Topology
from tests.unit.context import StubContext, cluster_config, reply_to

COVERED = Topology((Shard(Address("a", 1), ((0, 16383),)),))
HALF = Topology((Shard(Address("a", 1), ((0, 8191),)),))


def ask(context: StubContext, line: str, *, protocol: int = 2, listener: str = "10.1.0.1:6379") -> bytes:
    client = Client(1, "10.0.0.1:1000", listener, protocol=protocol)
    return reply_to(client, context, line.encode().split(b" "))


def announcing(host: str, port: int = 7000) -> StubContext:
    return StubContext(cluster_config(announce_addr=Address(host, port)))


def bulks(reply: bytes) -> list[str]:
    lines = reply.decode().split("\r\n")
    return [text for size, text in pairwise(lines) if re.fullmatch(r"[$=]\d+", size)]


@pytest.mark.parametrize(
    ("context", "listener", "host", "port"),
    [
        (StubContext(), "10.1.0.1:6379", "10.1.0.1", 6379),
        (StubContext(), "::1:6379", "::1", 6379),
        (StubContext(), "/run/proxy.sock:0", "", 0),
        (announcing("10.2.0.1"), "10.1.0.1:6379", "10.2.0.1", 7000),
        (announcing("10.2.0.1"), "/run/proxy.sock:0", "10.2.0.1", 7000),
    ],
)
def test_one_node_has_all_slots(context: StubContext, listener: str, host: str, port: int) -> None:
    me = bulks(ask(context, "CLUSTER MYID", listener=listener))[0]
    assert re.fullmatch("[0-9a-f]{40}", me)
    assert ask(context, "CLUSTER SLOTS", listener=listener).decode() == (
        f"*1\r\n*3\r\n:0\r\n:16383\r\n*4\r\n${len(host)}\r\n{host}\r\n:{port}\r\n$40\r\n{me}\r\n*0\r\n"
    )
    (nodes,) = bulks(ask(context, "CLUSTER NODES", listener=listener))
    bus = port + 10000 if port else 0
    assert nodes == f"{me} {host}:{port}@{bus} myself,master - 0 0 1 connected 0-16383\n"
    shards = bulks(ask(context, "CLUSTER SHARDS", listener=listener))
    assert shards[:3] == ["slots", "nodes", "id"]
    assert shards[3:9] == [me, "port", "ip", host, "endpoint", host]
    assert "hostname" not in shards


def test_a_name_is_told_as_one() -> None:
    context = announcing("lb.example")
    (nodes,) = bulks(ask(context, "CLUSTER NODES"))
    assert nodes.split()[1] == "lb.example:7000@17000,lb.example"
    shards = bulks(ask(context, "CLUSTER SHARDS"))
    assert shards[5:11] == ["ip", "lb.example", "endpoint", "lb.example", "hostname", "lb.example"]


def test_ids_follow_from_the_address() -> None:
    def ids(context: StubContext, listener: str) -> tuple[str, ...]:
        found = (ask(context, f"CLUSTER {sub}", listener=listener) for sub in ("MYID", "MYSHARDID"))
        return tuple(bulks(reply)[0] for reply in found)

    assert ids(announcing("a"), "10.1.0.1:1") == ids(announcing("a"), "10.1.0.2:1")
    assert ids(StubContext(), "10.1.0.1:1") != ids(StubContext(), "10.1.0.2:1")
    assert len(set(ids(announcing("a"), "") + ids(announcing("b"), ""))) == 4


@pytest.mark.parametrize(
    ("topology", "state", "good"), [(None, "fail", 0), (HALF, "fail", 8192), (COVERED, "ok", 16384)]
)
def test_info_tells_of_the_cluster_behind(topology: Topology | None, state: str, good: int) -> None:
    reply = ask(StubContext(topology=topology), "CLUSTER INFO").decode()
    fields = dict(line.split(":") for line in reply.split("\r\n") if ":" in line)
    assert (fields["cluster_state"], fields["cluster_slots_ok"]) == (state, str(good))
    assert fields["cluster_slots_fail"] == str(16384 - good)
    assert (fields["cluster_size"], fields["cluster_known_nodes"]) == ("1", "1")


@pytest.mark.parametrize("protocol", [2, 3])
def test_slots_do_not_depend_on_what_is_covered(protocol: int) -> None:
    replies = {
        ask(StubContext(topology=topology), "CLUSTER SLOTS", protocol=protocol)
        for topology in (None, HALF, COVERED)
    }
    assert len(replies) == 1


@pytest.mark.parametrize("line", ["CLUSTER COUNTKEYSINSLOT 15495", "CLUSTER GETKEYSINSLOT 15495 10"])
def test_keys_of_a_slot_are_asked_of_its_owner(line: str) -> None:
    args = line.encode().split()
    found = answer(Client(1, "", "a:1"), StubContext(topology=COVERED), args)
    assert isinstance(found, Fanout)
    ((slot, request),) = found.parts
    assert slot == 15495
    assert request.split(b"\r\n")[2::2] == args
    assert found.readonly
    assert ask_of(line, b"-CLUSTERDOWN x\r\n") == b"-CLUSTERDOWN x\r\n"
    assert ask_of(line, b":7\r\n") == b":7\r\n"


def ask_of(line: str, reply: bytes) -> bytes:
    return reply_to(Client(1, "", "a:1"), StubContext(), line.encode().split(), {15495: reply})


@pytest.mark.parametrize("sub", ["REPLICAS", "SLAVES", "COUNT-FAILURE-REPORTS"])
def test_what_is_asked_of_a_node(sub: str) -> None:
    context = StubContext()
    (me,) = bulks(ask(context, "CLUSTER MYID"))
    nothing = b":0\r\n" if sub.startswith("COUNT") else b"*0\r\n"
    assert ask(context, f"CLUSTER {sub} {me}") == nothing
    assert ask(context, f"CLUSTER {sub} x") == b"-ERR Unknown node x\r\n"
